"""Options of ``mmap://``."""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = ["MmapOptions"]

KIB = 1024
MIB = 1024 * KIB


def _size(default: int, least: int, help: str) -> int:
    return attrs.field(default=default, validator=validators.ge(least), metadata={"help": help})


@attrs.frozen(kw_only=True)
class MmapOptions:
    """What a URL's query or a configuration table may set."""

    segment_bytes: int = _size(64 * MIB, 4 * KIB, "size of a full segment; retention gives up whole segments")
    first_extent_bytes: int = _size(64 * KIB, 4 * KIB, "what a new log takes on the disk; it doubles as the log grows")
    extent_bytes_max: int = _size(8 * MIB, 4 * KIB, "most zeros written ahead of a log's end")
    ready_segments_max: int = _size(4, 0, "freed segments kept to be written again, which is faster than new space")
    open_files_max: int = _size(
        0, 0, "most descriptors for segments and mappings; 0: the process's limit less a reserve for connections"
    )
    journal_bytes: int = _size(64 * MIB, 64 * KIB, "size of each of the two journals that share a flush among logs")
    journal_range_bytes_max: int = _size(
        256 * KIB, 0, "a log with more unflushed bytes than this is flushed in its own file; 0: no journal"
    )
