"""Saboteurs inside the broker: replies, windows, committed offsets, flushes that nobody asks for.

Knows private names of ``mqcore.broker``; see ``_replacing`` for what happens when one is gone.
"""

from __future__ import annotations

import itertools
from typing import Any

import trio

from mqcore.batch import tags_in
from mqcore.log import ACCEPT, Duplicate
from mqcore.protocol import Code, Fetched, SendPolicy
from mqcore_conformance.saboteurs._replacing import in_place_of

PARTITION = "mqcore.broker._partition"
GROUP_COMMIT = "mqcore.broker._group_commit"
OUTBOX = "mqcore.broker._outbox"
RULE = "mqcore.replication._commit"
EVERY = 7
FLUSHES_OF_A_LIFE = 12
PATIENCE_S = 0.2


def _answer_waiting(partition: Any, copies: str) -> None:
    """Acknowledge whatever waits for a flush, stating the rule's ``copies``."""
    rule = partition._rule
    waiting = rule._waiting[SendPolicy.SYNC - 1]
    while waiting:
        _, (sink, request_id, base_offset, duplicate) = waiting.popleft()
        sink.produced(request_id, base_offset, partition.epoch, getattr(rule, copies), duplicate)
        sink.replied(now=False)


@in_place_of((PARTITION, "Partition", "_appended"))
def reply_before_flush(original: Any) -> Any:
    """The broker replies that a batch is on disk before the flush."""

    def appended(partition: Any, sends: Any, base_offsets: Any) -> None:
        original(partition, sends, base_offsets)
        _answer_waiting(partition, "_copies_flushed")

    return appended


@in_place_of((PARTITION, "Partition", "__init__"))
def hoped_level(original: Any) -> Any:
    """A receipt states the level that a flush would reach, where there was none."""

    def begin(partition: Any, *positional: Any, **named: Any) -> None:
        named["append_level"] = named["flush_level"]
        original(partition, *positional, **named)

    return begin


@in_place_of((GROUP_COMMIT, "GroupCommit", "_flush"))
def fallback_to_async(original: Any) -> Any:
    """Where a flush takes long, what waits is acknowledged at the level of an append (MySQL semi-sync, RocketMQ)."""

    async def flush(flusher: Any, partitions: Any) -> None:
        async def lose_patience() -> None:
            await trio.sleep(PATIENCE_S)
            for partition in partitions:
                _answer_waiting(partition, "_copies_appended")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose_patience)
            await original(flusher, partitions)
            nursery.cancel_scope.cancel()

    return flush


@in_place_of(("mqcore.broker._node", "Node", "stop"))
def close_unflushed(original: Any) -> Any:
    """An orderly stop answers what waits for the group commit without waiting for the flush (MetaQ)."""

    def stop(broker: Any) -> None:
        original(broker)
        for partition in broker.reign.partitions.values():
            _answer_waiting(partition, "_copies_flushed")

    return stop


@in_place_of((RULE, "CommitRule", "duplicate"))
def duplicate_at_once(_: Any) -> Any:
    """A duplicate is answered from the table before the original is flushed."""
    return lambda rule, end_offset, own_policy, reply, now_us: [(reply, rule._copies_flushed)]


@in_place_of(("mqcore.log._partition_log", "PartitionLog", "check"))
def appends_duplicates(original: Any) -> Any:
    """A retry of what is in the log already is appended once more."""

    def check(log: Any, headers: Any) -> Any:
        return [ACCEPT if isinstance(each, Duplicate) else each for each in original(log, headers)]

    return check


@in_place_of(("mqcore.replication._window", "AsyncWindow", "_fits"))
def window_ignored(_: Any) -> Any:
    """The window's bound is ignored: acknowledgements go on while a flush is stalled."""
    return lambda *_: True


@in_place_of((RULE, "CommitRule", "appended"))
def reads_above_committed(original: Any) -> Any:
    """Readers see everything that was appended, above the committed offset."""

    def appended(rule: Any, batches: Any, now_us: Any) -> Any:
        released = original(rule, batches, now_us)
        rule.committed_offset = rule.end.offset
        return released

    return appended


@in_place_of((PARTITION, "Partition", "_appended"))
def rejected_after_append(original: Any) -> Any:
    """A batch is appended, then every seventh is called rejected."""
    counter = itertools.count(1)

    def appended(partition: Any, sends: Any, base_offsets: Any) -> None:
        sends = list(sends)
        for index, send in enumerate(sends):
            if send.sink is not None and next(counter) % EVERY == 0:
                send.sink.failed(send.request_id, Code.BATCH_TOO_LARGE, "the batch is too large")
                sends[index] = send._replace(sink=None)
        original(partition, sends, base_offsets)

    return appended


@in_place_of((PARTITION, "Partition", "stop"))
def unknown_called_rejected(original: Any) -> Any:
    """What waited for a flush that failed is called rejected, although it was appended (Redpanda 21.10)."""

    class Rejecting:
        def __init__(self, sink: Any) -> None:
            self._sink = sink

        def failed(self, request_id: int, code: int, text: str) -> None:
            self._sink.failed(request_id, Code.BATCH_TOO_LARGE, text)

    def stop(partition: Any, error: Any) -> None:
        for queue in partition._rule._waiting:
            rejecting = [(end, (Rejecting(sink), *others)) for end, (sink, *others) in queue]
            queue.clear()
            queue.extend(rejecting)
        original(partition, error)

    return stop


@in_place_of(("mqcore.log._facts", "LogFacts", "divergence"))
def positions_unchecked(_: Any) -> Any:
    """A fetch from a position that the log no longer has is served as if nothing had been lost (KAFKA-7959)."""
    return lambda *_: None


@in_place_of(("mqcore.log._collect", "BatchCollector", "_is_passed"))
def looks_at_the_first_tag(_: Any) -> Any:
    """A batch is passed over unless the first tag of its table is asked for."""

    def is_passed(collector: Any, batch: Any, header: Any, tags: Any) -> bool:
        return bool(tags.isdisjoint((tags_in(batch, header) or ())[:1]))

    return is_passed


@in_place_of((OUTBOX, "", "answer_fetch"))
def position_not_told(original: Any) -> Any:
    """Where everything was passed over, the answer does not say how far that was."""

    async def answer(partition: Any, fetch: Any, bytes_max: Any) -> Any:
        found = await original(partition, fetch, bytes_max)
        if not isinstance(found, Fetched) or not fetch.tags or found.batches:
            return found
        return found._replace(next_offset=fetch.offset, next_epoch=fetch.epoch)

    return answer


@in_place_of((OUTBOX, "", "answer_fetch"))
def position_past_committed(original: Any) -> Any:
    """A reader that names tags is told that the whole log was looked at, what is not committed too."""

    async def answer(partition: Any, fetch: Any, bytes_max: Any) -> Any:
        found = await original(partition, fetch, bytes_max)
        if not isinstance(found, Fetched) or not fetch.tags:
            return found
        return found._replace(next_offset=partition.log.end_offset, next_epoch=partition.epoch)

    return answer


@in_place_of((GROUP_COMMIT, "GroupCommit", "_flush"))
def flusher_dies(original: Any) -> Any:
    """The task that flushes ends after a while and nobody notices."""

    async def flush(flusher: Any, partitions: Any) -> None:
        if flusher.flushes >= FLUSHES_OF_A_LIFE:
            await trio.sleep_forever()
        await original(flusher, partitions)

    return flush


@in_place_of(("mqcore.broker._sessions", "Sessions", "leave"))
def sessions_kept(_: Any) -> Any:
    """What a broker holds for a session is kept when its last stream has ended."""
    return lambda *_: None
