"""Options of the TLS transport: the query of its URL or its table in a configuration file."""

from __future__ import annotations

import attrs
from attrs import validators

from mqcore.abc import TlsOptions

__all__ = ["TlsTransportOptions"]


@attrs.frozen(kw_only=True)
class TlsTransportOptions(TlsOptions):
    """Options of ``tls://``. The files stand for this URL before those of the whole broker or client."""

    handshake_timeout_ms: int = attrs.field(
        default=10_000,
        validator=[validators.ge(1), validators.le(600_000)],
        metadata={"help": "time in which a handshake has to be done, in ms"},
    )
    half_open_max: int = attrs.field(
        default=256,
        validator=[validators.ge(1), validators.le(1_000_000)],
        metadata={"help": "handshakes under way at once; beyond it the oldest is given up"},
    )
