"""A test beside an open broker, on virtual time and without a port: what the pytest fixture ``mqcore_broker`` does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mqcore.broker import Node, open_broker
from mqcore.testing._simulation import model_ports, run_simulation

__all__ = ["run_beside_broker"]

T = TypeVar("T")

URL = "inproc://mqcore-testing"


def run_beside_broker(test: Callable[[Node], Awaitable[T]], *, seed: int = 0, **arguments: Any) -> T:
    """Open a broker on model ports, run ``await test(broker)`` beside it on virtual time, and return the result.

    ``arguments`` are those of ``mqcore.open_broker``; by default the storage is ``memory://`` and the only listener
    an in-process one, whose URL is ``broker.urls[0]``. The broker is stopped in order afterwards. Raises what the test
    raises, and ``trio.TooSlowError`` when nothing moves any more.
    """
    settings: dict[str, Any] = {"storage": "memory://", "listen": [URL], "ports": model_ports(seed), **arguments}

    async def main() -> T:
        async with open_broker(**settings) as broker:
            return await test(broker)

    return run_simulation(main, seed=seed)
