"""What several members' errors are to the caller of a log. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from mqcore.errors import StorageError
from mqcore_raid._background import MemberResult

__all__ = ["as_storage_error", "first_error", "is_refusal", "refused"]

T = TypeVar("T")
REFUSALS = ("full", "limit", "too-many-files")
"""Kinds of an append that a member refuses through no fault of its own."""


def is_refusal(error: Exception | None) -> bool:
    """Whether a member refused an append for a reason that is no fault of it."""
    return isinstance(error, StorageError) and error.kind in REFUSALS


def refused(error: Exception, name: str) -> StorageError:
    """The refusal of one member as that of the log, of which nothing holds a byte any more."""
    assert isinstance(error, StorageError)
    text = f"log {name}: a member refuses the append, and so do all ({error})"
    return StorageError(text, kind=error.kind, retryable=error.retryable, path=error.path, position=error.position)


def first_error(results: Sequence[MemberResult[T]], what: str, name: str) -> Exception:
    """What to raise where every member failed: the first error, as the log's."""
    error = next((result.error for result in results if result.error is not None), None)
    return error if isinstance(error, StorageError) else as_storage_error(error, what, name, None)


def as_storage_error(error: Exception | None, what: str, name: str, position: int | None) -> Exception:
    """``error`` itself where it is a storage's; else what says that no member could do it."""
    if isinstance(error, StorageError):
        return error
    text = f"cannot {what} log {name} on any member: {error or 'no member answers'}"
    return StorageError(text, kind="io", position=position, appended=what == "append to")
