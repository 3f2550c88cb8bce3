"""What a broker holds for peers once all of them have left: nothing, or G20 is broken. Asks for its own counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from mqcore.broker import Broker
from mqcore_conformance.histories import Probed

if TYPE_CHECKING:
    from mqcore_conformance.simulation._world import World

__all__ = ["check_given_back"]

GIVEN_BACK_S = 1.0
LOOK_S = 0.02


async def check_given_back(world: World) -> None:
    """G20: once everybody has left, the broker holds nothing for anybody."""
    broker = world.broker
    if broker is None:
        return
    held = ""
    with trio.move_on_after(GIVEN_BACK_S):
        while held := _held_by(broker):  # noqa: ASYNC110 - nobody tells when a count changes
            await trio.sleep(LOOK_S)
    if world.broker is broker:
        world.record(
            Probed(
                time_us=world.now_us(),
                clause="G20",
                question="when everybody has left, the broker holds nothing for them",
                holds=not held,
                observed=held or "nothing",
            )
        )


def _held_by(broker: Broker) -> str:
    counts = {
        "connections": len(broker.connections),
        "sessions": len(broker.sessions),
        "bytes of receive buffers": broker.receive_buffer_bytes,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
