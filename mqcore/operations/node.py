"""The running node: its facts, and what its parts do on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

__all__ = ["BrokerStatus", "Operate"]


@attrs.frozen(kw_only=True)
class BrokerStatus:
    """Return facts of the running broker: an object whose keys depend on its parts."""


@attrs.frozen(kw_only=True)
class Operate:
    """Ask the part called ``part`` (a URL's scheme) for one of its own operations."""

    part: str
    operation: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
