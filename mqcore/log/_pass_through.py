"""A log around another one, which changes nothing: what a wrapper derives from.

Override what is to be other. Everything else goes to the log inside, so that a wrapper keeps every ability of it, those
of a later contract version included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mqcore.abc import Log
from mqcore.guarantees import Level
from mqcore.ports import Buffer

__all__ = ["PassThroughLog"]


class PassThroughLog(Log):
    """The log ``inner``, by another object. See ``mqcore.abc.Log`` for its methods."""

    def __init__(self, inner: Log) -> None:
        self.inner = inner
        self.name = inner.name

    @property
    def start(self) -> int:
        return self.inner.start

    @property
    def end(self) -> int:
        return self.inner.end

    @property
    def durable_end(self) -> int:
        return self.inner.durable_end

    @property
    def level(self) -> Level:
        return self.inner.level

    @property
    def may_be_stale(self) -> bool:
        return self.inner.may_be_stale

    async def append(self, chunks: Sequence[Buffer]) -> int:
        return await self.inner.append(chunks)

    async def read(self, position: int, size: int) -> memoryview:
        return await self.inner.read(position, size)

    async def mend(self, position: int, size_max: int, whole: Callable[[memoryview], int]) -> int:
        return await self.inner.mend(position, size_max, whole)

    async def overwrite(self, position: int, data: Buffer) -> None:
        await self.inner.overwrite(position, data)

    async def truncate(self, position: int) -> None:
        await self.inner.truncate(position)

    async def trim(self, position: int) -> int:
        return await self.inner.trim(position)

    async def aclose(self) -> None:
        await self.inner.aclose()
