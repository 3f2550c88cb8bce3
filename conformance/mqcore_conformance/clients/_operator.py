"""The operator who changes the topic's policies while it is used, and what came of each change."""

from __future__ import annotations

import trio

from mqcore.protocol import Code
from mqcore_conformance.clients._session import (
    CallFailedError,
    Pauses,
    SessionLostError,
    WireSession,
    code_name,
    connect,
)
from mqcore_conformance.histories import Altered
from mqcore_conformance.plans import TOPIC, AlterPlan
from mqcore_conformance.world import World

__all__ = ["alter_topic"]

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
