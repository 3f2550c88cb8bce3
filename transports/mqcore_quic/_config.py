"""Options of the QUIC transport: the query of its URL or its table in a configuration file."""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import validators

from mqcore.abc import TlsOptions

__all__ = ["QuicOptions"]


def _number(default: int, least: int, most: int, *, help: str) -> int:
    value: int = attrs.field(
        default=default, validator=[validators.ge(least), validators.le(most)], metadata={"help": help}
    )
    return value


@attrs.frozen(kw_only=True)
class QuicOptions(TlsOptions):
    """Options of ``quic://``. The files stand for this URL before those of the whole broker or client."""

    engine: Literal["qh3", "aioquic"] = attrs.field(
        default="qh3",
        validator=validators.in_(("qh3", "aioquic")),
        metadata={"help": "the library that speaks QUIC: qh3 (fast), or aioquic"},
    )
    window_bytes: int = _number(
        1024 * 1024, 64 * 1024, 1 << 30, help="what a peer may send on a stream ahead of its reader"
    )
    held_bytes_max: int = _number(
        1 << 30, 1 << 20, 1 << 40, help="what all connections of a listener may have out of order; a share of it each"
    )
    before_login_bytes_max: int = _number(
        64 * 1024, 48 * 1024, 1 << 30, help="all that a peer may send before it has logged in, or greeted the broker"
    )
    idle_timeout_ms: int = _number(
        10_000, 300, 600_000, help="silence after which the peer is given up, in ms; a third of it, and it is asked"
    )
    handshake_timeout_ms: int = _number(5_000, 1, 600_000, help="time in which a handshake has to be done, in ms")
    half_open_max: int = _number(
        64, 0, 1_000_000, help="handshakes under way beyond which a client has to prove its address first"
    )
    half_open_proved_max: int = _number(
        256, 1, 1_000_000, help="handshakes under way of proved addresses, a quarter of them of one; the oldest goes"
    )
    streams_max: int = _number(4_096, 1, 1_000_000, help="streams that a peer may have open at once")
    datagram_bytes: int = _number(1_200, 1_200, 16_384, help="largest datagram that is sent; 1200 goes everywhere")
    socket_buffer_bytes: int = _number(
        4 * 1024 * 1024, 0, 1 << 30, help="size of the socket's buffers, as far as the kernel grants it; 0: its own"
    )
