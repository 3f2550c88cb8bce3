"""Options of the coordinator ``memory://``: there are none."""

from __future__ import annotations

import attrs

__all__ = ["MemoryCoordinatorOptions"]


@attrs.frozen(kw_only=True)
class MemoryCoordinatorOptions:
    """Nothing that a URL's query or a configuration table may set."""
