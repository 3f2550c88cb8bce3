"""What goes on beside the copying of a log: the next bytes are read, and what was copied is flushed in larger pieces.

A copy that reads, writes and flushes in turn has each device wait for the other, and all of the flush for the end.
Knows nothing of how a member comes to belong.
"""

from __future__ import annotations

import trio

from mqcore.abc import Log
from mqcore.errors import StorageError
from mqcore_raid._log import MirrorLog
from mqcore_raid._member import ArrayMember

__all__ = ["FLUSH_BYTES", "Behind"]

FLUSH_BYTES = 32 * 1024 * 1024
"""Copied bytes from which on they are flushed while more is copied; less than twice as much waits in memory."""


class Behind:
    """Beside a copy to ``member``, in ``nursery``."""

    def __init__(self, member: ArrayMember, nursery: trio.Nursery) -> None:
        self._member = member
        self._nursery = nursery
        self._copied: dict[Log, MirrorLog] = {}
        self._bytes = 0
        self._idle = trio.Event()
        self._idle.set()
        self._error: Exception | None = None

    def read_on(self, log: MirrorLog, position: int, size: int) -> None:
        """Have ``size`` bytes of ``log`` brought into memory from the copy that is read; errors come when it is."""
        if position < log.end:
            self._nursery.start_soon(log.warm, position, size, 1)

    async def copied(self, log: MirrorLog, target: Log, size: int) -> None:
        """Note that ``size`` bytes were appended to ``target``; when they are many, have them flushed.

        One flush at a time: waits for the one before, and raises what it raised. If cancelled, one that began goes on.
        """
        self._copied[target] = log
        self._bytes += size
        if self._bytes < FLUSH_BYTES:
            return
        await self.settled()
        # The flush fails for all where one was deleted meanwhile.
        targets = [target for target, log in self._copied.items() if not log.closed]
        self._copied, self._bytes = {}, 0
        self._idle = trio.Event()
        self._nursery.start_soon(self._member.during, self._flush, targets)

    async def settled(self) -> None:
        """Return once no flush is under way. Raises what the last one raised."""
        await self._idle.wait()
        if self._error is not None:
            raise self._error

    async def _flush(self, targets: list[Log]) -> None:
        try:
            if self._member.storage is not None:
                await self._member.storage.flush(targets)
        except StorageError as error:
            if error.kind != "closed":  # deleted; what was not flushed of the others is at the end
                self._error = error
        except Exception as error:
            self._error = error
        finally:
            self._idle.set()
