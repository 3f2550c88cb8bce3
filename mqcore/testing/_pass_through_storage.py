"""A storage backend around another one, which changes nothing: what a wrapper in a test derives from.

Override what is to be watched, delayed or failed. Everything else goes to the storage inside, so that a wrapper keeps
every ability of it, those of a later contract version included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mqcore.abc import Capabilities, FlushedLog, Log, StorageBackend, StoredAt
from mqcore.guarantees import Level
from mqcore.ports import Buffer

__all__ = ["PassThroughLog", "PassThroughStorage"]


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


class PassThroughStorage(StorageBackend):
    """The storage ``inner``, by another object. See ``mqcore.abc.StorageBackend`` for its methods.

    It is not composed from a URL by itself: a subclass that is to be one calls this constructor with what it composed.
    """

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner.url, inner.options, inner.context)
        self.inner = inner
        self.opened: dict[str, PassThroughLog] = {}
        """Logs that were opened and not deleted, by name."""

    def wrap(self, log: Log) -> PassThroughLog:
        """Return the object that stands for ``log``; called once for each log that the storage inside opens."""
        return PassThroughLog(log)

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def may_lack_reported(self) -> bool:
        return self.inner.may_lack_reported

    @property
    def directories(self) -> Sequence[StoredAt]:
        return self.inner.directories

    async def open(self) -> None:
        await self.inner.open()

    async def open_readonly(self) -> bool:
        return await self.inner.open_readonly()

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def list_logs(self) -> list[str]:
        return await self.inner.list_logs()

    async def open_log(self, name: str) -> Log:
        log = await self.inner.open_log(name)
        known = self.opened.get(name)
        # The contract: the same name gives the same object while it is open, and another one after it was closed.
        if known is None or known.inner is not log:
            known = self.opened[name] = self.wrap(log)
        return known

    async def begin_log(self, name: str, start: int) -> Log:
        log = await self.inner.begin_log(name, start)
        known = self.opened[name] = self.wrap(log)
        return known

    async def delete_log(self, name: str) -> None:
        self.opened.pop(name, None)
        await self.inner.delete_log(name)

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        return await self.inner.flush([log.inner for log in logs if isinstance(log, PassThroughLog)])

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        return await self.inner.operate(operation, arguments)

    def facts(self) -> dict[str, object]:
        return self.inner.facts()
