"""Options of ``null://``: there are none."""

from __future__ import annotations

import attrs

__all__ = ["NullOptions"]


@attrs.frozen(kw_only=True)
class NullOptions:
    """Nothing to set."""
