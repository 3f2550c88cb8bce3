"""Other users of the broker: the operator who changes the topic's policies, and one who makes and deletes a topic.

The second makes a storage use files again, so that bytes of another log lie where a log goes on; it is not judged.
"""

from __future__ import annotations

import trio

from mqcore.batch import encode_batch
from mqcore.limits import Limits
from mqcore.protocol import Code, Produce
from mqcore_conformance.clients._session import (
    CallFailedError,
    Pauses,
    SessionLostError,
    WireError,
    WireSession,
    code_name,
    connect,
)
from mqcore_conformance.histories import Altered
from mqcore_conformance.plans import CHURN_SIZES, TOPIC, AlterPlan
from mqcore_conformance.world import World

ATTEMPTS_MAX = 8
REFUSALS = frozenset({Code.INVALID_REQUEST, Code.REFUSED, Code.UNKNOWN_TOPIC})


async def alter_topic(world: World) -> None:
    """Make the changes of the plan, each at its time, once: an unknown outcome stays unknown."""
    began = trio.current_time()
    with world.host("operator"):
        for alter in world.plan.alters:
            await trio.sleep_until(began + alter.at_us / 1e6)
            await _alter(world, alter)


async def _alter(world: World, alter: AlterPlan) -> None:
    backoff = Pauses()
    for _ in range(ATTEMPTS_MAX):
        is_asked = False
        try:
            async with connect(world) as session:
                is_asked = True
                await _ask(world, session, alter)
        except SessionLostError:
            pass
        if is_asked:
            return
        await backoff.pause()


async def _ask(world: World, session: WireSession, alter: AlterPlan) -> None:
    asked_at = len(world.history)
    topic, outcome, code = TOPIC, "unknown", ""
    try:
        value = await session.call("topic.alter", {"name": TOPIC, "config": alter.changes})
        topic, outcome = world.name_topic(str(value["id"]), TOPIC), "done"
    except CallFailedError as error:
        code = code_name(error.code)
        outcome = "refused" if error.code in REFUSALS else "unknown"
    finally:
        world.note(
            Altered,
            topic=topic,
            asked_at=asked_at,
            outcome=outcome,
            flush=alter.flush,
            visible=alter.visible,
            weakest_send=alter.weakest_send,
            code=code,
        )


NAME = "scratch"
ROUNDS_MAX, BATCHES, PAUSE_S = 12, 12, 0.03
ROUNDS_OF_A_SET_MAX, BATCHES_OF_A_SET, PAUSE_OF_A_SET_S = 20, 2, 0.2
"""Nodes of a set are away for seconds; what is to be missed there is that a topic came and went."""
LIMITS = Limits()


async def churn_topics(world: World) -> None:
    """Make, fill and delete the topic a few times, over as many sessions as it takes."""
    is_set = world.plan.nodes > 1
    with world.host("churn"):
        for number in range(ROUNDS_OF_A_SET_MAX if is_set else ROUNDS_MAX):
            await trio.sleep(PAUSE_OF_A_SET_S if is_set else PAUSE_S)
            if world.settling:
                return
            try:
                async with connect(world) as session:
                    await _one_round(session, number, BATCHES_OF_A_SET if is_set else BATCHES)
            except WireError:
                pass


async def _one_round(session: WireSession, number: int, batches: int) -> None:
    try:
        topic_id = bytes.fromhex(str((await session.call("topic.create", {"name": NAME}))["id"]))
    except CallFailedError:
        await session.call("topic.delete", {"name": NAME})
        return
    for index in range(batches):
        values = [(b"scratch %d.%d." % (number, index)).ljust(size, b"s") for size in CHURN_SIZES]
        batch = encode_batch(values, keys=[None, b"k1", None], created_ms=0, limits=LIMITS)
        await session.send(Produce(session.next_id(), topic_id, 0, 0, False, batch))
        await session.receive()
    await session.call("topic.delete", {"name": NAME})
