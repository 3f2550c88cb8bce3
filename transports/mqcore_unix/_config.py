"""Options of the Unix transport: the query of its URL or its table in a configuration file."""

from __future__ import annotations

import re

import attrs
from attrs import validators

__all__ = ["UnixOptions"]


def _check_mode(_: object, attribute: attrs.Attribute[str], value: str) -> None:
    if not re.fullmatch("0?[0-7]{3}", value):
        raise ValueError(f"{attribute.name!r} must be three octal digits, such as 0660: {value!r}")


@attrs.frozen(kw_only=True)
class UnixOptions:
    """Options of ``unix://``.

    Who may connect is decided by the socket file's mode (and the directories above it). The default lets in the
    broker's own user only; ``0660`` its group too, ``0666`` everybody on the machine.
    """

    mode: str = attrs.field(
        default="0600",
        validator=_check_mode,
        metadata={"help": "mode of the socket file, octal: 0600 own user, 0660 group too, 0666 everybody"},
    )
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

    @property
    def mode_bits(self) -> int:
        """``mode`` as a number."""
        return int(self.mode, 8)
