"""The operator of a simulation: restarts a broker of which a log has stopped, in order or not.

Before that it measures whether the stopped log leaves a send waiting: every send to a broker that lives is answered.
What the answer says is the checkers' business.
"""

from __future__ import annotations

import trio

from mqcore_conformance.histories import Completed, Event, FaultInjected, Invoked, Started
from mqcore_conformance.worlds.model._machine import ModelMachine

__all__ = ["has_stopped_log", "operate"]

LOOK_S = 0.02
OPERATOR_S = 0.25
JUDGED_FAMILIES = frozenset({"flush-error"})
"""Families in which nothing but the broker can keep a reply from its client."""


async def operate(world: ModelMachine) -> None:
    """Restart the broker whenever one of its logs has stopped, until cancelled."""
    while True:
        await trio.sleep(OPERATOR_S)
        if has_stopped_log(world):
            life = world.life
            await _watch_waiting(world)
            if world.life != life:
                continue
            if world.random.random() < 0.5:
                world.stop()
            else:
                world.kill("process-kill")
            await world.ended(life)


def has_stopped_log(world: ModelMachine) -> bool:
    """Whether a log of the broker takes no more appends, or cannot be opened, so that an operator would restart it."""
    broker = world.broker
    if broker is None:
        return False
    reported = any(notice.kind == "log-not-opened" for notice in world.notices[world.notices_before_life :])
    reign = broker.reign
    return reported or (reign is not None and any(each.failure is not None for each in reign.partitions.values()))


async def _watch_waiting(world: ModelMachine) -> None:
    """Wait until what was sent to this life, by the suite's own producers, is answered; record what still waits."""
    if world.plan.family not in JUDGED_FAMILIES or _died_silently(world.history):
        return
    life, began_us = world.life, world.now_us()
    own = {producer.name for producer in world.plan.producers if producer.library is None}
    asked = _unanswered(world.history, own)
    while waiting := asked & _unanswered(world.history, own):
        if world.now_us() - began_us > world.bounds.liveness_us:
            break
        await trio.sleep(LOOK_S)
        if world.life != life or not world.is_serving:
            return
    if asked:
        what = "an answer to each send that waits for a log which has stopped"
        world.measure(what, began_us, not waiting, f"no answer to {min(waiting)[0]}" if waiting else "")


def _died_silently(history: list[Event]) -> bool:
    """Whether a life ended without a word to its clients, so that they may still wait for that one."""
    return any(isinstance(event, FaultInjected) and event.kind == "power-cut" for event in history)


def _unanswered(history: list[Event], processes: set[str]) -> set[tuple[str, int]]:
    """Send and attempt of what was sent since the last start and has not ended."""
    found: set[tuple[str, int]] = set()
    for event in history:
        if isinstance(event, Started):
            found.clear()
        elif isinstance(event, Invoked) and not event.one_way and event.process in processes:
            found.add((event.send, event.attempt))
        elif isinstance(event, Completed):
            found.discard((event.send, event.attempt))
    return found
