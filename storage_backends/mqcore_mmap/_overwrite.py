"""Writing in place over bytes that rotted, durably: below the durable end, nothing else of the log changes."""

from __future__ import annotations

from typing import Protocol

import trio

from mqcore.errors import StorageError
from mqcore.ports import Buffer, DeviceThread, File
from mqcore_mmap._errors import storage_error
from mqcore_mmap._segment import Segment
from mqcore_mmap._shield import run_shielded

__all__ = ["overwrite"]


class OverwrittenLog(Protocol):
    """What is used of a log."""

    name: str
    segments: list[Segment]

    @property
    def start(self) -> int: ...

    @property
    def end(self) -> int: ...

    def fail(self, reason: str) -> None: ...


class OverwritingHost(Protocol):
    """What is used of the engine."""

    flush_thread: DeviceThread
    flushing: trio.Lock

    async def open(self, segment: Segment) -> File: ...


async def overwrite(log: OverwrittenLog, host: OverwritingHost, position: int, data: Buffer) -> None:
    """Replace the bytes at ``position``. Raises ``StorageError``; ``ValueError`` outside the log."""
    view = memoryview(data)
    if not log.start <= position <= position + len(view) <= log.end:
        raise ValueError(f"{log.name}: {position} to {position + len(view)} is outside the log")
    # While no flush runs: one that fails must not be mistaken for one of what was appended.
    async with host.flushing:
        for segment in [each for each in log.segments if each.base < position + len(view)]:
            end = log.end if segment.end is None else segment.end
            first, last = max(position, segment.base), min(position + len(view), end)
            if first >= last:
                continue
            if segment.is_missing:
                raise StorageError(f"{segment.path} is missing: nothing can be written in it", kind="missing")
            file = await host.open(segment)
            segment.pins += 1
            piece = [view[first - position : last - position]]
            try:
                # A device that cannot read a sector may not take a part of it either: nothing else is the worse for it.
                await run_shielded(host.flush_thread, segment.write, file, piece, first)
                try:
                    await run_shielded(host.flush_thread, file.flush)
                except OSError as error:
                    log.fail(f"bytes could not be mended: {error}")  # it covered what was appended, too (G11)
                    raise
            except OSError as error:
                raise storage_error(error, "mend", segment.path, position=first) from error
            finally:
                segment.pins -= 1
