"""G13, G17, G18, G20: what the recorder itself measured or asked; the checker holds it against the bound."""

from __future__ import annotations

from collections.abc import Iterator

from mqcore_conformance.checkers._facts import Facts, SendFacts
from mqcore_conformance.checkers._tags import check_comes_forward
from mqcore_conformance.histories import FetchAnswered, LogRecovered
from mqcore_conformance.verdicts import Anomaly, Violation


def check_g13(facts: Facts) -> Iterator[Violation]:
    """Sends, reads and the drain succeed within the bound after healing; a log that stops answers who waits for it."""
    for index, seen in facts.liveness:
        if 0 <= seen.took_us <= seen.bound_us:
            continue
        took = "never happened" if seen.took_us < 0 else f"took {seen.took_us / 1e6:.3f} s"
        text = f"{seen.what} {took}; the bound is {seen.bound_us / 1e6:.3f} s" + (
            f" ({seen.reason})" if seen.reason else ""
        )
        yield Violation("G13", Anomaly.NO_PROGRESS, text, "", (index,))
    yield from check_comes_forward(facts)


def check_g17(facts: Facts) -> Iterator[Violation]:
    """However often recovery runs, and wherever a crash cuts it short, the same content comes out."""
    first: dict[tuple[str, str], tuple[int, LogRecovered]] = {}
    for index, event in facts.recoveries:
        before, other = first.setdefault((event.group, event.partition), (index, event))
        if other.content != event.content:
            text = f"{event.way} gives {event.content}, {other.way} gave {other.content} from the same disk"
            yield Violation("G17", Anomaly.UNREPEATABLE_RECOVERY, text, event.partition, (before, index))


def check_g18(facts: Facts) -> Iterator[Violation]:
    """What is unknown or cannot be promised is refused by name."""
    yield from _check_probes(facts, "G18", Anomaly.NOT_REFUSED)


def check_g20(facts: Facts) -> Iterator[Violation]:
    """A slow or malicious peer costs bounded memory; a full broker rejects before it stores."""
    yield from _check_probes(facts, "G20", Anomaly.UNBOUNDED_RESOURCE)
    full = {digest: send for send in facts.sends.values() if _was_full(send) for digest in send.invoked.messages}
    for (process, partition), events in facts.reads.items() if full else ():
        for index, event in events:
            for batch in event.batches if isinstance(event, FetchAnswered) else ():
                for digest in batch.messages:
                    if digest in full:
                        text = f"{process} read {full[digest].name} at event {index}; a full broker had rejected it"
                        yield Violation("G20", Anomaly.UNBOUNDED_RESOURCE, text, partition, (index,))


def _was_full(send: SendFacts) -> bool:
    """Whether every attempt was rejected, the last one by a full broker."""
    last = send.attempts[-1].completed
    return last is not None and last.code == "storage-full" and send.rejected


def _check_probes(facts: Facts, clause: str, anomaly: Anomaly) -> Iterator[Violation]:
    for index, probe in facts.probes:
        if probe.clause == clause and not probe.holds:
            text = f"{probe.question}: {probe.observed}"
            yield Violation(clause, anomaly, text, "", (index,))
