"""What a broker holds for peers once all of them have left: nothing, or G20 is broken. Asks for its own counts."""

from __future__ import annotations

import trio

from mqcore.broker import Node
from mqcore_conformance.worlds.model._machine import ModelMachine

__all__ = ["check_released"]

RELEASED_S = 1.0
LOOK_S = 0.02


async def check_released(world: ModelMachine) -> None:
    """G20: once every client has left, the broker holds nothing for any."""
    broker = world.broker
    if broker is None:
        return
    held = ""
    with trio.move_on_after(RELEASED_S):
        while held := _held_by(broker):  # noqa: ASYNC110 - a count that changes wakes nothing
            await trio.sleep(LOOK_S)
    if world.broker is broker:
        world.probe("G20", "when every client has left, the broker holds nothing for them", not held, held or "nothing")


def _held_by(broker: Node) -> str:
    counts = {
        "connections": len(broker.connections),
        "sessions": len(broker.sessions),
        "bytes of receive buffers": broker.receive_buffer_bytes,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)
