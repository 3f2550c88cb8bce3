"""What a log uses of the storage that it belongs to, so that either can be tested without the other.

``Engine`` is one. It is generic over the log, which this module must not know: the log's module imports this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from mqcore.ports import Buffer, Clock, DeviceThread, File, Mapping
from mqcore_mmap._handles import Handles
from mqcore_mmap._header import SegmentIdentity
from mqcore_mmap._segment import Segment

__all__ = ["LogHost"]

L = TypeVar("L", contravariant=True)


class LogHost(Protocol[L]):
    """See ``Engine`` for what each does."""

    append_inline: bool
    append_inline_us_max: int
    append_thread: DeviceThread
    clock: Clock
    filler: DeviceThread
    handles: Handles
    kept_bytes: int
    reader: DeviceThread
    storage_id: bytes

    def new_uid(self) -> bytes: ...

    def create(
        self, identity: SegmentIdentity, needed: int, busy: bool, durable_end: int, log_start: int
    ) -> Segment: ...

    async def allocate(self, segment: Segment, needed: int) -> None: ...

    def fill_ahead(self, segment: Segment, used: int) -> None: ...

    def may_keep(self, log: L, size: int) -> bool: ...

    async def open(self, segment: Segment) -> File: ...

    async def mapping(self, segment: Segment, size: int) -> Mapping: ...

    async def make_room(self) -> None: ...

    def log_has_segments(self, log: L) -> None: ...

    async def overwrite(self, log: L, position: int, data: Buffer) -> None: ...

    async def truncate(self, log: L, position: int) -> None: ...

    async def trim(self, log: L, position: int) -> int: ...

    async def close_logs(self, logs: Sequence[L]) -> None: ...
