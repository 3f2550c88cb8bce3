"""Options of the TCP transport: the query of its URL or its table in a configuration file."""

from __future__ import annotations

import attrs
from attrs import validators

__all__ = ["TcpOptions"]


@attrs.frozen(kw_only=True)
class TcpOptions:
    """Options of ``tcp://``. ``TCP_NODELAY`` is always on: the protocol joins small writes itself."""

    backlog: int = attrs.field(
        default=1024,
        validator=[validators.ge(1), validators.le(65_535)],
        metadata={"help": "connections that may wait to be accepted (the kernel caps it at net.core.somaxconn)"},
    )
    socket_buffer_bytes: int = attrs.field(
        default=4 * 1024 * 1024,
        validator=[validators.ge(0), validators.le(1024 * 1024 * 1024)],
        metadata={"help": "size of the socket buffers where the kernel grants it in full; 0 leaves them to the kernel"},
    )
