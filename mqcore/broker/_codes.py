"""The wire codes that errors of the broker are answered with."""

from __future__ import annotations

from mqcore.errors import (
    ConfigurationError,
    FlushFailedError,
    MqcoreError,
    OutcomeUnknownError,
    RefusedError,
    RejectedError,
    StorageError,
)
from mqcore.protocol import Code

__all__ = ["code_of"]


def code_of(error: MqcoreError) -> int:
    """The wire code of an error that answers a call."""
    if isinstance(error, RejectedError):
        return error.code or Code.INVALID_REQUEST
    if isinstance(error, RefusedError):
        return Code.REFUSED
    if isinstance(error, ConfigurationError):
        return Code.INVALID_REQUEST
    if isinstance(error, OutcomeUnknownError | FlushFailedError):
        return Code.APPEND_FAILED
    if isinstance(error, StorageError):
        return {"full": Code.STORAGE_FULL, "too-many-files": Code.TOO_MANY_FILES}.get(error.kind, Code.STORAGE_STOPPED)
    return Code.READ_FAILED
