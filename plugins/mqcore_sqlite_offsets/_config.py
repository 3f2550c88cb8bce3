"""Options of the offset store ``sqlite://``."""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = ["SqliteOffsetStoreOptions"]


@attrs.frozen(kw_only=True)
class SqliteOffsetStoreOptions:
    """What a URL's query or a configuration table may set."""

    size_bytes_max: int = attrs.field(
        default=1024**3,
        validator=[validators.ge(64 * 1024), validators.le(2**42)],
        metadata={"help": "largest size of the database; a commit that does not fit is refused"},
    )
