"""A history for the eye: what matters of it, each event on a line of words, the rest counted.

Pure: events in, lines out.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Sequence

import attrs

from mqcore_conformance.histories import (
    Appended,
    Completed,
    CursorCommitted,
    CursorSeen,
    Drained,
    Event,
    FaultInjected,
    FetchAnswered,
    FetchFailed,
    Flushed,
    Invoked,
    LivenessObserved,
    LogRecovered,
    NameClaimed,
    Phase,
    Probed,
    Seeked,
    Setting,
    Started,
    Witnessed,
    to_json,
)

DETAIL_CHARS_MAX = 200
ALIKE_MAX = 4
"""Events in a row that differ in nothing that matters; of more, the first two and the last are shown."""
_REPEATS = re.compile(r"\b([a-z][a-z0-9-]*)(?:, \1\b)+")


def without_repeats(text: str) -> str:
    """Return a text in which ``kill, kill, kill`` stands as ``3 x kill``."""
    return _REPEATS.sub(lambda found: f"{found[0].count(found[1])} x {found[1]}", text)


@attrs.frozen
class TimelineRow:
    """One line: ``number`` of the event (empty for a gap), its time, kind and detail; ``marked`` by a violation."""

    number: str
    time: str
    what: str
    detail: str
    marked: bool = False
    fault: bool = False


def timeline(
    history: Sequence[Event], marked: Iterable[int], *, near: int = 8, lines_max: int = 120
) -> list[TimelineRow]:
    """Return the turning points of a run, and what lies ``near`` the ``marked`` events, at most ``lines_max`` of it."""
    marks = {index for index in marked if 0 <= index < len(history)}
    by_rank = [sorted(marks)]
    for distance in range(1, near + 1):
        by_rank.append([index + step for index in sorted(marks) for step in (-distance, distance)])
        if distance == 2:
            by_rank.append([index for index, event in enumerate(history) if _is_turning_point(event)])
    shown: dict[int, None] = {}
    for index in (index for rank in by_rank for index in rank):
        if 0 <= index < len(history) and len(shown) < lines_max:
            shown[index] = None
    rows: list[TimelineRow] = []
    previous = -1
    for index in _without_monotony(history, sorted(shown), marks):
        if index > previous + 1:
            rows.append(TimelineRow("", "", "...", f"{index - previous - 1} events"))
        what, detail = tell_event(history[index])
        fault = isinstance(history[index], FaultInjected)
        time = f"{history[index].time_us / 1e6:.6f} s"
        rows.append(TimelineRow(str(index), time, what, detail[:DETAIL_CHARS_MAX], index in marks, fault))
        previous = index
    if previous < len(history) - 1:
        rows.append(TimelineRow("", "", "...", f"{len(history) - 1 - previous} events"))
    return rows


def _without_monotony(history: Sequence[Event], indices: Sequence[int], marks: set[int]) -> list[int]:
    """Return the indices without the middle of long rows of events of one kind."""
    kept: list[int] = []
    for _, group in itertools.groupby(indices, lambda index: (index in marks, tell_event(history[index])[0])):
        alike = list(group)
        kept += alike if len(alike) <= ALIKE_MAX or alike[0] in marks else [*alike[:2], alike[-1]]
    return kept


def _is_turning_point(event: Event) -> bool:
    if isinstance(event, Flushed):
        return event.failed
    if isinstance(event, LivenessObserved):
        return event.took_us < 0 or event.took_us > event.bound_us
    return isinstance(event, Setting | Started | FaultInjected | Phase | Seeked | Drained | FetchFailed | Probed)


def tell_event(event: Event) -> tuple[str, str]:
    """Return what kind of event it is, and the rest in words."""
    match event:
        case Setting():
            levels = f"append reaches {event.append_level}, flush {event.flush_level}"
            return "setting", f"{event.storage} over {event.transport}; {levels}; flush {event.topics[0].flush}"
        case Started():
            return "broker serves", f"{event.by}, epoch {event.epoch}, identity {event.identity}"
        case FaultInjected():
            bit = f"; hits {event.hit}" if event.hit else ""
            return event.kind, f"{event.by}{bit}{'; ' + event.detail if event.detail else ''}"
        case Invoked():
            how = " idempotent" * event.idempotent + " one-way" * event.one_way
            size = f"{len(event.messages)} messages, {event.size_bytes} bytes"
            return "send", f"{event.send} try {event.attempt} to {event.partition}: {size}, {event.policy}{how}"
        case Completed() if event.outcome == "acknowledged":
            again = ", duplicate" * event.duplicate
            receipt = f"offset {event.offset}, epoch {event.epoch}, level {event.level}"
            return "acknowledged", f"{event.send} try {event.attempt}: {receipt}, by {event.by}{again}"
        case Completed():
            return event.outcome, f"{event.send} try {event.attempt} {event.code}".rstrip()
        case Appended():
            place = f"bytes {event.position} to {event.end_position}"
            offsets = f"offsets {event.base_offset} to {event.next_offset - 1}"
            return "appended", f"{event.partition}: {offsets}, {place}, epoch {event.epoch}"
        case Flushed():
            ends = ", ".join(f"{name} up to {end}" for name, end in event.ends)
            return ("flush failed" if event.failed else "flushed"), f"{event.by}: {ends}"
        case FetchAnswered():
            count = sum(len(batch.messages) for batch in event.batches)
            ends = f"log starts at {event.start_offset}, committed {event.committed_offset}"
            return "read", f"{event.process} {event.partition} from {event.offset}: {count} messages; {ends}"
        case FetchFailed():
            where = f", point {event.point}" if event.point >= 0 else ""
            return "read refused", f"{event.process} {event.partition} at {event.offset}: {event.code}{where}"
        case Seeked():
            return "seek", f"{event.process} {event.partition} to {event.offset}: {event.why}"
        case CursorSeen() | CursorCommitted() | NameClaimed():
            return _tell_kept(event)
        case Phase():
            return f"{event.name} phase", ""
        case Drained():
            return "drained", f"{event.partition}: offsets {event.start_offset} to {event.end_offset}"
        case LivenessObserved():
            took = f"took {event.took_us / 1e3:.0f} ms" if event.took_us >= 0 else "never came"
            return "liveness", f"{event.what} {took}, bound {event.bound_us / 1e3:.0f} ms {event.reason}".rstrip()
        case Probed():
            answer = "holds" if event.holds else "does not hold"
            return "probe", f"{event.clause}: {event.question}: {answer} {event.observed}".rstrip()
        case LogRecovered():
            return "recovered", f"{event.partition} by {event.way}: {event.content}"
        case Witnessed():
            return "witnesses", ", ".join(f"{name} {count}" for name, count in event.counts.items() if count)
        case _:
            plain = json.loads(to_json(event))
            return str(plain.pop("event", "event")), json.dumps(plain, ensure_ascii=False)


def _tell_kept(event: CursorSeen | CursorCommitted | NameClaimed) -> tuple[str, str]:
    if isinstance(event, NameClaimed):
        return "name", f"{event.name} given to {event.process}: epoch {event.epoch}, last stored {event.last}"
    text = f"{event.group} in {event.partition}: {event.offset} of epoch {event.epoch}"
    if isinstance(event, CursorSeen):
        return "cursor", f"{text}, {event.status}" if event.status else text
    in_force = f", {event.in_force} in force" if event.outcome == "done" else ""
    return "cursor committed", f"{text}: {event.outcome}{in_force}"
