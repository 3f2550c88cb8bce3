"""One error out of the groups that nurseries wrap it in, for calls whose nursery is nobody else's business."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_error"]


@contextmanager
def one_error() -> Iterator[None]:
    """Raise the single error inside an exception group as itself; several stay a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, BaseExceptionGroup):
            raise
        raise error from error.__cause__
