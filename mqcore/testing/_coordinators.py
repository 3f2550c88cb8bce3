"""Coordinators around another one: one that changes nothing, and one with the faults of the way to a server.

What a server can do to all its clients (stand still, restart, go back) is not here: it is the server's own.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping

import trio

from mqcore.abc import CellPair, CellWrite, Coordinator, CoordinatorCapabilities
from mqcore.errors import CoordinatorConflictError, CoordinatorOutcomeUnknownError, CoordinatorUnreachableError

__all__ = ["FaultyCoordinator", "PassThroughCoordinator", "WriteFault"]

_AGAIN_S = 0.02


class PassThroughCoordinator(Coordinator):
    """The coordinator ``inner``, by another object. See ``mqcore.abc.Coordinator`` for its methods.

    It is not composed from a URL by itself: a subclass that is to be one calls this constructor with what it composed.
    """

    def __init__(self, inner: Coordinator) -> None:
        super().__init__(inner.url, inner.options, inner.context)
        self.inner = inner

    @property
    def capabilities(self) -> CoordinatorCapabilities:
        return self.inner.capabilities

    async def read(self, name: str) -> CellPair:
        return await self.inner.read(name)

    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        return await self.inner.write(name, expect, record=record, lease=lease)

    async def watch(self, name: str, changed: Callable[[], None]) -> None:
        await self.inner.watch(name, changed)

    async def names(self, prefix: str) -> list[str]:
        return await self.inner.names(prefix)

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        return await self.inner.operate(operation, arguments)

    async def aclose(self) -> None:
        await self.inner.aclose()


class WriteFault(enum.Enum):
    """What happens to one write on its way: ``LATE`` is written by ``deliver_late``, ``NO_REQUEST`` never."""

    NO_ANSWER = "no-answer"
    LATE = "late"
    NO_REQUEST = "no-request"


class FaultyCoordinator(PassThroughCoordinator):
    """One client's way to its coordinator, with faults. Without any it changes nothing.

    ``faults``: taken by the next writes, one each (None: that write goes well). ``is_cut``: nothing comes through, and
    the client knows it. ``answer_delay_ms``: every answer takes so much longer.
    """

    def __init__(self, inner: Coordinator) -> None:
        super().__init__(inner)
        self.faults: deque[WriteFault | None] = deque()
        self.is_cut = False
        self.answer_delay_ms = 0.0
        self._late: list[tuple[str, CellPair, CellWrite | None, CellWrite | None]] = []

    async def read(self, name: str) -> CellPair:
        """See ``Coordinator``."""
        await self._pass(name)
        pair = await self.inner.read(name)
        await trio.sleep(self.answer_delay_ms / 1000)
        return pair

    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        """See ``Coordinator``."""
        await self._pass(name)
        fault = self.faults.popleft() if self.faults else None
        if fault is WriteFault.LATE:
            self._late.append((name, expect, record, lease))
        if fault in (WriteFault.LATE, WriteFault.NO_REQUEST):
            raise CoordinatorOutcomeUnknownError(f"{self.url} {name}: no answer: {fault.value}")
        pair = await self.inner.write(name, expect, record=record, lease=lease)
        if fault is WriteFault.NO_ANSWER:
            raise CoordinatorOutcomeUnknownError(f"{self.url} {name}: no answer: {fault.value}")
        await trio.sleep(self.answer_delay_ms / 1000)
        return pair

    async def names(self, prefix: str) -> list[str]:
        """See ``Coordinator``."""
        await self._pass(prefix)
        return await self.inner.names(prefix)

    async def deliver_late(self) -> list[bool]:
        """Let the late writes reach the server now; return of each, in order, whether it was applied.

        A server that is slow, or away, is waited for: the check that calls has its own limit. If cancelled, what was
        not delivered is lost on the way, as a late write may be.
        """
        late, self._late = self._late, []
        return [await self._deliver(*write) for write in late]

    async def _deliver(self, name: str, expect: CellPair, record: CellWrite | None, lease: CellWrite | None) -> bool:
        """Write until there is an answer, from however slow a server; return whether any of the tries was applied."""
        is_unknown = False
        while True:
            try:
                await self.inner.write(name, expect, record=record, lease=lease)
                return True
            except CoordinatorConflictError:
                return is_unknown and self._shows(await self._read_patiently(name), record, lease)
            except CoordinatorOutcomeUnknownError:
                is_unknown = True
            except CoordinatorUnreachableError:
                pass
            await trio.sleep(_AGAIN_S)

    async def _read_patiently(self, name: str) -> CellPair:
        while True:
            try:
                return await self.inner.read(name)
            except CoordinatorUnreachableError:
                await trio.sleep(_AGAIN_S)

    @staticmethod
    def _shows(pair: CellPair, record: CellWrite | None, lease: CellWrite | None) -> bool:
        cells = [(pair.record, record), (pair.lease, lease)]
        return all(cell.write_id == put.write_id for cell, put in cells if put is not None)

    async def _pass(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_cut:
            raise CoordinatorUnreachableError(f"{self.url} {name}: cut off")
