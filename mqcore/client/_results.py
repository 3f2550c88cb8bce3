"""Administrative requests and what they return: values of ``mqcore.operations``, made JSON and read from JSON here."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar, overload

from mqcore.client._router import Router
from mqcore.client._session import Session
from mqcore.errors import RemoteProtocolError
from mqcore.operations import OPERATION_OF, from_result, to_arguments
from mqcore.protocol import Code

__all__ = ["Position", "ask", "read_result"]

R = TypeVar("R")


class Position(NamedTuple):
    """A place in a partition: the offset of the next message, and the epoch of the one before it (0: unknown)."""

    offset: int
    epoch: int


@overload
async def ask(
    router: Router, request: object, kind: type[R], *, is_repeatable: bool, at: Session | None = None
) -> R: ...


@overload
async def ask(
    router: Router, request: object, kind: None, *, is_repeatable: bool, at: Session | None = None
) -> Any: ...


async def ask(
    router: Router, request: object, kind: type[R] | None, *, is_repeatable: bool, at: Session | None = None
) -> R | Any:
    """Carry out ``request`` and return its result as ``kind``, as the JSON that it is without one.

    Raises and is cancelled as ``Router.call``.
    """
    operation = OPERATION_OF[type(request)]
    value = await router.call(operation, to_arguments(request), is_repeatable=is_repeatable, at=at)
    return value if kind is None else read_result(value, kind)


def read_result(value: object, kind: type[R]) -> R:
    """Return ``value`` as ``kind``; ``RemoteProtocolError`` when it is not the JSON of one."""
    try:
        return from_result(kind, value)
    except ValueError as error:
        text = f"the server answered what is no {kind.__name__}: {value!r:.200}"
        raise RemoteProtocolError(text, code=Code.MALFORMED_FRAME) from error
