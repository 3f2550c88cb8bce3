"""A log that ends with its process: what storages that keep nothing outside of it have in common.

Must not know where the bytes are, nor whether there are any.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from mqcore.abc import Capabilities, FlushedLog, Log
from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.ports import Buffer

__all__ = ["VolatileLog", "flush_volatile"]


class VolatileLog(Log):
    """A handle on one log, of a storage whose flush reaches no more than its append. ``capabilities`` are its."""

    def __init__(self, name: str, capabilities: Capabilities) -> None:
        self.name = name
        self._capabilities = capabilities
        self._closed = False

    @property
    def level(self) -> Level:
        """The level of a flush: it does not change."""
        return self._capabilities.flush_level

    @property
    def durable_end(self) -> int:
        """``end``: an append reaches the level of a flush."""
        return self.end

    @property
    def closed(self) -> bool:
        """Whether this handle can no longer be used."""
        return self._closed

    def close(self) -> None:
        """Close the handle at once, whatever is under way. Idempotent."""
        self._closed = True

    async def aclose(self) -> None:
        """Close the handle. What its storage keeps stays until that is closed."""
        self._closed = True
        await trio.lowlevel.checkpoint()

    def check_open(self) -> None:
        """Raise ``StorageError`` (kind ``closed``) after ``aclose``."""
        if self._closed:
            raise StorageError(f"log {self.name} is closed", kind="closed")

    def size_of(self, chunks: Sequence[Buffer]) -> int:
        """Return how many bytes an append of ``chunks`` has. Raises ``StorageError`` (``closed``, ``limit``)."""
        self.check_open()
        total = sum(len(chunk) if isinstance(chunk, bytes) else memoryview(chunk).nbytes for chunk in chunks)
        most = self._capabilities.append_bytes_max
        if total > most:
            raise StorageError(f"an append of {total} bytes; at most {most}", kind="limit")
        return total


async def flush_volatile(logs: Sequence[Log]) -> list[FlushedLog]:
    """Return what a flush of ``logs`` reached: their ends, there being nothing better than an append."""
    # Taken before the checkpoint: what is appended during it was not asked for.
    reached = [FlushedLog(log.end, log.level) for log in logs]
    await trio.lowlevel.checkpoint()
    return reached
