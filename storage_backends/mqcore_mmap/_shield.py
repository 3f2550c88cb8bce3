"""A call in a device thread whose outcome must be known: a cancellation waits until it has ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from mqcore.ports import DeviceThread

__all__ = ["run_shielded"]

T = TypeVar("T")


async def run_shielded(thread: DeviceThread, function: Callable[..., T], *args: object) -> T:
    """Run ``function(*args)`` in ``thread`` to its end, and return its result or raise its error.

    If cancelled, that is seen at the caller's next checkpoint.
    """
    results: list[T] = []
    with trio.CancelScope(shield=True):
        results.append(await thread.run(function, *args))
    return results[0]
