"""G16, and G15 of producers with a name: what brokers keep for clients beside messages.

Cursors and names are kept under the strongest policy of the set, whatever the topic's is: flushed, and held by every
member of the set. So no fault of these runs excuses a loss of them, where the storage keeps anything at all.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterator

from mqcore.guarantees import Level
from mqcore_conformance.checkers._facts import Facts
from mqcore_conformance.histories import CursorCommitted, CursorSeen, NameClaimed
from mqcore_conformance.verdicts import Anomaly, Violation

Cursor = tuple[int, int]
NONE: Cursor = (-1, 0)


def check_g16(facts: Facts) -> Iterator[Violation]:
    """A cursor is what was committed last; it goes back over a loss only that its reader was told of."""
    if not _keeps(facts):
        return
    events: dict[tuple[str, str], list[tuple[int, CursorSeen | CursorCommitted]]] = defaultdict(list)
    for index, event in enumerate(facts.history):
        if isinstance(event, CursorSeen | CursorCommitted):
            events[event.group, event.partition].append((index, event))
    for (group, partition), found in events.items():
        yield from _CursorOf(facts, group, partition).check(found)


def _keeps(facts: Facts) -> bool:
    return facts.flush_level >= Level.DISK


class _CursorOf:
    """One cursor, event by event: what it is, and what it may be because the outcome of a commit is not known."""

    def __init__(self, facts: Facts, group: str, partition: str) -> None:
        self.facts = facts
        self.group = group
        self.partition = partition
        self.current = NONE
        self.known_at = 0
        self.possible: list[Cursor] = []
        self.left_over_losses: list[range] = []
        """Offsets at one of which a commit of unknown outcome, made over a loss, may have left it."""

    def check(self, events: list[tuple[int, CursorSeen | CursorCommitted]]) -> Iterator[Violation]:
        for index, event in events:
            yield from self._seen(index, event) if isinstance(event, CursorSeen) else self._committed(index, event)

    def _seen(self, index: int, event: CursorSeen) -> Iterator[Violation]:
        cursor = (event.offset, event.epoch) if event.offset >= 0 else NONE
        is_told_loss = any(cursor[0] in offsets for offsets in self.left_over_losses)
        if cursor != self.current and cursor not in self.possible and not is_told_loss:
            yield self._wrong(index, f"is at {_text(cursor)} (event {index})")
        self.current, self.known_at = cursor, index
        if event.status:
            yield from self._check_status(index, cursor, event.status)

    def _check_status(self, index: int, cursor: Cursor, status: str) -> Iterator[Violation]:
        log = self.facts.log(self.partition)
        offset, epoch = cursor
        if not log.complete or offset <= log.start_offset:
            return
        is_there = log.messages.get(offset - 1, (0, ""))[0] == epoch
        if is_there is (status == "diverged"):
            which = "is in the log" if is_there else "is not in the log's history"
            text = f"the cursor of {self.group} at {_text(cursor)} {which}, and is told as {status} (event {index})"
            yield Violation("G16", Anomaly.DIVERGED, text, self.partition, (index,))

    def _committed(self, index: int, event: CursorCommitted) -> Iterator[Violation]:
        asked = (event.offset, event.epoch)
        if event.outcome == "unknown":
            self.possible.append(asked)
            if event.is_diverged:
                self.left_over_losses.append(range(event.offset, self.current[0]))
        if event.outcome != "done":
            return
        told = (event.in_force, event.in_force_epoch)
        goes_back = told[0] < self.current[0]
        is_kept = told[0] >= asked[0] and (told == self.current or told in self.possible)
        if goes_back and not event.is_diverged:
            yield self._wrong(index, f"goes back to {_text(told)} with a commit (event {index})")
        elif goes_back and self._is_in_log(self.current):
            yield self._wrong(index, f"is sent back to {_text(told)} (event {index}), and the log has what was read")
        elif told != asked and not is_kept and not event.is_diverged:
            yield self._wrong(index, f"was committed at {_text(asked)} and is told to be {_text(told)} (event {index})")
        self.current, self.known_at, self.possible, self.left_over_losses = told, index, [], []

    def _is_in_log(self, cursor: Cursor) -> bool:
        log = self.facts.log(self.partition)
        return log.complete and log.messages.get(cursor[0] - 1, (0, ""))[0] == cursor[1]

    def _wrong(self, index: int, text: str) -> Violation:
        known = f"the cursor of {self.group} was {_text(self.current)} at event {self.known_at}"
        anomaly = Anomaly.NONMONOTONIC_POLL
        return Violation("G16", anomaly, f"{known}, and {text}", self.partition, (self.known_at, index))


def _text(cursor: Cursor) -> str:
    return f"offset {cursor[0]} of epoch {cursor[1]}"


def check_names(facts: Facts) -> Iterator[Violation]:
    """Once a process was given a name, nothing that an earlier process of it sends is acknowledged (G15).

    What it is told with the name to be stored is what its processes before have stored.
    """
    if not _keeps(facts):
        return
    claims: dict[str, NameClaimed] = {}
    given: dict[str, list[tuple[int, NameClaimed]]] = defaultdict(list)
    for index, event in enumerate(facts.history):
        if isinstance(event, NameClaimed):
            claims[event.process] = event
            if above := [entry for entry in given[event.name] if _excludes(entry, event)]:
                at, other = above[-1]
                text = f"{event.process} was given epoch {event.epoch} of {event.name}, {other.epoch} was given before"
                yield Violation("G15", Anomaly.TWO_WRITERS, text, event.partition, (at, index))
            given[event.name].append((index, event))
            yield from _check_told(facts, index, event, claims)
    for send, attempt, receipt in facts.acknowledged():
        claim = claims.get(receipt.process)
        if claim is None or receipt.duplicate:
            continue
        known = bisect(given[claim.name], attempt.invoked_at, key=lambda entry: entry[0])
        index, last = max(given[claim.name][:known], key=lambda entry: entry[1].epoch)
        if last.epoch > claim.epoch:
            text = (
                f"{send.name} of {claim.process} was acknowledged at offset {receipt.offset} (event "
                f"{attempt.completed_at}); {last.process} had been given the name at event {index}"
            )
            marks = (index, attempt.invoked_at, attempt.completed_at)
            yield Violation("G15", Anomaly.TWO_WRITERS, text, send.invoked.partition, marks)


def _excludes(given: tuple[int, NameClaimed], claim: NameClaimed) -> bool:
    """Whether what was ``given``, and known at its event, leaves no such epoch to ``claim``.

    Of two that asked side by side, the one that got the lower may be told so after the other.
    """
    index, other = given
    return other.epoch >= claim.epoch and (index < claim.asked_at or other.epoch == claim.epoch)


def _check_told(facts: Facts, index: int, claim: NameClaimed, claims: dict[str, NameClaimed]) -> Iterator[Violation]:
    """What a process is told to be stored last is of its name, and nothing of that was acknowledged beyond it before.

    A message counts that is in the log at the end: else a permitted loss may have taken it before the process asked.
    """
    log = facts.log(claim.partition)
    for send, attempt, receipt in facts.acknowledged():
        messages = send.invoked.messages
        if send.invoked.partition != claim.partition or attempt.completed_at >= claim.asked_at:
            continue
        if log.messages.get(receipt.offset) != (receipt.epoch, messages[0]):
            continue
        known = claims.get(receipt.process)
        is_own = known is not None and known.name == claim.name
        told = f"{claim.process} was told that the last of {claim.name} is at offset {claim.last} (event {index})"
        marks = (attempt.completed_at, index)
        if is_own and receipt.offset > claim.last:
            text = f"{told}; {send.name} of {receipt.process} had been acknowledged at {receipt.offset}"
            yield Violation("G15", Anomaly.DUPLICATE, text, claim.partition, marks)
        elif not is_own and 0 <= claim.last - receipt.offset < len(messages):
            text = f"{told}, where {send.name} is, which {receipt.process} had sent"
            yield Violation("G15", Anomaly.DUPLICATE, text, claim.partition, marks)
