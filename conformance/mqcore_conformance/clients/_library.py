"""A client of ``mqcore.client`` in a world: on its clock, with chance of its own, watched."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import trio

from mqcore import client as library
from mqcore.errors import MqcoreError
from mqcore_conformance.clients._watched_transport import Watcher
from mqcore_conformance.world import World

__all__ = ["GONE", "connected"]

GONE = (MqcoreError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What ends a client: another one is made."""
PATIENCE_S = 5.0
"""How long a client waits for a broker before it asks for a connection all the same."""
RETRY_MS_MIN = 10
RETRY_MS_MAX = 500
"""A run is short: times like those of the suite's own clients."""


@contextlib.asynccontextmanager
async def connected(world: World, watcher: Watcher, name: str) -> AsyncIterator[library.Client]:
    """Give a client once there is a broker. Raises as ``mqcore.client.connect``."""
    with trio.move_on_after(PATIENCE_S):
        await world.until(lambda: world.is_serving)
    options: dict[str, Any] = {"retry_ms_min": RETRY_MS_MIN, "retry_ms_max": RETRY_MS_MAX, **world.client_options}
    async with library.connect(watcher.url, ports=world.ports_of(name), name=name, **options) as client:
        yield client
