"""Options of the HTTP gateway: the query of its URL."""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = ["HttpOptions"]


@attrs.frozen(kw_only=True)
class HttpOptions:
    """Options of ``http://``."""

    connections_max: int = attrs.field(
        default=32, validator=validators.ge(1), metadata={"help": "connections at a time; more are refused"}
    )
    timeout_ms: int = attrs.field(
        default=10_000,
        validator=validators.ge(1),
        metadata={"help": "how long a peer may take to send a request, to take its answer, or to be idle"},
    )
