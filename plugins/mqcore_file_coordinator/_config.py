"""Options of the coordinator ``file://``."""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = ["FileCoordinatorOptions"]


@attrs.frozen(kw_only=True)
class FileCoordinatorOptions:
    """What a URL's query or a configuration table may set."""

    watch_ms: int = attrs.field(
        default=20,
        validator=[validators.ge(1), validators.le(2_000)],
        metadata={"help": "time between two looks at a watched file, in ms"},
    )
