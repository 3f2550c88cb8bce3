"""One broker's storage: its identity and reign, all of its logs, and the flush that serves many of them at once.

Knows nothing of topics and requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mqcore.abc import Notice, StorageBackend
from mqcore.limits import Limits
from mqcore.log._partition_log import PartitionLog
from mqcore.ports import Ports

__all__ = ["LogStore"]


class LogStore:
    """The logs of one broker on one backend."""

    node_id: bytes
    """16 random bytes, drawn once for this storage."""
    incarnation: int
    epoch: int
    """Number of this run's reign."""
    reign_id: bytes
    was_clean: bool
    """Whether the stop before this start was clean (true for a new storage)."""

    def __init__(
        self,
        backend: StorageBackend,
        *,
        ports: Ports,
        limits: Limits,
        node_name: str,
        report: Callable[[Notice], None],
        flushed_only: bool = False,
    ) -> None:
        raise NotImplementedError

    async def open(self) -> None:
        """Open the backend, read or make the identity, raise the incarnation (R2), open a new reign (R3)."""
        raise NotImplementedError

    async def open_log(self, name: str, *, salt: int) -> PartitionLog:
        """Return the partition log called ``name``, recovered; the same object while it is open."""
        raise NotImplementedError

    async def delete_log(self, name: str) -> None:
        """Delete a partition log with all that belongs to it. No error when there is none."""
        raise NotImplementedError

    async def list_logs(self) -> list[str]:
        """Names of the partition logs that exist, sorted."""
        raise NotImplementedError

    async def flush(self, logs: Sequence[PartitionLog]) -> None:
        """Make ``logs`` durable with one flush; moves ``durable_offset`` of each. ``FlushFailedError`` marks them failed."""
        raise NotImplementedError

    async def aclose(self, *, flush: bool = True) -> None:
        """Checkpoint and flush all logs, mark the stop clean, close the backend. Idempotent."""
        raise NotImplementedError
