"""Flushes and truncations of one backend's logs of bytes, one after the other.

Knows bytes only: which batches a flush proves, and what a failed one stops, is ``_store``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from mqcore.abc import FlushedLog, Log, Notice, StorageBackend
from mqcore.errors import FlushFailedError, StorageError
from mqcore.log._based import stored

__all__ = ["SerialFlusher"]

GUARDS_EVERY_US = 1_000_000
"""How often a flush looks at the logs without which the next start could not use what it makes durable."""

RETRY_S = 0.1
"""Pause before a flush that found no descriptor is tried again."""


class SerialFlusher:
    """Takes turns. ``stop`` is called with the error of a flush that failed, before it is raised (G11).

    ``report`` takes notices. ``now_us``: monotonic. ``guards``: logs that each start needs, whatever it is to read.
    """

    def __init__(
        self,
        backend: StorageBackend,
        *,
        report: Callable[[Notice], None],
        stop: Callable[[FlushFailedError], None],
        now_us: Callable[[], int],
    ) -> None:
        self.guards: list[Log] = []
        self._now_us = now_us
        self._guards_due_us = now_us() + GUARDS_EVERY_US
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
        """Flush, within a turn; return what was reached of each, and of guards behind them.

        Raises ``FlushFailedError``. Not cancelled once begun.
        Where the flush cannot begin for want of descriptors it waits for some: nothing has changed by then, so this is
        no failed flush.
        """
        is_reported = False
        reached: list[FlushedLog] = []
        # Seldom, for they are hardly ever dirty. Without it a broker would go on to acknowledge for days what no start
        # can serve, and the first to notice would be that start.
        if (now_us := self._now_us()) >= self._guards_due_us:
            self._guards_due_us = now_us + GUARDS_EVERY_US
            logs = [*logs, *(guard for guard in self.guards if guard not in logs)]
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
            await self.flush_now([stored(each) for each in logs])
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
