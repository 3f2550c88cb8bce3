"""The backend of ``null://`` and its logs: counters in place of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import trio

from mqcore.abc import Capabilities, FlushedLog, Log, StorageBackend, StorageContext, check_log_name
from mqcore.errors import ConfigurationError
from mqcore.guarantees import Level
from mqcore.ports import Buffer
from mqcore.url import Url
from mqcore.volatile import VolatileLog, flush_volatile
from mqcore_null._config import NullOptions

__all__ = ["NullStorage"]

CAPABILITIES = Capabilities(append_level=Level.NONE, flush_level=Level.NONE, simulable=True)

ZEROS = memoryview(bytes(1024 * 1024))


class NullLog(VolatileLog):
    """A start and an end."""

    def __init__(self, name: str) -> None:
        super().__init__(name, CAPABILITIES)
        self._start = 0
        self._end = 0

    @property
    def start(self) -> int:
        """Position given to the last ``trim``."""
        return self._start

    @property
    def end(self) -> int:
        """Number of bytes ever appended, less what was truncated."""
        return self._end

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """Count the bytes of ``chunks`` and drop them."""
        position = self._end
        self._end = position + self.size_of(chunks)
        await trio.lowlevel.checkpoint()
        return position

    async def read(self, position: int, size: int) -> memoryview:
        """Return zeros, at most 1 MiB of them."""
        await trio.lowlevel.checkpoint()
        self.check_open()
        self._check_position(position)
        return ZEROS[: max(0, min(size, self._end - position))]

    async def truncate(self, position: int) -> None:
        """Set the end back to ``position``."""
        await trio.lowlevel.checkpoint()
        self.check_open()
        self._check_position(position)
        self._end = position

    async def trim(self, position: int) -> int:
        """Set the start to ``position``, at most the end."""
        await trio.lowlevel.checkpoint()
        self.check_open()
        self._start = max(self._start, min(position, self._end))
        return self._start

    def _check_position(self, position: int) -> None:
        if not self._start <= position <= self._end:
            raise ValueError(f"position {position} is outside the log ({self._start} to {self._end})")


class NullStorage(StorageBackend):
    """``null://``."""

    options_class: ClassVar[type[NullOptions]] = NullOptions

    def __init__(self, url: Url, options: NullOptions, context: StorageContext) -> None:
        super().__init__(url, options, context)
        if url.rest:
            raise ConfigurationError(f"{url}: null:// has no path; write null:// alone")
        self._logs: dict[str, NullLog] = {}

    @property
    def capabilities(self) -> Capabilities:
        """Level ``none``: whatever asks for a promise refuses this backend."""
        return CAPABILITIES

    async def open(self) -> None:
        """Nothing to open."""
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close every log and forget it."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()
        await trio.lowlevel.checkpoint()

    async def list_logs(self) -> list[str]:
        """Names of the open logs that were appended to, sorted."""
        await trio.lowlevel.checkpoint()
        return sorted(name for name, log in self._logs.items() if log.end)

    async def open_log(self, name: str) -> Log:
        """Open the log called ``name``; after it was closed it begins at 0 again."""
        await trio.lowlevel.checkpoint()
        check_log_name(name, CAPABILITIES.log_name_bytes_max)
        log = self._logs.get(name)
        if log is None or log.closed:
            log = self._logs[name] = NullLog(name)
        return log

    async def delete_log(self, name: str) -> None:
        """Forget a log; its handle becomes closed."""
        await trio.lowlevel.checkpoint()
        log = self._logs.pop(name, None)
        if log is not None:
            log.close()

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """Return the ends."""
        return await flush_volatile(logs)
