"""What a store knows of its own identity (R2), and how it changes that while it is open.

Must not know of logs, nor of why the identity changes.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from mqcore.log._identity import Identity, IdentityLog

__all__ = ["StoreIdentity"]


class StoreIdentity:
    """The identity of one open storage, one change at a time."""

    incarnation: int
    """Raised at each start after which something that was reported as held may be missing (R2)."""
    clock_base_ms: int
    """As in the identity: what the wall clock is held to (R15); another one is durable with the next record."""

    def __init__(self) -> None:
        self._identity: Identity | None = None
        self._identity_log: IdentityLog | None = None
        self._changing_identity = trio.Lock()

    @property
    def newest_epoch(self) -> int:
        """Highest number of any node's reign that this storage has seen, durably; 0 before the first."""
        return 0 if self._identity is None else self._identity.highest_epoch

    @property
    def reigned_last(self) -> bool:
        """Whether the newest reign that this storage has seen is one of its own node."""
        return self._identity is not None and 0 < self._identity.reign_number == self.newest_epoch

    @property
    def flushed_only(self) -> bool:
        """Whether this node reports flushed positions only (R2 b), of which a power cut takes none."""
        return self._identity is not None and self._identity.flushed_only

    async def raise_incarnation(self) -> None:
        """Note, durably, that something which this node has reported as held is gone (R2). Raises ``StorageError``."""
        await self._change_identity(lambda identity: attrs.evolve(identity, incarnation=identity.incarnation + 1))
        # Not before: one that the disk has not got might be given once more by the next start.
        assert self._identity is not None
        self.incarnation = self._identity.incarnation

    async def _change_identity(self, change: Callable[[Identity], Identity]) -> None:
        with trio.CancelScope(shield=True):
            async with self._changing_identity:
                assert self._identity is not None
                await self._write_identity(change(self._identity))

    async def _write_identity(self, identity: Identity) -> None:
        assert self._identity_log is not None
        await self._identity_log.write(identity := attrs.evolve(identity, clock_base_ms=self.clock_base_ms))
        self._identity = identity
