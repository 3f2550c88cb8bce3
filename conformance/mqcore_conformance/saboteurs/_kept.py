"""Saboteurs of what brokers keep for clients: cursors of groups, names of producers.

Knows names of ``mqcore.broker``; see ``_replacing``.
"""

from __future__ import annotations

from typing import Any

from mqcore.batch import HEADER_BYTES, unpack_header
from mqcore.log import ACCEPT, Fenced, SentBefore
from mqcore_conformance.saboteurs._replacing import Replacement, in_place_of, replacing

CURSOR_LOG, GROUP_ROOM = "mqcore.broker._cursor_log", "mqcore.broker._group_room"
NAMES, CLAIMS = "mqcore.broker._producer_names", "mqcore.broker._claims"
BATCHES_BEHIND = 8


@in_place_of((GROUP_ROOM, "", "pack_cursors"))
def cursors_without_epoch(original: Any) -> Any:
    """A cursor is an offset alone: of which history it is nobody knows."""
    return lambda group, topic_id, entries: original(group, topic_id, [(each[0], each[1], 0) for each in entries])


@in_place_of((CURSOR_LOG, "CursorLog", "_replay"))
def older_cursors_taken(original: Any) -> Any:
    """A new reign takes cursors that are behind those of its log (RocketMQ #1094, #1440)."""

    async def replay(cursors: Any, partition: Any) -> None:
        chunks: list[tuple[Any, str]] = []
        cursors._take = lambda chunk, where: chunks.append((bytes(chunk), where))
        try:
            await original(cursors, partition)
        finally:
            del cursors._take
        batches = [(batch, where) for chunk, where in chunks for batch in _batches(chunk, where)]
        for batch, where in batches[:-BATCHES_BEHIND]:
            cursors._take(memoryview(batch), where)

    return replay


def _batches(chunk: bytes, where: str) -> list[bytes]:
    found, at = [], 0
    while at < len(chunk):
        size = unpack_header(chunk[at : at + HEADER_BYTES], where).size
        found.append(chunk[at : at + size])
        at += size
    return found


@in_place_of((CURSOR_LOG, "CursorLog", "_append"))
def commits_not_awaited(original: Any) -> Any:
    """A commit of cursors is acknowledged before it is in any log."""

    def append(cursors: Any, record: bytes, done: Any) -> None:
        original(cursors, record, lambda error: None)
        cursors.table.apply(record, "cursors")
        done(None)

    return append


@replacing
def old_epoch_accepted() -> tuple[Replacement, ...]:
    """After a failover an old epoch of a producer's name is as good as the one that was given out since."""

    def admits(original: Any) -> Any:
        def check(claims: Any, send: Any) -> bool:
            identity = send.batch.header.producer_id
            known = claims.names.by_id.get(identity)
            given = claims.ready.__dict__.get("given", ())
            return bool(send.claim and known and identity not in given) or bool(original(claims, send))

        return check

    def put(original: Any) -> Any:
        async def give(room: Any, topic: Any, named: Any) -> None:
            await original(room, topic, named)
            room.__dict__.setdefault("given", set()).add(named.producer_id)

        return give

    def trusting(original: Any) -> Any:
        def check(log: Any, headers: Any) -> Any:
            return [ACCEPT if isinstance(each, Fenced) else each for each in original(log, headers)]

        return check

    return (
        (CLAIMS, "ClaimCheck", "_admits", admits),
        (NAMES, "NameRoom", "_put", put),
        ("mqcore.log._partition_log", "PartitionLog", "check", trusting),
    )


@in_place_of((NAMES, "NameRoom", "_write"))
def claims_not_kept(_: Any) -> Any:
    """The epoch of a name is given out before it is in any log."""

    async def write(room: Any, record: bytes, written: Any = lambda: None) -> None:
        room._cursors.table.apply(record, "names")
        written()

    return write


@in_place_of(("mqcore.log._producers", "ProducerTable", "sent_by"))
def older_last_told(original: Any) -> Any:
    """A process that takes a name is told of the batch before the last one, as of a table that is behind its log."""

    def sent_by(table: Any, producer_id: int) -> Any:
        known = (table._producers or {}).get(producer_id)
        if known is None or len(known.batches) < 4:
            return original(table, producer_id)
        base_offset, facts = known.batches[-4:-2]
        return SentBefore(known.epoch, base_offset + (facts & 0xFFFF_FFFF), is_sure=True)

    return sent_by
