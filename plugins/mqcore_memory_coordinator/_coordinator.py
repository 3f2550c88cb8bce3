"""The client side: the contract on a server of the same Trio run, with the time limit of every call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import trio

from mqcore.abc import (
    CellPair,
    CellWrite,
    Coordinator,
    CoordinatorCapabilities,
    CoordinatorContext,
    Url,
    check_coordinator_name,
)
from mqcore.errors import (
    CommandNotPossibleError,
    ConfigurationError,
    CoordinatorConflictError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
)
from mqcore_memory_coordinator._config import MemoryCoordinatorOptions
from mqcore_memory_coordinator._server import MemoryServer, server_called

__all__ = ["MemoryCoordinator"]

T = TypeVar("T")

_CAPABILITIES = CoordinatorCapabilities(one_host=True, one_process=True, durable=False, simulable=True)


class MemoryCoordinator(Coordinator):
    """The coordinator part of the scheme ``memory``.

    Its operations act on the server, and so on all of its clients: ``freeze`` and ``thaw``; ``copy``, which returns
    everything under ``copy``, and ``restore``, which takes that back.
    """

    options_class = MemoryCoordinatorOptions

    def __init__(self, url: Url, options: MemoryCoordinatorOptions, context: CoordinatorContext) -> None:
        super().__init__(url, options, context)
        if not url.rest:
            raise ConfigurationError(f"{url}: needs a name, as in memory://coordinator")
        self._is_closed = False

    @property
    def capabilities(self) -> CoordinatorCapabilities:
        """What cells in memory promise."""
        return _CAPABILITIES

    @property
    def _server(self) -> MemoryServer:
        return server_called(self.url.rest)

    async def read(self, name: str) -> CellPair:
        """See ``Coordinator``."""
        check_coordinator_name(name)
        return await self._ask(name, lambda: self._server.pair(name))

    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        """See ``Coordinator``."""
        self.check_write(name, record, lease)
        try:
            pair = await self._ask(name, lambda: self._server.put(name, expect, record, lease))
        except _NoAnswerError as error:
            raise CoordinatorOutcomeUnknownError(f"{error}: it may be written later") from None
        if pair is None:
            raise CoordinatorConflictError(f"{self.url} {name}: it was changed since it was read: read it again")
        return pair

    async def watch(self, name: str, changed: Callable[[], None]) -> None:
        """See ``Coordinator``."""

        def told(which: str) -> None:
            if which == name:
                changed()

        server = self._server
        server.add_watcher(told)
        try:
            changed()
            await trio.sleep_forever()
        finally:
            server.remove_watcher(told)

    async def names(self, prefix: str) -> list[str]:
        """See ``Coordinator``."""
        return await self._ask(prefix, lambda: [name for name in self._server.names() if name.startswith(prefix)])

    async def aclose(self) -> None:
        """See ``Coordinator``."""
        self._is_closed = True
        await trio.lowlevel.checkpoint()

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """Carry out ``freeze``, ``thaw``, ``copy`` or ``restore``; see the class."""
        await trio.lowlevel.checkpoint()
        if operation == "freeze":
            self._server.freeze()
        elif operation == "thaw":
            self._server.thaw()
        elif operation == "copy":
            return {"copy": self._server.copy()}
        elif operation == "restore":
            copy = arguments["copy"]
            assert isinstance(copy, dict)
            self._server.restore(copy)
        else:
            raise CommandNotPossibleError(f"coordinator memory has no operation {operation!r}")
        return {}

    async def _ask(self, name: str, request: Callable[[], T]) -> T:
        """Return what the server says to ``request``; the call ends in time whether or not the server does anything."""
        await trio.lowlevel.checkpoint()
        if self._is_closed:
            raise CoordinatorUnreachableError(f"{self.url} {name}: this coordinator is closed")
        answer: list[T] = []
        answered = trio.Event()

        def serve() -> None:
            answer.append(request())
            answered.set()

        self._server.submit(serve)
        with trio.move_on_after(self.context.call_timeout_ms / 1000):
            await answered.wait()
        if not answer:
            raise _NoAnswerError(f"{self.url} {name}: no answer within {self.context.call_timeout_ms} ms")
        return answer[0]


class _NoAnswerError(CoordinatorUnreachableError):
    """The server is frozen; a read that it serves later changes nothing, a write does."""
