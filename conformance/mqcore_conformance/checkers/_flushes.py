"""G11, G12, G14: what flushes, damage and receipts have to do with each other."""

from __future__ import annotations

from collections.abc import Iterator

from mqcore.guarantees import Level, SyncFlush, SyncReplication
from mqcore_conformance.checkers._drained import first_outside
from mqcore_conformance.checkers._facts import Attempt, Facts, FailedFlush, SendFacts
from mqcore_conformance.checkers._rotten import whole_elsewhere
from mqcore_conformance.histories import Completed, FetchAnswered, FetchFailed, NodeLife
from mqcore_conformance.verdicts import Anomaly, Violation


def check_g11(facts: Facts) -> Iterator[Violation]:
    """After a flush error what that flush was to cover is not acknowledged and not served by this life.

    A later flush that is said to have worked proves nothing: what it covered is looked for on the device.
    """
    for index, partition, position in facts.believed_flushes:
        text = (
            f"the flush at event {index} is said to have worked; after an earlier one failed the device does not "
            f"have what was appended at position {position}"
        )
        yield Violation("G11", Anomaly.FAILED_FLUSH_TRUSTED, text, partition, (index,))
    yield from _acknowledged_by_a_log_that_had_to_stop(facts)
    first: dict[tuple[str, NodeLife], FailedFlush] = {}
    for failed in facts.failed_flushes:
        first.setdefault((failed.partition, failed.by), failed)
    if not first:
        return
    for send, attempt, receipt in facts.acknowledged():
        failure, index = first.get((send.invoked.partition, receipt.by)), attempt.completed_at
        if failure is None or index < failure.index:
            continue
        end = receipt.offset + len(send.invoked.messages)
        if attempt.invoked_at > failure.index and end > failure.durable_offset:
            why = "it was sent after the failure, to a log that had to stop"
        elif Level.parse(receipt.level) >= Level.DISK and end > failure.durable_offset:
            why = f"at level {receipt.level}, although only offsets below {failure.durable_offset} were flushed"
        else:
            continue
        text = (
            f"{send.name} (offset {receipt.offset}) was acknowledged at event {index} after the flush failed at "
            f"event {failure.index}: {why}"
        )
        yield Violation("G11", Anomaly.FAILED_FLUSH_TRUSTED, text, send.invoked.partition, (failure.index, index))
    for process, partition, events in facts.readers():
        for index, event in events:
            if not isinstance(event, FetchAnswered) or not event.batches:
                continue
            failure = first.get((partition, event.by))
            last = event.batches[-1]
            end = last.base_offset + len(last.messages)
            if failure is not None and event.asked_at > failure.index and end > failure.durable_offset:
                text = (
                    f"{process} asked after the flush failed at event {failure.index} and got offset {end - 1} at "
                    f"event {index}; only offsets below {failure.durable_offset} were flushed"
                )
                yield Violation("G11", Anomaly.FAILED_FLUSH_TRUSTED, text, partition, (failure.index, index))


def _acknowledged_by_a_log_that_had_to_stop(facts: Facts) -> Iterator[Violation]:
    """Where no flush is recorded, only the fault: what was sent to that log well after it is not acknowledged.

    The time of such a fault leaves the broker some time to notice it, so that times are compared, not indices.
    """
    stopped: dict[tuple[str, NodeLife], tuple[int, int]] = {}
    for at, fault in facts.injected:
        if fault.kind == "flush-error" and "@" in fault.detail:
            stopped.setdefault((fault.detail, fault.by), (at, fault.time_us))
    if not stopped:
        return
    for send, attempt, receipt in facts.acknowledged():
        at, since_us = stopped.get((send.invoked.partition, receipt.by), (0, 0))
        if at and not receipt.duplicate and attempt.invoked.time_us > since_us:
            text = (
                f"{send.name} (offset {receipt.offset}) was acknowledged at event {attempt.completed_at} "
                f"by {receipt.by}, sent after a flush of that log had failed (event {at})"
            )
            yield Violation(
                "G11", Anomaly.FAILED_FLUSH_TRUSTED, text, send.invoked.partition, (at, attempt.completed_at)
            )


def check_g12(facts: Facts) -> Iterator[Violation]:
    """Damaged bytes are reported for their range: what had to survive is there, or in a range that is reported.

    Nothing else is reported: whole messages would be hidden by it. A broker that refuses to start on what it cannot
    read has reported all of it.
    """
    for index, probe in facts.probes:
        if probe.clause == "G12" and not probe.holds:
            text = f"{probe.question}: {probe.observed}"
            yield Violation("G12", Anomaly.SILENT_DAMAGE, text, "", (index,))
    yield from _check_reports(facts)
    if facts.refused or not any(fault.kind == "rot" for _, fault in facts.injected):
        return
    for send, attempt, receipt in facts.acknowledged():
        index = attempt.completed_at
        if not facts.kept(send, attempt):
            continue
        log = facts.log(send.invoked.partition)
        # What another node has whole has to be had from there: to report it as damaged is not enough.
        has_whole_copy = len(facts.nodes) > 1 and whole_elsewhere(facts, send, attempt)
        for offset, digest in enumerate(send.invoked.messages, receipt.offset):
            if offset < log.start_offset or log.has(offset, digest):
                continue
            if log.is_reported(offset) and not has_whole_copy:
                continue  # a wrong report is a violation already
            text = (
                f"offset {offset} ({send.name}), acknowledged at {receipt.level} at event {index}, is neither in "
                f"the drain ({log.start_offset} to {log.end_offset}) nor in a range reported as damaged "
                f"({log.damaged or 'none was reported'})"
                + ("; another node has a copy in which no bits rotted" if has_whole_copy else "")
            )
            yield Violation("G12", Anomaly.SILENT_DAMAGE, text, send.invoked.partition, (index,))
            break


