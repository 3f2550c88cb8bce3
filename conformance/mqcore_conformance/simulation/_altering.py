"""Somebody who changes the topic's policies while it is used, and tells when each change was asked for and answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mqcore.protocol import Code
from mqcore_conformance.histories import Altered
from mqcore_conformance.plans import TOPIC, AlterPlan
from mqcore_conformance.simulation._session import Backoff, CallFailed, Session, SessionLost, code_name

if TYPE_CHECKING:
    from mqcore_conformance.simulation._world import World

__all__ = ["alter_topic"]

ATTEMPTS_MAX = 8
REFUSALS = frozenset({Code.INVALID_REQUEST, Code.REFUSED, Code.UNKNOWN_TOPIC})


async def alter_topic(world: World) -> None:
    """Make the changes of the plan, each at its time, once: an unknown outcome stays unknown."""
    began = trio.current_time()
    with world.network.host("operator"):
        for alter in world.plan.alters:
            await trio.sleep_until(began + alter.at_us / 1e6)
            await _alter(world, alter)


async def _alter(world: World, alter: AlterPlan) -> None:
    backoff = Backoff()
    for _ in range(ATTEMPTS_MAX):
        try:
            session = await world.connect()
            break
        except SessionLost:
            await backoff.pause()
    else:
        return
    try:
        await _ask(world, session, alter)
    except SessionLost:
        pass
    finally:
        await session.aclose()


async def _ask(world: World, session: Session, alter: AlterPlan) -> None:
    asked_at = len(world.history)
    topic, outcome, code = TOPIC, "unknown", ""
    try:
        value = await session.call("topic.alter", {"name": TOPIC, "config": alter.changes})
        assert isinstance(value, dict)
        topic, outcome = world.name_topic(str(value["id"]), TOPIC), "done"
    except CallFailed as error:
        code = code_name(error.code)
        outcome = "refused" if error.code in REFUSALS else "unknown"
    finally:
        world.record(
            Altered(
                time_us=world.now_us(),
                topic=topic,
                asked_at=asked_at,
                outcome=outcome,  # type: ignore[arg-type]
                flush=alter.flush,
                visible=alter.visible,
                weakest_send=alter.weakest_send,
                code=code,
            )
        )
