"""G01, G02, G03: what was acknowledged and is not there, and whether it may be missing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

from mqcore.guarantees import AsyncFlush, AsyncReplication, Fault, FlushPolicy, Level, SyncFlush, SyncReplication
from mqcore_conformance.checkers._drained import DrainedLog
from mqcore_conformance.checkers._endings import described_endings
from mqcore_conformance.checkers._facts import ENDINGS, Attempt, Facts, SendFacts
from mqcore_conformance.checkers._policies import widest
from mqcore_conformance.histories import Completed, FetchAnswered, NodeLife
from mqcore_conformance.verdicts import Anomaly, Violation

_Loss: TypeAlias = tuple[str, NodeLife, int]
"""One loss: partition, the life that acknowledged it, and the reign that a failover ended, else 0."""


def _missing(log: DrainedLog, send: SendFacts, receipt: Completed) -> list[int]:
    """Offsets of an acknowledged send that the drain does not have, retention and damage that is reported apart."""
    return [
        offset
        for offset, digest in enumerate(send.invoked.messages, receipt.offset)
        if offset >= log.start_offset and not log.has(offset, digest) and not log.is_damaged(offset)
    ]


def is_voided(facts: Facts, send: SendFacts, attempt: Attempt) -> bool:
    """Whether a failed flush may have taken every copy of an acknowledged attempt (G11)."""
    assert attempt.completed is not None
    end = attempt.completed.offset + len(send.invoked.messages)
    return all(facts.voided(send.invoked.partition, by, level, end) for level, by in attempt.copies)


def check_g01(facts: Facts) -> Iterator[Violation]:
    """Every batch of ``must_survive`` is in the final drain, byte for byte. Where bits rotted, G12 judges."""
    if any(fault.kind == "rot" for _, fault in facts.injected):
        return
    for send, attempt, receipt in facts.acknowledged():
        if not facts.kept(send, attempt) or is_voided(facts, send, attempt):
            continue
        level, index = Level.parse(receipt.level), attempt.completed_at
        log = facts.log(send.invoked.partition)
        missing = _missing(log, send, receipt)
        if not missing:
            continue
        found = log.messages.get(missing[0])
        text = (
            f"offset {missing[0]} ({send.name}, {len(missing)} of {len(send.invoked.messages)} messages) was "
            f"acknowledged at level {level.label} at event {index} by {receipt.by}; "
            f"after {described_endings(facts.history, receipt.by)} it "
            + ("is absent" if found is None else f"holds another message (epoch {found[0]})")
            + f"; the log is drained from {log.start_offset} to {log.end_offset}"
        )
        yield Violation("G01", Anomaly.LOST_WRITE, text, send.invoked.partition, (index,))


def check_g02(facts: Facts) -> Iterator[Violation]:
    """Where loss is allowed, what is lost is a suffix of its epoch's log, and the drain has no hole."""
    lost: dict[tuple[str, int], tuple[int, int]] = {}
    for partition, epoch, offset, digest, index in _known(facts):
        log = facts.log(partition)
        if offset < log.start_offset or log.has(offset, digest) or log.is_damaged(offset):
            continue
        key = (partition, epoch)
        if key not in lost or offset < lost[key][0]:
            lost[key] = (offset, index)
    for partition, log in facts.drain.items():
        newest: dict[int, int] = {}
        expected = log.start_offset if log.complete else None
        for offset, epoch, _ in log.order:
            newest[epoch] = offset
            yield from _check_hole(log, expected, offset)
            expected = offset + 1
        if log.complete:
            yield from _check_hole(log, expected, log.end_offset)
        for epoch, last in newest.items():
            first_lost = lost.get((partition, epoch))
            if first_lost is not None and first_lost[0] < last:
                text = (
                    f"offset {first_lost[0]} of epoch {epoch}, known at event {first_lost[1]}, is lost although "
                    f"offset {last} of the same epoch survives: what is lost is no suffix"
                )
                yield Violation("G02", Anomaly.HOLE, text, partition, (first_lost[1],))


def _check_hole(log: DrainedLog, expected: int | None, offset: int) -> Iterator[Violation]:
    """The drain goes on, or ends, at ``offset``. ``expected`` None: where it begins is not known."""
    missing = offset if expected is None else log.first_undamaged(expected, offset)
    if expected is not None and missing < offset:
        text = (
            f"the drain goes from offset {expected - 1} to {offset}: offset {missing} between is missing, and no "
            f"damage that was done to it is reported; the log is drained from {log.start_offset} to {log.end_offset}"
        )
        yield Violation("G02", Anomaly.HOLE, text, log.partition)


def _known(facts: Facts) -> Iterator[tuple[str, int, int, str, int]]:
    """Every message known to have been in a log: partition, epoch, offset, digest, event index."""
    for send, attempt, receipt in facts.acknowledged():
        if not receipt.duplicate:
            for offset, digest in enumerate(send.invoked.messages, receipt.offset):
                yield send.invoked.partition, receipt.epoch, offset, digest, attempt.completed_at
    for _, partition, events in facts.readers():
        for index, event in events:
            for batch in event.batches if isinstance(event, FetchAnswered) else ():
                for offset, digest in enumerate(batch.messages, batch.base_offset):
                    yield partition, batch.epoch, offset, digest, index


