"""The final drain: everything that is in a topic's logs, read by the suite's own client as the process ``drain``."""

from __future__ import annotations

from collections.abc import Callable

from mqcore.protocol import Fetched
from mqcore_conformance.clients._consumer import PartitionReader
from mqcore_conformance.clients._session import (
    Pauses,
    SessionLostError,
    WireError,
    WireSession,
    code_name,
    connect,
)
from mqcore_conformance.histories import DRAIN, Drained
from mqcore_conformance.plans import TOPIC
from mqcore_conformance.world import World

__all__ = ["drain_topic", "drain_when_possible"]

DRAIN_BYTES = 1_000_000
DRAIN_WAIT_MS = 100


async def drain_when_possible(world: World, retry: Callable[[str], bool]) -> bool:
    """Drain every partition of the topic, as often as it takes to reach the end of a drain.

    ``retry`` is called with the reason after each failure: whether to go on. False when nothing could be drained.
    """
    backoff = Pauses()
    with world.host(DRAIN):
        while True:
            try:
                async with connect(world, world.drain_url) as session:
                    await drain_topic(world, session)
                return True
            except WireError as error:
                if not retry(str(error)):
                    return False
            await backoff.pause()


async def drain_topic(world: World, session: WireSession) -> None:
    """Read every partition of the topic to its end. Raises ``SessionLostError``, ``CallFailedError``."""
    topic = await session.resolve(TOPIC)
    for partition, end_offset in enumerate(await session.end_offsets(TOPIC)):
        reader = PartitionReader(world, DRAIN, partition)
        reader.set_topic(*topic)
        start = await _drain(reader, session, end_offset)
        world.note(Drained, partition=reader.partition, start_offset=start, end_offset=reader.offset)


async def _drain(reader: PartitionReader, session: WireSession, end_offset: int) -> int:
    """Read to ``end_offset``; return where the log was said to begin.

    What is not visible yet is waited for: it has been acknowledged, and the topic may show flushed messages only.
    """
    start: int | None = None
    while True:
        before = reader.offset
        reply = await reader.fetch(session, DRAIN_BYTES, DRAIN_WAIT_MS if before < end_offset else 0)
        if isinstance(reply, Fetched):
            start = reply.start_offset if start is None else start
            if reader.offset >= end_offset:
                return start
            if reader.offset == before and reader.offset < reply.committed_offset:
                raise SessionLostError(f"a fetch below the committed offset {reply.committed_offset} gave nothing")
        elif reader.offset == before:
            name = code_name(reply.code)
            raise SessionLostError(f"the drain of {reader.partition} at {before}: {name}: {reply.text}")
