"""Rebuilding a member while the array serves: copies every log of its group, then lets it belong.

A log that is copied to its end *joins*: from then on its appends go to the new member too. When all have joined, what
they hold is flushed there, the record that the member belongs is flushed everywhere, and only then does it count. After
a crash the next opening goes on: what is there already is compared, not written again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import attrs
import trio

from mqcore.abc import Log, Notice, StorageBackend
from mqcore.errors import CommandNotPossibleError, CorruptionError, StorageError
from mqcore_raid._background import MemberResult
from mqcore_raid._behind import Behind
from mqcore_raid._equal import PIECE_BYTES, common_length
from mqcore_raid._group import MirrorGroup
from mqcore_raid._log import MirrorLog
from mqcore_raid._member import ArrayMember
from mqcore_raid._roster import Roster

__all__ = ["Rebuild", "RebuildProgress"]

T = TypeVar("T")

COPY_BYTES = 4 * 1024 * 1024
"""What is copied at once without a limit: the hand-overs to threads are then few. With one it is ``PIECE_BYTES``."""
LOOK_BYTES = 64 * 1024
"""Up to here a storage may look at what it appends; more is handed to the system, without a copy."""


@attrs.define
class RebuildProgress:
    """How far it is: bytes compared or copied of those known by now, and logs that have joined."""

    bytes_done: int = 0
    bytes_known: int = 0
    logs_joined: int = 0


class Rebuild:
    """The rebuilding of ``member``, whose storage is open. ``rate_bytes``: most bytes per second, None for no limit."""

    def __init__(
        self,
        member: ArrayMember,
        group: MirrorGroup,
        roster: Roster,
        *,
        report: Callable[[Notice], None],
        rate_bytes: int | None = None,
    ) -> None:
        self.member = member
        self.progress = RebuildProgress()
        self._group = group
        self._roster = roster
        self._report = report
        self._rate_bytes = rate_bytes
        self._known: dict[str, int] = {}
        self._piece_bytes = PIECE_BYTES if rate_bytes else COPY_BYTES

    async def run(self) -> None:
        """Rebuild to the end, or until the member fails, which leaves it ejected. Raises nothing of the storage's."""
        member = self.member
        try:
            await self._copy_all()
            # All that was copied may take its disk long, and nobody waits for that. What came meanwhile does not.
            await member.during(self._group.flush_joined, member)
            member.takes_flushes = True
            await self._bounded(self._group.flush_joined, member)
            await self._roster.admit(member)
        except (StorageError, CorruptionError, CommandNotPossibleError, OSError) as error:
            self._roster.eject(member, f"its rebuild failed ({error})")
            with contextlib.suppress(StorageError):  # the next acknowledgement waits for it, and raises it
                await self._roster.settled()
            return
        if member.is_in_sync:
            text = f"member {member.slot} ({member.path}) of the array is rebuilt and in sync"
            self._report(Notice("raid-member-rebuilt", text, {"member": member.slot, "path": member.path}))

    async def _copy_all(self) -> None:
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                behind = Behind(self.member, nursery)
                await self._copy_logs(behind)
                await behind.settled()
            except Exception as error:
                failure = error  # not raised in here, where it would be one of a group
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def _copy_logs(self, behind: Behind) -> None:
        for name in sorted(await self._group.list_logs()):
            log = await self._group.open_log(name)
            self._known[name] = log.end - log.start
        while missing := await self._not_joined():
            self.progress.bytes_known = sum(self._known.values())
            for name in missing:
                await self._copy(name, behind)
                self.progress.logs_joined = len(self.member.joined)

    async def _not_joined(self) -> list[str]:
        # The member's own list first: a log that is made meanwhile is in the second one only.
        own = set(await self._bounded(self._storage().list_logs))
        names = await self._group.list_logs() | set(self._group.logs)
        for name in sorted(own - names):
            await self._bounded(self._storage().delete_log, name)
        return sorted(names - self.member.joined)

    def _storage(self) -> StorageBackend:
        if self.member.storage is None:
            raise StorageError(f"member {self.member.path} has left", kind="closed", path=self.member.path)
        return self.member.storage

    async def _copy(self, name: str, behind: Behind) -> None:
        """Copy one log until it joins."""
        while True:
            log = await self._group.open_log(name)
            if name in self.member.joined:
                return
            target = await self._bounded(self._begin, log)
            position, is_same = max(target.start, log.start), True
            while not log.closed:
                began, before = trio.current_time(), position
                async with log.removing:
                    if target.end > log.end:  # it was cut meanwhile, or this is what an older rebuild left
                        await self._bounded(target.truncate, log.end)
                    position = min(position, log.end)
                    if log.closed:
                        break
                    if log.end - position <= PIECE_BYTES:
                        position = await self._catch_up(log, target, position, is_same)
                    else:
                        read_on = partial(behind.read_on, log, size=self._piece_bytes)
                        position, is_same = await self._bounded(self._piece, log, target, position, is_same, read_on)
                if not is_same and position > before:
                    await behind.copied(log, target, position - before)
                self._known[name] = max(self._known.get(name, 0), log.end - log.start)
                await self._pace(position - before, began)
                if name in self.member.joined:
                    return

    async def _catch_up(self, log: MirrorLog, target: Log, position: int, is_same: bool) -> int:
        """Copy the last piece while appends wait, and have the member follow the log from then on; return its end.

        Beside appends it would always be one behind those of a log that is never quiet.
        """

        async def copy_rest(position: int = position, is_same: bool = is_same) -> None:
            while position < log.end and not log.closed:
                position, is_same = await self._piece(log, target, position, is_same)

        async with log.held_back():
            await self._bounded(copy_rest)
            if not log.closed:
                log.join(self.member, target)
            return max(position, target.end)

    async def _begin(self, log: MirrorLog) -> Log:
        """The member's own log, of which what can be of use is kept."""
        target: Log = await self._storage().open_log(log.name)
        if target.end >= log.start and target.start <= log.start:
            return target
        await self._storage().delete_log(log.name)
        return await self._storage().begin_log(log.name, log.start)

    async def _piece(
        self,
        log: MirrorLog,
        target: Log,
        position: int,
        is_same: bool,
        read_on: Callable[[int], None] = lambda position: None,
    ) -> tuple[int, bool]:
        """Compare, and from the first difference on copy, one piece; return where it ends, and whether all is alike.

        ``read_on`` is called with where the next one begins, once this one is in memory.
        """
        view = await log.read(position, min(self._piece_bytes, log.end - position))
        read_on(position + len(view))
        wanted: bytes | memoryview = view
        if is_same and target.end > position:
            wanted = bytes(view)
            found = bytes(await target.read(position, min(len(wanted), target.end - position)))
            same = common_length(found, wanted)
            if same == len(wanted):
                return position + same, True
            await target.truncate(position + same)
            position, wanted = position + same, wanted[same:]
        elif len(view) <= LOOK_BYTES:
            wanted = bytes(view)
        if wanted:
            await target.append([wanted])
        return position + len(wanted), False

    async def _bounded(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """Call what uses the member, which has its time to answer: others wait for this. Raises ``StorageError``.

        Not cancelled: an array that closes waits for it, and then closes the member, too.
        """
        results: list[MemberResult[T]] = []
        with trio.CancelScope(shield=True):
            results.append(await self._group.background.run_bounded(partial(self.member.during, function, *args)))
        (result,) = results
        if result.error is not None:
            raise result.error
        if result.is_late:
            raise StorageError(f"{self.member.path} does not answer", kind="io", path=self.member.path)
        return result.get()

    async def _pace(self, size: int, began: float) -> None:
        self.progress.bytes_done += max(0, size)
        self.progress.bytes_known = max(sum(self._known.values()), self.progress.bytes_done)
        if self._rate_bytes:
            await trio.sleep_until(began + size / self._rate_bytes)
        else:
            await trio.lowlevel.checkpoint()
