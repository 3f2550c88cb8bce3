"""G19: what readers of replicas are given is committed, and as new as it is said to be."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator

from mqcore.guarantees import SyncReplication
from mqcore_conformance.checkers._facts import Facts
from mqcore_conformance.histories import FetchAnswered
from mqcore_conformance.verdicts import Anomaly, Violation

SLACK_US = 100_000
"""Between an acknowledgement and the frame that tells a replica of it."""


def check_g19(facts: Facts) -> Iterator[Violation]:
    """A replica serves nothing past the committed offset that it knows, and says how old that knowledge is."""
    acknowledged = _acknowledged(facts)
    for process, partition, events in facts.readers():
        for index, event in events:
            if isinstance(event, FetchAnswered) and event.known_age_ms >= 0:
                text = _past_what_is_committed(facts, partition, index, event)
                # A reign that has just begun need not know yet what the one before it had committed (R10).
                reign = facts.reigns.newest_at(event.asked_at)
                text = text or _older_than_said(facts, acknowledged.get((partition, reign), ([], [])), event)
                if text:
                    text = f"{process} was answered by {event.by} at event {index}: {text}"
                    yield Violation("G19", Anomaly.STALE_READ, text, partition, (index,))


def _past_what_is_committed(facts: Facts, partition: str, index: int, event: FetchAnswered) -> str:
    if event.next_offset > max(event.committed_offset, event.offset):
        return f"up to offset {event.next_offset - 1}, and what lies below {event.committed_offset} is committed"
    replication = facts.replication_of(partition)
    if not isinstance(replication, SyncReplication) or not facts.records_storage:
        return ""
    for batch in event.batches:
        last = batch.base_offset + len(batch.messages) - 1
        nodes = facts.nodes_with(partition, batch.epoch, last, index)
        if nodes < replication.copies and not facts.recovered(partition, event.by, last):
            return f"offset {last} of epoch {batch.epoch}, which {nodes} had, and {replication.copies} copies commit it"
    return ""


def _acknowledged(facts: Facts) -> dict[tuple[str, int], tuple[list[int], list[int]]]:
    """By partition and reign: when what is in the final log was acknowledged, and up to which offset by then."""
    found: dict[tuple[str, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    replies = [(attempt.completed_at, send, receipt) for send, attempt, receipt in facts.acknowledged()]
    for _, send, receipt in sorted(replies, key=lambda reply: reply[0]):
        times, ends = found[send.invoked.partition, facts.reign_of(receipt)]
        end = receipt.offset + len(send.invoked.messages)
        if facts.log(send.invoked.partition).has(end - 1, send.invoked.messages[-1]):
            times.append(receipt.time_us)
            ends.append(max([end, *ends[-1:]]))
    return found


def _older_than_said(facts: Facts, acknowledged: tuple[list[int], list[int]], event: FetchAnswered) -> str:
    """What was acknowledged a lease before the moment of which the replica says to know was committed then."""
    times, ends = acknowledged
    asked_us = facts.history[event.asked_at - 1].time_us
    known_us = asked_us - event.known_age_ms * 1000
    before = bisect_left(times, known_us - facts.setting.lease_ms * 1000 - SLACK_US)
    if not before or ends[before - 1] <= event.committed_offset:
        return ""
    return (
        f"it knows what lies below {event.committed_offset} to be committed, and says that this is "
        f"{event.known_age_ms} ms old; offsets below {ends[before - 1]} were acknowledged "
        f"{(asked_us - times[before - 1]) // 1000} ms before"
    )
