"""Giving the space of retired files back a piece at a time, with pauses: a flush beside it must not wait for all of it.

A file system frees the blocks of a file in one transaction, and a flush that comes meanwhile waits for that: on ext4,
files of 64 MiB removed one after the other took the slowest of a hundred flushes from 3 ms to 24 ms; cut off in pieces
of 4 MiB with pauses, not measurably. Must not know of logs.
"""

from __future__ import annotations

import trio

from mqcore.ports import Clock, DeviceThread
from mqcore_mmap._files import SegmentFiles

__all__ = ["Freeing"]

_PAUSE_SHARE = 3
"""How many times as long as a piece took the next one waits."""
_PAUSE_US_MIN = 1_000


class Freeing:
    """Frees the files of one storage beside its work, which is done by ``thread``."""

    def __init__(self, files: SegmentFiles, thread: DeviceThread, clock: Clock) -> None:
        self._files = files
        self._thread = thread
        self._clock = clock
        self._is_running = False
        self._is_closing = False
        self._took_us: int | None = None  # by the last piece, None while it is under way
        self._has_more = False
        self._is_asked = False

    def recycle(self, path: str) -> None:
        """Keep a retired file ready, or remove it piece by piece after ``start``; see ``SegmentFiles.recycle``."""
        self._thread.submit(self._files.recycle, path)
        self._is_asked = True

    def start(self) -> None:
        """Remove what there is to remove, and what comes meanwhile, unless that is done already. Trio's thread."""
        if self._is_asked and not self._is_running:
            self._is_running = True
            # No nursery lives as long as a storage, which is opened and closed by calls. The task never raises.
            trio.lowlevel.spawn_system_task(self._run, name="mqcore mmap freeing")

    def discard(self, path: str) -> None:
        """Remove a retired file at once: somebody may still look at its bytes, which are not to be cut off."""
        self._thread.submit(self._files.discard, path)

    def close(self) -> None:
        """Free what is left without pauses; its thread is closed after that, which waits for it."""
        self._is_closing = True
        self._thread.submit(self._files.free_all)

    async def _run(self) -> None:
        try:
            while not self._is_closing:
                self._took_us, self._is_asked = None, False
                self._thread.submit(self._free_piece)  # after what was to be recycled
                pause_us = _PAUSE_US_MIN
                while self._took_us is None and not self._is_closing:
                    await trio.sleep(pause_us / 1e6)
                    pause_us *= 2
                if not self._has_more and not self._is_asked:
                    break
                await trio.sleep(max((self._took_us or 0) * _PAUSE_SHARE, _PAUSE_US_MIN) / 1e6)
        finally:
            self._is_running = False

    def _free_piece(self) -> None:
        begun_us = self._clock.monotonic_us()
        self._has_more = self._files.free_piece()
        self._took_us = self._clock.monotonic_us() - begun_us
