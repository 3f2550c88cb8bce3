"""Whether a log that has stopped leaves anybody waiting: every send to a broker that lives is answered.

Asks and measures; what the answer says is the checkers' business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mqcore_conformance.histories import Completed, Event, FaultInjected, Invoked, LivenessObserved, Started

if TYPE_CHECKING:
    from mqcore_conformance.simulation._world import World

__all__ = ["watch_waiting"]

LOOK_S = 0.02
JUDGED_FAMILIES = frozenset({"flush-error"})
"""Families in which nothing but the broker can keep a reply from its client."""


async def watch_waiting(world: World, bound_us: int) -> None:
    """Wait until what was sent to this life, by the suite's own producers, is answered; tell who still waits then."""
    if world.plan.family not in JUDGED_FAMILIES or _died_silently(world.history):
        return
    life, began_us = world.life, world.now_us()
    own = {producer.name for producer in world.plan.producers if producer.library is None}
    asked = _unanswered(world.history, own)
    while waiting := asked & _unanswered(world.history, own):
        if world.now_us() - began_us > bound_us:
            break
        await trio.sleep(LOOK_S)
        if world.life != life or not world.is_serving:
            return
    if asked:
        world.record(
            LivenessObserved(
                time_us=world.now_us(),
                what="an answer to each send that waits for a log which has stopped",
                took_us=-1 if waiting else world.now_us() - began_us,
                bound_us=bound_us,
                reason=f"nobody answers {min(waiting)[0]}" if waiting else "",
            )
        )


def _died_silently(history: list[Event]) -> bool:
    """Whether a life ended without its clients being told, so that they may still wait for that one."""
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