def _check_reports(facts: Facts) -> Iterator[Violation]:
    """Every range that is reported to a reader as damaged is part of the batches in which bits rotted until then.

    A storage that says of itself that it keeps nothing is believed when it has nothing.
    """
    if facts.append_level is Level.NONE:
        return
    seen: set[tuple[str, int]] = set()
    for process, partition, index, event in _reports(facts):
        rotted = facts.rotted_before(partition, index)
        offset = first_outside(event.point, event.until, rotted)
        if offset < event.until and (partition, offset) not in seen:
            seen.add((partition, offset))
            truth = ", ".join(f"{first} to {until - 1}" for first, until in rotted[:5]) or "none"
            text = (
                f"it was reported to {process} at event {index} that offsets {event.point} to {event.until - 1} are "
                f"damaged; nothing ever happened to offset {offset} (offsets in which bits rotted: {truth})"
            )
            yield Violation("G12", Anomaly.INVENTED_DAMAGE, text, partition, (index,))


def _reports(facts: Facts) -> Iterator[tuple[str, str, int, FetchFailed]]:
    """Everything that was reported to a reader, the drain too, as damaged: process, partition, event index, event."""
    for (process, partition), events in facts.reads.items():
        for index, event in events:
            if isinstance(event, FetchFailed) and event.code == "damaged":
                yield process, partition, index, event


def check_g14(facts: Facts) -> Iterator[Violation]:
    """The append and flush events that justify each copy of a receipt come before it; its levels can be reached."""
    for send, attempt, receipt in facts.acknowledged():
        for level, by in attempt.copies:
            reason = _unjustified(facts, send, attempt, receipt, level, by)
            if reason:
                text = (
                    f"the receipt of {send.name} at event {attempt.completed_at} states {level.label} "
                    f"for offset {receipt.offset + len(send.invoked.messages) - 1}: {reason}"
                )
                yield Violation(
                    "G14", Anomaly.UNJUSTIFIED_RECEIPT, text, send.invoked.partition, (attempt.completed_at,)
                )


def _unjustified(
    facts: Facts, send: SendFacts, attempt: Attempt, receipt: Completed, level: Level, by: NodeLife
) -> str:
    """Why a receipt should not state a copy at ``level`` on the node of ``by``; empty when it may."""
    partition, end, index = send.invoked.partition, receipt.offset + len(send.invoked.messages), attempt.completed_at
    if level > max(facts.append_level, facts.flush_level):
        return f"the storage reaches {facts.flush_level.label} at best"
    replication = facts.replication_of(partition)
    if isinstance(replication, SyncReplication):
        if level < replication.level:
            return f"its policy asks every member of the set for {replication.level.label}"
        if len(attempt.copies) < replication.copies:
            return f"it is one of {len(attempt.copies)} copies, and its policy asks for {replication.copies}"
    if by.life == 0:
        return f"no node {by.node} ever served"
    # A duplicate is answered with the epoch that appended the original: its offset is in no other history.
    reign = facts.reign_of(receipt)
    if receipt.epoch > reign or (receipt.epoch < reign and not receipt.duplicate):
        return f"its epoch is {receipt.epoch}, the reign's is {reign}"
    least = min(facts.flush_level, facts.level_flushed(partition, by.node, index))
    if level < least and all(isinstance(each, SyncFlush) for each in facts.answering(send, attempt)):
        return "its policy is sync, which answers when it is flushed"
    if not facts.records_storage:
        return ""
    # An append that a kill met was never recorded: that its recovery found it is as good. A replica's recovery may find
    # what is of this very reign; then its next append shows that it did.
    last = end - 1
    is_found = receipt.epoch < reign and facts.recovered(partition, by, last)
    if by.node != receipt.node:
        is_found = is_found or (by.life > 1 and last < facts.first_of(partition, by))
    if not is_found and not facts.appended_before(partition, by.node, receipt.epoch, last, index):
        return f"nothing was appended for it before in epoch {receipt.epoch}"
    if facts.recovered(partition, by, end - 1):
        return ""
    durable = facts.durable_before(partition, by.node, index)
    if level > facts.append_level and end > durable:
        return f"no flush before it covers more than offset {durable - 1}"
    return ""
