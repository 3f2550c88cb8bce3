"""One suite for three clients: a scenario is a coroutine that awaits what the shell at hand makes awaitable."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import mqcore
import mqcore.aio
import mqcore.sync


class Shell:
    """How one of the clients is run, entered, awaited and iterated."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.module: Any = {"trio": mqcore, "aio": mqcore.aio, "sync": mqcore.sync}[name]
        self.closed_error: type[Exception] = trio.ClosedResourceError if name == "trio" else mqcore.ClosedError

    def run(self, scenario: Callable[[], Awaitable[None]]) -> None:
        if self.name == "trio":
            trio.run(scenario)
        elif self.name == "aio":
            asyncio.run(scenario())  # type: ignore[arg-type]
        else:
            coroutine: Any = scenario()
            with pytest.raises(StopIteration):
                coroutine.send(None)

    @asynccontextmanager
    async def enter(self, manager: Any) -> AsyncIterator[Any]:
        if hasattr(manager, "__aenter__"):
            async with manager as value:
                yield value
        else:
            with manager as value:
                yield value

    async def do(self, value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    async def take(self, iterable: Any, count: int) -> list[Any]:
        taken: list[Any] = []
        if hasattr(iterable, "__aiter__"):
            async for item in iterable:
                taken.append(item)
                if len(taken) == count:
                    break
        else:
            taken += itertools.islice(iterable, count)
        return taken

    def connect(self, *urls: str, **options: Any) -> Any:
        return self.enter(self.module.connect(*urls, **options))
