"""The backend of ``memory://`` and its logs: the contract of ``mqcore.abc`` on arenas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import trio

from mqcore.abc import Capabilities, FlushedLog, Log, StorageBackend, StorageContext, check_log_name
from mqcore.errors import ConfigurationError, StorageError
from mqcore.guarantees import Level
from mqcore.ports import Buffer
from mqcore.url import Url
from mqcore.volatile import VolatileLog, flush_volatile
from mqcore_memory._arenas import Arenas
from mqcore_memory._config import MemoryOptions

__all__ = ["MemoryStorage"]

CAPABILITIES = Capabilities(append_level=Level.MEMORY, flush_level=Level.MEMORY, simulable=True)


class MemoryLog(VolatileLog):
    """A handle on the arenas of one log. Nothing waits but for the checkpoint that each call is."""

    def __init__(self, name: str, arenas: Arenas) -> None:
        super().__init__(name, CAPABILITIES)
        self.arenas = arenas

    @property
    def start(self) -> int:
        """Position of the first byte kept."""
        return self.arenas.start

    @property
    def end(self) -> int:
        """Position after the last byte."""
        return self.arenas.end

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """Append ``chunks``; see ``Log.append``. Kind ``full`` when ``bytes_max`` is reached."""
        self.size_of(chunks)
        position = self.arenas.append(chunks)
        await trio.lowlevel.checkpoint()
        return position

    async def read(self, position: int, size: int) -> memoryview:
        """Return a view of up to ``size`` bytes; see ``Log.read``."""
        await trio.lowlevel.checkpoint()
        self.check_open()
        return self.arenas.read(position, size)

    async def truncate(self, position: int) -> None:
        """Cut everything from ``position`` on."""
        await trio.lowlevel.checkpoint()
        self.check_open()
        self.arenas.truncate(position)

    async def trim(self, position: int) -> int:
        """Free whole arenas below ``position``; return the new start."""
        await trio.lowlevel.checkpoint()
        self.check_open()
        return self.arenas.trim(position)


class MemoryStorage(StorageBackend):
    """``memory://?bytes_max=...``. Every broker has its own; nothing outlives ``aclose``."""

    options_class: ClassVar[type[MemoryOptions]] = MemoryOptions

    def __init__(self, url: Url, options: MemoryOptions, context: StorageContext) -> None:
        super().__init__(url, options, context)
        if url.rest:
            raise ConfigurationError(f"{url}: memory:// has no path; write memory:// alone")
        self._bytes_max = options.bytes_max
        self._arena_bytes_max = options.arena_bytes_max
        self._bytes_used = 0
        self._arenas: dict[str, Arenas] = {}
        self._handles: dict[str, MemoryLog] = {}
        self._begun: dict[str, int] = {}
        """Where logs begin that do not begin at 0."""
        self._open = False

    @property
    def capabilities(self) -> Capabilities:
        """Append and flush reach ``memory``."""
        return CAPABILITIES

    async def open(self) -> None:
        """Begin empty."""
        self._open = True
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close every log and free the memory."""
        for handle in self._handles.values():
            handle.close()
        for arenas in self._arenas.values():
            arenas.free()
        self._handles.clear()
        self._arenas.clear()
        self._begun.clear()
        self._open = False
        await trio.lowlevel.checkpoint()

    async def list_logs(self) -> list[str]:
        """Names of the logs that were ever appended to, sorted."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        return sorted(name for name, arenas in self._arenas.items() if arenas.end > self._begun.get(name, 0))

    async def open_log(self, name: str) -> Log:
        """Open or make the log called ``name``."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        check_log_name(name, CAPABILITIES.log_name_bytes_max)
        handle = self._handles.get(name)
        if handle is None or handle.closed:
            arenas = self._arenas.get(name)
            if arenas is None:
                arenas = self._arenas[name] = Arenas(self._reserve, self._release, self._arena_bytes_max)
            handle = self._handles[name] = MemoryLog(name, arenas)
        return handle

    async def begin_log(self, name: str, start: int) -> Log:
        """Make the log called ``name``, to begin at ``start``. ``ValueError`` when there is one."""
        log = await self.open_log(name)
        if log.end:
            raise ValueError(f"log {name} exists already, it cannot be made to begin at {start}")
        if start:
            await self.delete_log(name)
            self._begun[name] = start
            self._arenas[name] = Arenas(self._reserve, self._release, self._arena_bytes_max, start)
            log = await self.open_log(name)
        return log

    async def delete_log(self, name: str) -> None:
        """Delete a log; its handle becomes closed."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._begun.pop(name, None)
        handle = self._handles.pop(name, None)
        if handle is not None:
            handle.close()
        arenas = self._arenas.pop(name, None)
        if arenas is not None:
            arenas.free()

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """Return the ends: there is nothing better to reach than memory."""
        return await flush_volatile(logs)

    def facts(self) -> dict[str, object]:
        """Bytes in use and the most that may be."""
        return {"bytes_max": self._bytes_max, "bytes_used": self._bytes_used}

    def _reserve(self, size: int) -> None:
        if self._bytes_used + size > self._bytes_max:
            raise StorageError(
                f"memory storage is full: {self._bytes_used} of {self._bytes_max} bytes are used and {size} more are "
                "needed; delete topics or raise bytes_max",
                kind="full",
                retryable=True,
            )
        self._bytes_used += size

    def _release(self, size: int) -> None:
        self._bytes_used -= size

    def _check_open(self) -> None:
        if not self._open:
            raise StorageError("memory storage is not open", kind="closed")
