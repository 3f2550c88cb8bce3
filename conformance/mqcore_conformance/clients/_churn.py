"""Another user of the same broker: makes a topic, fills it, deletes it, again and again. Not judged.

It makes a storage use files again, so that bytes of another log lie where a log goes on.
"""

from __future__ import annotations

import trio

from mqcore.batch import encode_batch
from mqcore.limits import Limits
from mqcore.protocol import Produce
from mqcore_conformance.clients._session import CallFailedError, WireError, WireSession, connect
from mqcore_conformance.plans import CHURN_SIZES
from mqcore_conformance.world import World

__all__ = ["churn_topics"]

NAME = "scratch"
ROUNDS_MAX = 12
PAUSE_S = 0.03
LIMITS = Limits()


async def churn_topics(world: World) -> None:
    """Make, fill and delete the topic a few times, over as many sessions as it takes."""
    with world.host("churn"):
        for number in range(ROUNDS_MAX):
            await trio.sleep(PAUSE_S)
            if world.settling:
                return
            try:
                async with connect(world) as session:
                    await _one_round(session, number)
            except WireError:
                pass


async def _one_round(session: WireSession, number: int) -> None:
    try:
        topic_id = bytes.fromhex(str((await session.call("topic.create", {"name": NAME}))["id"]))
    except CallFailedError:
        await session.call("topic.delete", {"name": NAME})
        return
    for index in range(12):
        values = [(b"scratch %d.%d." % (number, index)).ljust(size, b"s") for size in CHURN_SIZES]
        batch = encode_batch(values, keys=[None, b"k1", None], created_ms=0, limits=LIMITS)
        await session.send(Produce(session.next_id(), topic_id, 0, 0, False, batch))
        await session.receive()
    await session.call("topic.delete", {"name": NAME})
