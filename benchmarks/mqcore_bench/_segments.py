"""New, zero-filled files of 64 MiB, made ahead by a thread: the space that toy and probe write into.

The same manner in which the file storage prepares its own (performance.md, rule 4), so that a ratio compares the rest.
Must not know of sockets or of mqcore.
"""

from __future__ import annotations

import os
import queue
import threading

__all__ = ["SEGMENT_BYTES", "Segments"]

SEGMENT_BYTES = 64 * 1024 * 1024
_ZEROS = bytes(1024 * 1024)


class Segments:
    """Zero-filled files in ``directory``, ``ahead`` of them ready, at most ``total`` in all (None: no end)."""

    def __init__(self, directory: str, *, ahead: int = 2, total: int | None = None) -> None:
        self.directory = directory
        self.paths: list[str] = []
        self.total_bytes = total * SEGMENT_BYTES if total is not None else None
        self._total = total
        self._ready: queue.Queue[int] = queue.Queue(maxsize=ahead)
        self._filler = threading.Thread(target=self._fill, daemon=True, name="segment filler")
        self._filler.start()

    def wait_ready(self) -> None:
        """Wait until all that is made ahead, or all there will be, is on disk."""
        if self._total is not None:
            self._filler.join()

    def take(self) -> int:
        """Return the descriptor of the next segment; waits for the filler when none is ready."""
        return self._ready.get()

    def take_now(self) -> int | None:
        """Like ``take``, but None when none is ready."""
        try:
            return self._ready.get_nowait()
        except queue.Empty:
            return None

    def _fill(self) -> None:
        made = 0
        while self._total is None or made < self._total:
            path = os.path.join(self.directory, f"segment-{made:06d}")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            for position in range(0, SEGMENT_BYTES, len(_ZEROS)):
                os.pwrite(descriptor, _ZEROS, position)
            os.fdatasync(descriptor)
            self.paths.append(path)
            made += 1
            self._ready.put(descriptor)
