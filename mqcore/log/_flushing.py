"""Flushes and truncations of one backend's logs of bytes, one after the other.

Knows bytes only: which batches a flush proves, and what a failed one stops, is ``_store``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from mqcore.abc import FlushedLog, Log, Notice, StorageBackend
from mqcore.errors import FlushFailedError, StorageError

__all__ = ["SerialFlusher"]

RETRY_S = 0.1
"""Pause before a flush that found no descriptor is tried again."""


class SerialFlusher:
    """Takes turns. ``stop`` is called with the error of a flush that failed, before it is raised (G11).

    ``report`` takes notices.
    """

    def __init__(
        self,
        backend: StorageBackend,
        *,
        report: Callable[[Notice], None],
        stop: Callable[[FlushFailedError], None],
    ) -> None:
        self._backend = backend
        self._report = report
        self._stop = stop
        self._lock = trio.Lock()

    async def begin_turn(self) -> None:
        """Wait for the turn. No effect if cancelled."""
        # Not simply ``acquire``: it is a checkpoint even where nothing is to be waited for, which costs a whole
        # scheduler turn in the latency of each flushed message.
        if self._lock.locked():
            await self._lock.acquire()
        else:
            self._lock.acquire_nowait()

    def end_turn(self) -> None:
        """Let the next one have its turn."""
        self._lock.release()

    async def flush_now(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """Flush, within a turn; return what was reached of each. Raises ``FlushFailedError``. Not cancelled once begun.

        Where the flush cannot begin for want of descriptors it waits for some: nothing has changed by then, so this is
        no failed flush.
        """
        is_reported = False
        reached: list[FlushedLog] = []
        with trio.CancelScope(shield=True):
            while True:
                try:
                    reached = await self._backend.flush(logs)
                    break
                except FlushFailedError as error:
                    self._stop(error)
                    raise
                except StorageError as error:
                    if error.kind != "too-many-files":
                        raise
                    if not is_reported:
                        is_reported = True
                        self._report(Notice("flush-waits", f"a flush waits, and what it is to prove with it: {error}"))
                await trio.sleep(RETRY_S)
        return reached

    async def flush(self, logs: Sequence[Log]) -> None:
        """Flush in a turn of its own. Raises ``FlushFailedError``."""
        await self.begin_turn()
        try:
            await self.flush_now(logs)
        finally:
            self.end_turn()

    async def truncate(self, log: Log, position: int) -> None:
        """Truncate in a turn of its own: a flush under way may hold what is cut. Raises ``StorageError``."""
        await self.begin_turn()
        try:
            await log.truncate(position)
        finally:
            self.end_turn()

    async def settle(self) -> None:
        """Wait for the flush or truncation that is under way."""
        await self.begin_turn()
        self.end_turn()
