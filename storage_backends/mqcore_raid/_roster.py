"""Who belongs to an open array, and the record of it on every member that does.

A member that fails leaves at once, and for good: what is acknowledged after that waits until the others have it on
their disks (``settled``), so that the one that left can never be taken for whole. Knows nothing of logs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from mqcore.abc import Notice
from mqcore.errors import StorageError
from mqcore_raid._background import Background
from mqcore_raid._member import ArrayMember
from mqcore_raid._record import ArrayRecord, SlotState

__all__ = ["Roster"]


class Roster:
    """See the module. ``record`` is the newest generation; ``new_id`` draws an id for the next one."""

    def __init__(
        self,
        record: ArrayRecord,
        members: Sequence[ArrayMember],
        background: Background,
        *,
        report: Callable[[Notice], None],
        new_id: Callable[[], str],
    ) -> None:
        self.record = record
        self.members = list(members)
        self.may_lack = record.may_lack
        self.in_use = True
        self._background = background
        self._report = report
        self._new_id = new_id
        self._publishing = trio.Lock()
        self._unrecorded = False
        self.ejected: Callable[[ArrayMember], None] = lambda member: None
        """Called when a member has left, in the same step."""

    def in_sync(self, group: int | None = None) -> list[ArrayMember]:
        """The members that hold everything, of one mirror group or of all."""
        return [member for member in self.members if member.is_in_sync and group in (None, member.group)]

    @property
    def is_degraded(self) -> bool:
        """Whether a member is missing."""
        return not all(member.is_in_sync for member in self.members)

    def eject(self, member: ArrayMember, reason: str) -> bool:
        """Have ``member`` leave, unless it is the last of its group; return whether it is out.

        It is recorded by ``settled``, which comes before the next acknowledgement.
        """
        if member.state.state not in ("in-sync", "rebuilding"):
            return True
        if member.is_in_sync and len(self.in_sync(member.group)) == 1:
            return False
        since = self.record.generation + 1
        member.state = attrs.evolve(member.state, state="ejected", since=since, reason=reason)
        self._unrecorded = True
        left = len(self.in_sync(member.group))
        self._report(
            Notice(
                "raid-member-ejected",
                f"member {member.slot} ({member.path}) of the array is ejected: {reason}; in its mirror group "
                f"{left} {'is' if left == 1 else 'are'} left. Replace it: mqcore raid replace {member.path} DIRECTORY",
                {"member": member.slot, "path": member.path, "reason": reason, "left": left},
            )
        )
        self.ejected(member)
        return True

    @property
    def must_announce(self) -> bool:
        """Whether the next change leaves a member behind that was only not there when the array was opened."""
        return any(member.state.state == "missing" and not member.state.is_behind for member in self.members)

    async def announce(self) -> None:
        """Record, flushed, that what the members hold is about to change. Raises ``StorageError``."""
        for member in self.members:
            if member.state.state == "missing":
                member.state = attrs.evolve(member.state, is_behind=True)
        self._unrecorded = True
        await self.settled()

    async def settled(self) -> None:
        """Return once what changed is recorded, flushed, on every member that is left. Raises ``StorageError``."""
        while self._unrecorded:
            await self.publish()

    async def admit(self, member: ArrayMember) -> None:
        """Have a member that was rebuilt belong, once that is recorded everywhere. Raises ``StorageError``."""
        await self.publish(member)

    async def publish(self, admitted: ArrayMember | None = None) -> None:
        """Begin a new generation with the members as they are now, durably. Raises ``StorageError``.

        ``admitted``: one that is to belong from this generation on, and counts when it is recorded, not before.
        """
        async with self._publishing:
            while True:
                self._unrecorded = False
                if admitted is not None and admitted.state.state != "rebuilding":
                    admitted = None  # it failed meanwhile
                states = self._states(admitted)
                record = self.record.next(self._new_id(), states, may_lack=self.may_lack, in_use=self.in_use)
                # First everywhere as what is coming, then everywhere as what is: a crash between the two leaves no
                # member that would be taken for an old copy, nor an old copy that would be taken for a member.
                self.record = record
                committed = attrs.evolve(record, committed=True)
                if await self._write(record, admitted) and await self._write(committed, admitted):
                    self.record = committed
                    if admitted is not None:
                        admitted.state = states[admitted.slot]
                    return

    def _states(self, admitted: ArrayMember | None) -> tuple[SlotState, ...]:
        since = self.record.generation + 1
        return tuple(
            attrs.evolve(member.state, state="in-sync", since=since, reason="") if member is admitted else member.state
            for member in self.members
        )

    async def _write(self, record: ArrayRecord, admitted: ArrayMember | None) -> bool:
        """Write to all that belong; False when one of them left over it. Raises ``StorageError``."""
        members = self.in_sync() + ([admitted] if admitted is not None else [])
        results = await self._background.run_all(
            [partial(member.write, attrs.evolve(record, slot=member.slot)) for member in members]
        )
        failed = False
        for member, result in zip(members, results, strict=True):
            if not result.is_good:
                failed = True
                reason = f"its record could not be written ({result.reason})"
                if not self.eject(member, reason):
                    self._unrecorded = True
                    raise StorageError(
                        f"the last member of mirror group {member.group}, {member.path}: {reason}",
                        kind="flush",
                        path=member.path,
                    )
        return not failed and not self._unrecorded
