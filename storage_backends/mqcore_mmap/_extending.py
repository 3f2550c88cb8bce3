"""Appending much at once: the bytes themselves make the file longer, in place of zeros that would be written first.

Zeros come first so that an append that begins finds its room, and so that a flush has no room to find. What is copied
from elsewhere in large pieces needs neither: a disk that turns out full leaves the file as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mqcore.ports import Buffer, DeviceThread, File
from mqcore_mmap._errors import is_full, storage_error
from mqcore_mmap._handles import Handles
from mqcore_mmap._header import HEADER_BYTES
from mqcore_mmap._segment import Segment
from mqcore_mmap._shield import run_shielded

__all__ = ["EXTEND_BYTES", "extend", "may_extend", "wants_zeros"]

EXTEND_BYTES = 2 * 1024 * 1024
"""Smallest append that does: more than a broker's batches have."""


class ExtendingHost(Protocol):
    """What is used of the engine."""

    append_thread: DeviceThread
    handles: Handles


def may_extend(segment: Segment, position: int, after: int) -> bool:
    """Whether an append to ``after`` may go to where nothing is allocated yet."""
    return (
        after - position >= EXTEND_BYTES
        and after - segment.base > segment.allocated
        and not segment.filling
        and not segment.was_used
    )


def wants_zeros(segment: Segment, position: int, after: int) -> bool:
    """Whether zeros are to be written ahead, after this append: more like it would go over them."""
    return after - position < EXTEND_BYTES and not segment.filling


async def extend(
    segment: Segment, host: ExtendingHost, file: File, buffers: Sequence[Buffer], position: int, after: int
) -> bool:
    """Append ``buffers``; return False, with the file as it was, where the disk is full. Raises ``StorageError``."""
    host.handles.pin(segment)
    try:
        return await run_shielded(host.append_thread, _extend, segment, file, buffers, position, after)
    except OSError as error:
        raise storage_error(error, "append to", segment.path, position=position, appended=True) from error
    finally:
        segment.pins -= 1


def _extend(segment: Segment, file: File, buffers: Sequence[Buffer], position: int, after: int) -> bool:
    try:
        segment.write(file, buffers, position)
    except OSError as error:
        if not is_full(error):
            raise
        file.truncate(HEADER_BYTES + segment.allocated)
        return False
    segment.allocated = after - segment.base
    return True
