"""Looking whether the members are where they were opened, for an array that has nothing to flush.

Files that were removed go on being read and written, so that only a look at the directory itself notices. Each flush
looks; this is for who asks an idle array how it is, or has something done to it, and every ``LOOK_INTERVAL_S``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial

import trio

from mqcore.errors import FlushFailedError, StorageError
from mqcore_raid._background import Background, MemberResult
from mqcore_raid._errors import is_refusal
from mqcore_raid._group import MirrorGroup
from mqcore_raid._member import ArrayMember
from mqcore_raid._roster import Roster

__all__ = ["LOOK_INTERVAL_S", "Lookout"]

LOOK_INTERVAL_S = 10.0


class Lookout:
    """See the module. ``stopped`` is called with the logs that stop because the last member of a group is gone."""

    def __init__(
        self,
        roster: Roster,
        groups: Sequence[MirrorGroup],
        background: Background,
        *,
        stopped: Callable[[FlushFailedError], None],
    ) -> None:
        self._roster = roster
        self._groups = groups
        self._background = background
        self._stopped = stopped
        self._looking = trio.Lock()
        self._asked: set[ArrayMember] = set()
        """Those that have not answered yet: one that hangs is asked once, not again and again."""

    async def look(self, *, files: bool = False) -> None:
        """Eject, durably, every member that is not in place; with ``files`` also who lacks a file of an open log.

        One that does not answer is left to the next flush, which waits for it. Raises ``StorageError`` where what was
        found cannot be recorded.
        """
        async with self._looking:
            there = [member for member in self._roster.members if member.storage is not None]
            members = [member for member in there if member not in self._asked]
            results: dict[ArrayMember, MemberResult[None]] = {}

            async def ask(member: ArrayMember) -> None:
                results[member] = await self._background.run_bounded(partial(member.during, self._check, member, files))

            async with trio.open_nursery() as nursery:
                for member in members:
                    nursery.start_soon(ask, member)
            for member, result in results.items():
                # A storage that is closed has left by another way meanwhile.
                if result.error is not None and not is_refusal(result.error) and member.storage is not None:
                    self.lose(member, result.reason)
            await self._roster.settled()

    async def look_regularly(self) -> None:
        """Look from time to time, until cancelled."""
        while True:
            await trio.sleep(LOOK_INTERVAL_S)
            with contextlib.suppress(StorageError):  # the next acknowledgement waits for it, and raises it
                await self.look()

    async def _check(self, member: ArrayMember, files: bool) -> None:
        self._asked.add(member)
        try:
            await member.call(member.directory.look)
            if member.storage is not None:
                group = self._groups[member.group]
                copies = [copy for log in group.logs.values() if (copy := log.copies.get(member)) is not None]
                await member.storage.check_in_place(copies if files else ())
        finally:
            self._asked.discard(member)

    def lose(self, member: ArrayMember, reason: str) -> None:
        """Have a member leave that is found to be gone; where it is the last of its group, stop the group's logs."""
        group = self._groups[member.group]
        if not self._roster.eject(member, reason):
            group.lost[member] = reason
            if group.stopped is None:
                self._stopped(group.stop_all(reason))
