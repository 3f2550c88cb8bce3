"""Options of ``memory://``."""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = ["MemoryOptions"]

KIB = 1024
MIB = 1024 * KIB


@attrs.frozen(kw_only=True)
class MemoryOptions:
    """What a URL's query or a configuration table may set."""

    bytes_max: int = attrs.field(
        default=1024 * MIB,
        validator=validators.ge(64 * KIB),
        metadata={"help": "most bytes of all logs together; beyond it appends are rejected until something is trimmed"},
    )
    arena_bytes_max: int = attrs.field(
        default=4 * MIB,
        validator=validators.ge(16 * KIB),
        metadata={"help": "size up to which the arenas of a busy log grow; what trim frees is whole arenas"},
    )
