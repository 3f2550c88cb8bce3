"""Requests about replica sets and about what a node keeps aside. Reached as ``client.sets``."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import TypeVar

from mqcore.client._results import read_result
from mqcore.client._router import Router
from mqcore.errors import RemoteProtocolError
from mqcore.operations import (
    DeletedQuarantined,
    MemberState,
    QuarantinedBatches,
    QuarantinedSuffix,
    RecoveredSet,
    SetDescription,
)

__all__ = ["SetAdmin"]

R = TypeVar("R")


class SetAdmin:
    """Requests about the replica set of the server that answers. What only the primary does goes to it by itself.

    Every method raises as those of ``Admin`` do. What one node is asked for (``init``, ``promote``, ``recover``,
    ``demote``, and what is kept aside) is asked of it by a client that was connected to that node alone.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def describe(self) -> SetDescription:
        """Return the set as the server that answers knows it; ``known_age_ms`` says how old that is."""
        return await self._call("set.describe", SetDescription, is_repeatable=True)

    async def init(self) -> SetDescription:
        """Write the first record of the set, with the server as its first primary."""
        return await self._call("set.init", SetDescription)

    async def promote(self, *, old_primary_is_stopped: bool = False, unclean: bool = False) -> SetDescription:
        """Make the server the primary. Both arguments are an operator's word; see ``PromoteNode``."""
        return await self._call(
            "set.promote", SetDescription, old_primary_is_stopped=old_primary_is_stopped, unclean=unclean
        )

    async def demote(self, epoch: int, reign_id: str, primary: str = "") -> SetDescription:
        """Have the server leave the reign named, for the node ``primary`` (its id; empty: none yet)."""
        return await self._call(
            "set.demote", SetDescription, is_repeatable=True, epoch=epoch, reign_id=reign_id, primary=primary
        )

    async def switch_over(self, to: str = "") -> SetDescription:
        """Hand the set over to the member called ``to``, without a loss; empty: to the one that lacks least."""
        return await self._call("set.switchover", SetDescription, to=to)

    async def recover(self, *, missing_are_lost: bool = False) -> RecoveredSet:
        """Write the record anew from what the nodes hold; the server reigns then."""
        return await self._call("set.recover", RecoveredSet, missing_are_lost=missing_are_lost)

    async def cap_copies(self, copies: int | None, *, other_side_is_stopped: bool = False) -> SetDescription:
        """Lower what synchronous replication waits for; None takes that back."""
        return await self._call(
            "set.cap", SetDescription, is_repeatable=True, copies=copies, other_side_is_stopped=other_side_is_stopped
        )

    async def add_replica(self, name: str, *, sync_bytes_per_s: int | None = None) -> tuple[MemberState, ...]:
        """Take the configured node ``name`` into the set, and return the members: it is in sync later.

        ``sync_bytes_per_s``: most that it is sent while it is not in sync; None: what the primary's configuration says.
        """
        return await self._call(
            "replica.add", tuple[MemberState, ...], is_repeatable=True, name=name, sync_bytes_per_s=sync_bytes_per_s
        )

    async def remove_replica(self, name: str) -> tuple[MemberState, ...]:
        """Take the node ``name`` out of the in-sync set for good, and return the members."""
        return await self._call("replica.remove", tuple[MemberState, ...], is_repeatable=True, name=name)

    async def replicas(self) -> tuple[MemberState, ...]:
        """Return the members of the set as the primary sees them."""
        return await self._call("replica.list", tuple[MemberState, ...], is_repeatable=True)

    async def quarantined(self) -> list[QuarantinedSuffix]:
        """Return everything that the server keeps aside, by name."""
        found: list[QuarantinedSuffix] = []
        while True:
            after = found[-1].name if found else ""
            page = await self._call("quarantine.list", tuple[QuarantinedSuffix, ...], is_repeatable=True, after=after)
            if not page:
                return found
            found += page

    async def quarantined_batches(self, name: str) -> AsyncIterator[bytes]:
        """Iterate over the batches of the side file ``name`` as they were stored."""
        position: int | None = 0
        while position is not None:
            page = await self._call(
                "quarantine.show", QuarantinedBatches, is_repeatable=True, name=name, position=position
            )
            for text in page.batches:
                try:
                    yield base64.b64decode(text, validate=True)
                except ValueError as error:
                    raise RemoteProtocolError(f"the server answered what is no base64: {text!r:.100}") from error
            if page.next_position is not None and page.next_position <= position:
                raise RemoteProtocolError(f"the server answered position {page.next_position} after {position}")
            position = page.next_position

    async def delete_quarantined(self, name: str) -> DeletedQuarantined:
        """Delete the side file ``name`` of the server."""
        return await self._call("quarantine.delete", DeletedQuarantined, name=name)

    async def _call(self, operation: str, kind: type[R], *, is_repeatable: bool = False, **arguments: object) -> R:
        return read_result(await self._router.call(operation, arguments, is_repeatable=is_repeatable), kind)
