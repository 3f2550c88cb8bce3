"""What a node of a set does about damage in its logs (G12): a primary hands the set over, a replica copies anew.

A log is only ever appended to, so what has rotted is not written over. A primary whose log is damaged makes way for a
member that holds everything, and is its replica then; a replica gives its damaged copy up and copies the log again.
Until it is known whether that works reads of the damaged range wait. Must not know how damage is found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from mqcore.abc import Notice
from mqcore.errors import CommandNotPossibleError, MqcoreError

__all__ = ["DamageCare"]

AGAIN_S = 5.0
"""How long after a hand-over in vain it is tried again: by then another node may hold everything."""


class Copying(Protocol):
    """What is asked of a follower."""

    def copy_anew(self) -> None:
        """Have damaged copies given up and copied again."""


class DamagedNode(Protocol):
    """What is asked of a node's keeper of roles."""

    played: trio.Event

    @property
    def follower(self) -> Copying | None:
        """What the node follows with; None while it does not."""
        ...

    @property
    def reigns(self) -> bool:
        """Whether the node reigns now."""
        ...

    @property
    def has_successor(self) -> bool:
        """Whether another node could take over now, without an operator's word."""
        ...

    async def switch_over(self, to: str) -> None:
        """Hand the set over to the member ``to``, or to the one that lacks least."""


class DamageCare:
    """Looks after the damaged logs of the node of ``roles``. ``run`` it.

    ``is_manual``: an operator decides who reigns (R16), so that the set is not handed over by itself.
    """

    def __init__(self, roles: DamagedNode, report: Callable[[Notice], None], *, is_manual: bool) -> None:
        self._roles = roles
        self._is_manual = is_manual
        self._report = report
        self._found: dict[str, None] = {}
        self._is_trying = False
        self._told = ""
        self._wake = trio.Event()

    def found(self, log: str) -> None:
        """Take in that a partition's log is damaged."""
        roles = self._roles
        if roles.follower is not None:
            roles.follower.copy_anew()
            return
        self._found[log] = None
        self._is_trying = not self._is_manual and roles.has_successor
        self._wake.set()

    @property
    def is_under_way(self) -> bool:
        """Whether damage that was met may be gone soon, so that reading it again is worth the wait."""
        return self._is_trying or self._roles.follower is not None

    async def run(self) -> None:
        """Hand the set over when a log of this node's reign is damaged, until cancelled."""
        while True:
            self._wake = trio.Event()
            if self._found and self._roles.follower is not None:
                self._found.clear()  # what is damaged is copied anew
            if self._found and self._roles.reigns:
                await self._try()
                with trio.move_on_after(AGAIN_S):
                    await self._roles.played.wait()
            else:
                async with trio.open_nursery() as nursery:
                    for event in (self._wake, self._roles.played):
                        nursery.start_soon(_cancel_after, event, nursery.cancel_scope)

    async def _try(self) -> None:
        names = ", ".join(self._found)
        try:
            if self._is_manual:
                text = "another member may hold it whole: 'mqcore cluster switchover', and this node copies it anew"
                raise CommandNotPossibleError(f"an operator decides who reigns here; {text}")
            await self._roles.switch_over("")
        except MqcoreError as error:
            if str(error) != self._told:
                self._told = str(error)
                self._report(Notice("damage-stays", f"damaged and not mended: {names}: {error}"))
        else:
            self._found.clear()
            self._report(Notice("damage-handed-over", f"damaged here: {names}; a member that holds it whole reigns"))
        finally:
            self._is_trying = False


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
