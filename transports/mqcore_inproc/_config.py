"""Options of the in-process transport: the query of its URL or its table in a configuration file."""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = ["InprocOptions"]


@attrs.frozen(kw_only=True)
class InprocOptions:
    """Options of ``inproc://``."""

    backlog: int = attrs.field(
        default=128,
        validator=[validators.ge(1), validators.le(65_535)],
        metadata={"help": "connections that may wait to be accepted; further ones wait to connect"},
    )
    buffer_bytes: int = attrs.field(
        default=1024 * 1024,
        validator=[validators.ge(1), validators.le(1024 * 1024 * 1024)],
        metadata={"help": "bytes on their way in one direction of a stream; the sender waits beyond them"},
    )
