"""Obligations: how much a history gives each checker to look at. A clause that was asked nothing has not passed.

Counts what a checker holds against its promise: batches that must survive, losses that a bound limits, reads, receipts.
Judges nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from mqcore_conformance.checkers import Facts, bounds_of, is_voided
from mqcore_conformance.histories import (
    Completed,
    CursorCommitted,
    CursorSeen,
    Event,
    FaultInjected,
    FetchAnswered,
    FetchFailed,
    Flushed,
    NameClaimed,
    Started,
)

__all__ = ["obligations"]


def obligations(facts: Facts) -> Counter[str]:
    """Return by clause how many things ``facts`` puts before its checker; clauses with none are left out."""
    counts: Counter[str] = Counter()
    _count_receipts(facts, counts)
    _count_reads(facts, counts)
    counts["G07"] = sum(send.rejected for send in facts.sends.values()) if facts.drain else 0
    counts["G09"] = _successions(facts.history)
    counts["G10"] = max(0, len(facts.held) - len({event.partition for _, event in facts.held})) + _cut_off(facts)
    counts["G19"] = sum(isinstance(event, FetchAnswered) and event.known_age_ms >= 0 for event in facts.history)
    counts["G11"] = sum(map(_is_failed_flush, facts.history)) + len(facts.believed_flushes)
    counts["G13"] += len(facts.liveness)
    counts["G15"] += sum(isinstance(event, NameClaimed) for event in facts.history)
    counts["G16"] = sum(isinstance(event, CursorSeen | CursorCommitted) for event in facts.history)
    groups = Counter((event.group, event.partition) for _, event in facts.recoveries)
    counts["G17"] = sum(number - 1 for number in groups.values())
    counts["G20"] = sum(isinstance(event, Completed) and event.code == "storage-full" for event in facts.history)
    for _, probe in facts.probes:
        counts[probe.clause] += 1
    return +counts


def _successions(history: Sequence[Event]) -> int:
    """How many reigns followed another one, where several nodes may reign."""
    starts = [event for event in history if isinstance(event, Started)]
    return max(0, sum(event.epoch > 0 for event in starts) - 1) if len({event.node for event in starts}) > 1 else 0


def _cut_off(facts: Facts) -> int:
    """How many acknowledged batches are not in the final log, where it is known what nodes kept aside."""
    if not facts.held:
        return 0
    count = 0
    for send, _, receipt in facts.acknowledged():
        log = facts.log(send.invoked.partition)
        count += log.complete and not log.has(receipt.offset, send.invoked.messages[0])
    return count


def _is_failed_flush(event: Event) -> bool:
    """Whether a flush failed of which the log is known: as recorded, or as injected (T1)."""
    if isinstance(event, FaultInjected):
        return event.kind == "flush-error" and "@" in event.detail
    return isinstance(event, Flushed) and event.failed


def _count_receipts(facts: Facts, counts: Counter[str]) -> None:
    """G01, G03, G12, G14: what acknowledgements promise, and whether a fault may take it."""
    rotted = any(fault.kind == "rot" for _, fault in facts.injected)
    for send, attempt, _ in facts.acknowledged():
        counts["G05"] += 1
        counts["G14"] += 1
        voided = is_voided(facts, send, attempt)
        must_survive = facts.kept(send, attempt)
        if must_survive and rotted:
            counts["G12"] += 1
        elif must_survive and not voided:
            counts["G01"] += 1
        counts["G03"] += bounds_of(facts, send, attempt)[0] is not None and not facts.refused


def _count_reads(facts: Facts, counts: Counter[str]) -> None:
    """G02, G15 of the drain; G04, G05, G12 of every read; G06, G08, G13 of what consumers got, or were to pass over."""
    for log in facts.drain.values():
        counts["G02"] += len(log.order)
        counts["G15"] += len(log.order)
    for events in facts.reads.values():
        counts["G12"] += sum(isinstance(event, FetchFailed) and event.code == "damaged" for _, event in events)
        answers = [event for _, event in events if isinstance(event, FetchAnswered)]
        read = sum(len(batch.messages) for event in answers for batch in event.batches)
        counts["G04"] += read
        counts["G05"] += read
    for _, partition, events in facts.readers():
        for index, event in events:
            if isinstance(event, FetchAnswered) and event.tags:
                counts.update(("G06", "G08"))  # what was passed over, and how far the reader was told to have come
                counts["G13"] += not event.batches
            if isinstance(event, FetchAnswered) and event.batches:
                counts["G06"] += 1
                level = facts.visible_level(partition, facts.first_sent_at(event), index)
                counts["G08"] += facts.shows_flushed(event, level) or facts.shown_is_kept(event, index, level)
