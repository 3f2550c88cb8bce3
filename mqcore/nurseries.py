"""One error out of the groups that nurseries wrap it in, for calls whose nursery is an inner matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["one_error", "root_cause"]


@contextmanager
def one_error() -> Iterator[None]:
    """Raise the single error inside an exception group as itself; several stay a group.

    A cancellation beside it is left out: whoever handles the error meets it at the next checkpoint, and a group of both
    would pass by who handles the error.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        _, errors = group.split(trio.Cancelled)
        if errors is None:
            raise
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, BaseExceptionGroup):
            raise
        raise error from error.__cause__


def root_cause(error: BaseException) -> BaseException:
    """The first error inside an exception group, however deep; any other error is its own cause."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