def bounds_of(facts: Facts, send: SendFacts, attempt: Attempt) -> tuple[AsyncFlush | None, bool]:
    """The bounds of what may be lost with this acknowledged batch, None where it has none; whether by a failover.

    A failover takes what the members of the set lacked, whether it was flushed or not; of the throttled kind they lack
    at most what was acknowledged within the delay.
    """
    receipt = attempt.completed
    assert receipt is not None
    if facts.kept(send, attempt) and not is_voided(facts, send, attempt):
        return None, False
    replication = facts.replication_of(send.invoked.partition)
    promoted = facts.reigns.promoted_after(facts.reign_of(receipt))
    if not isinstance(replication, SyncReplication) and any(node != receipt.node for node in promoted):
        if isinstance(replication, AsyncReplication) and replication.on_exceeded == "throttle":
            return _lacked(facts, send, attempt, replication.max_delay_ms), True
        return None, True
    if send.invoked.policy == "none" or Level.parse(receipt.level) <= Level.MEMORY:
        return None, False
    return widest(facts.answering(send, attempt)), False


def _lacked(facts: Facts, send: SendFacts, attempt: Attempt, max_delay_ms: int) -> AsyncFlush | None:
    """What a node that reigns later may lack: what is on its way to it, and what it had not flushed itself.

    The second where every node's power was cut, see ``_every_node_is_cut``.
    """
    policies = facts.answering(send, attempt)
    if all(isinstance(policy, SyncFlush) for policy in policies) or not _every_node_is_cut(facts, attempt.completed_at):
        return AsyncFlush(max_interval_ms=max_delay_ms)
    flush = widest(policies)
    if flush is None or flush.max_interval_ms is None:
        return None
    return AsyncFlush(max_interval_ms=max_delay_ms + flush.max_interval_ms)


def _every_node_is_cut(facts: Facts, since: int) -> bool:
    """Whether at some event after ``since`` no node had any more what it only held in memory.

    A node whose power is cut, or that gets another disk, is given it again by the others, once it serves again and a
    reign feeds it: so that it lacks it while it is down, and until the next reign begins. So does one that was down
    already, however it ended.
    """
    lacking: frozenset[str] = frozenset()
    down: frozenset[str] = frozenset()
    ends = [
        (at, fault.node, None)
        for at, fault in facts.injected
        if (ended := ENDINGS.get(fault.kind)) and (ended is not Fault.PROCESS_KILL or at < since)
    ]
    for at, node, epoch in sorted([*ends, *((at, each.node, each.epoch) for at, each in facts.reigns.starts)]):
        is_before = at < since
        down = down - {node} if epoch is not None else down | {node}
        lacking = down if epoch or is_before else lacking | down
        if lacking >= facts.nodes and not is_before:
            return True
    return False


def check_g03(facts: Facts) -> Iterator[Violation]:
    """What is lost of the acknowledged stays within the bounds of the asynchronous policies, for each loss."""
    if facts.refused:
        return
    lost: dict[_Loss, list[Attempt]] = defaultdict(list)
    policies: dict[_Loss, list[FlushPolicy]] = defaultdict(list)
    for send, attempt, receipt in facts.acknowledged():
        bounds, by_failover = bounds_of(facts, send, attempt)
        if bounds is not None and _missing(facts.log(send.invoked.partition), send, receipt):
            loss = send.invoked.partition, receipt.by, facts.reign_of(receipt) if by_failover else 0
            lost[loss].append(attempt)
            policies[loss].append(bounds)
    totals: dict[NodeLife, int] = defaultdict(int)
    for (partition, by, reign), batches in lost.items():
        if not reign:
            totals[by] += sum(attempt.invoked.size_bytes for attempt in batches)
        widened = widest(policies[partition, by, reign])
        assert widened is not None
        for text in _excesses(widened, batches, "max_delay" if reign else "max_interval"):
            text = f"{by} lost {text}"
            yield Violation(
                "G03", Anomaly.UNBOUNDED_LOSS, text, partition, tuple(attempt.completed_at for attempt in batches[:20])
            )
    bytes_max = facts.setting.total_bytes_max
    for by, total in totals.items():
        if bytes_max is not None and total > bytes_max:
            text = f"{by} lost {total} acknowledged bytes over all logs; total_bytes_max is {bytes_max}"
            yield Violation("G03", Anomaly.UNBOUNDED_LOSS, text)


def _excesses(bounds: AsyncFlush, batches: list[Attempt], span: str) -> Iterator[str]:
    messages = sum(len(attempt.invoked.messages) for attempt in batches)
    size = sum(attempt.invoked.size_bytes for attempt in batches)
    if bounds.max_messages is not None and messages > bounds.max_messages:
        yield f"{messages} acknowledged messages; max_messages is {bounds.max_messages}"
    if bounds.max_bytes is not None and size > bounds.max_bytes:
        yield f"{size} acknowledged bytes; max_bytes is {bounds.max_bytes}"
    if bounds.max_interval_ms is not None:
        # Certainly acknowledged by the first receipt seen, certainly not before the last request was made.
        first_us = min(attempt.completed.time_us for attempt in batches if attempt.completed is not None)
        last_us = max(attempt.invoked.time_us for attempt in batches)
        if last_us - first_us > bounds.max_interval_ms * 1000:
            yield (
                f"messages acknowledged over a span of {(last_us - first_us) / 1000:.1f} ms at least; "
                f"{span} is {bounds.max_interval_ms} ms"
            )
