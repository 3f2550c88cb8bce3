"""A storage backend around another one, which changes nothing: what a wrapper in a test derives from.

Override what is to be watched, delayed or failed. Everything else goes to the storage inside, so that a wrapper keeps
every ability of it, those of a later contract version included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mqcore.abc import Capabilities, FlushedLog, Log, StorageBackend, StoredAt
from mqcore.log import PassThroughLog

__all__ = ["PassThroughLog", "PassThroughStorage"]


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

    async def check_in_place(self, logs: Sequence[Log] = ()) -> None:
        await self.inner.check_in_place([log.inner for log in logs if isinstance(log, PassThroughLog)])

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        return await self.inner.operate(operation, arguments)

    def facts(self) -> dict[str, object]:
        return self.inner.facts()
