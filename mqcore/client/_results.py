"""What administrative requests return: values of ``mqcore.operations``, read from what a server answered."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from mqcore.errors import RemoteProtocolError
from mqcore.operations import from_result
from mqcore.protocol import Code

__all__ = ["Position", "read_result"]

R = TypeVar("R")


class Position(NamedTuple):
    """A place in a partition: the offset of the next message, and the epoch of the one before it (0: unknown)."""

    offset: int
    epoch: int


def read_result(value: object, kind: type[R]) -> R:
    """Return ``value`` as ``kind``; ``RemoteProtocolError`` when it is not the JSON of one."""
    try:
        return from_result(kind, value)
    except ValueError as error:
        text = f"the server answered what is no {kind.__name__}: {value!r:.200}"
        raise RemoteProtocolError(text, code=Code.MALFORMED_FRAME) from error
