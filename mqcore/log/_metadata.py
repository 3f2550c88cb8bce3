"""The metadata log: JSON records in order (rule R13), as control batches of a log of its own.

Knows nothing of what the records mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mqcore.log._store import LogStore

__all__ = ["MetadataLog"]


class MetadataLog:
    """Append-only JSON records; replayed to the end before anybody serves."""

    def __init__(self, store: LogStore) -> None:
        raise NotImplementedError

    async def replay(self) -> list[dict[str, Any]]:
        """Every record since the last ``compact``, in order."""
        raise NotImplementedError

    async def append(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Append records as one batch and flush; durable when it returns. Returns the offset of the first."""
        raise NotImplementedError

    async def compact(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Replace everything before by ``records`` (the whole present state) and trim what is below."""
        raise NotImplementedError
