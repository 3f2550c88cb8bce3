"""The wire codes, and the facts, that errors of the broker are answered with."""

from __future__ import annotations

from mqcore.errors import (
    ConfigurationError,
    FlushFailedError,
    MqcoreError,
    NotPrimaryError,
    OutcomeUnknownError,
    ProducerFencedError,
    RefusedError,
    RejectedError,
    StorageError,
)
from mqcore.protocol import Code

__all__ = ["code_of", "facts_of"]


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


def facts_of(error: MqcoreError) -> dict[str, object]:
    """What is told with an error besides its text, by the names that docs/protocol.md has for it."""
    if isinstance(error, NotPrimaryError):
        return {"epoch": error.epoch, "urls": list(error.urls)}
    if isinstance(error, ProducerFencedError):
        return {"name": error.producer_name, "epoch": error.epoch, "producer_id": error.producer_id}
    return {}
