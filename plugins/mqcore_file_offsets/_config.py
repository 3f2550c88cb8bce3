"""Options of the offset store ``file://``."""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = ["FileOffsetStoreOptions"]


@attrs.frozen(kw_only=True)
class FileOffsetStoreOptions:
    """What a URL's query or a configuration table may set."""

    rewrite_bytes_min: int = attrs.field(
        default=256 * 1024,
        validator=[validators.ge(1024), validators.le(1024**3)],
        metadata={"help": "size below which a group's file is not written anew without what later commits replaced"},
    )
