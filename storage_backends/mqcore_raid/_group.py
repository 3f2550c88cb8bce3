"""A mirror group: members that hold the same logs. Opens, lists, deletes and flushes them on all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import trio

from mqcore.abc import FlushedLog, Log, Notice
from mqcore.errors import CommandNotPossibleError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore_raid._background import Background
from mqcore_raid._log import MirrorLog
from mqcore_raid._member import ArrayMember
from mqcore_raid._roster import Roster
from mqcore_raid._sums_files import drop_sums

__all__ = ["MirrorGroup"]


class MirrorGroup:
    """See the module. ``number`` of the group in its array; ``single_level``: what a flush reaches on one member."""

    def __init__(
        self,
        number: int,
        roster: Roster,
        background: Background,
        *,
        min_members: int,
        late_after_s: float,
        single_level: Level,
        report: Callable[[Notice], None],
    ) -> None:
        self.number = number
        self.report = report
        self.background = background
        self.late_after_s = late_after_s
        self.logs: dict[str, MirrorLog] = {}
        self._roster = roster
        self._min_members = min_members
        self._single_level = single_level
        self._opening: dict[str, trio.Lock] = {}
        self.is_flushing = False
        self.stopped: str | None = None
        """Why all its logs have stopped, None while they have not."""
        self.lost: dict[ArrayMember, str] = {}
        """Why a member that could not leave, being the last one, is gone all the same."""

    # who is there

    def in_sync(self) -> list[ArrayMember]:
        """The members that hold everything."""
        return self._roster.in_sync(self.number)

    @property
    def level(self) -> Level:
        """The level of a flush now."""
        return Level.MIRROR if len(self.in_sync()) > 1 else self._single_level

    def check_takes_appends(self) -> None:
        """Raise ``StorageError`` when too few members are left."""
        left = len(self.in_sync())
        if left < self._min_members:
            raise StorageError(
                f"mirror group {self.number} of the array has {left} members left and min_members is "
                f"{self._min_members}: replace the lost ones (mqcore raid status)",
                kind="io",
            )

    def eject(self, member: ArrayMember, reason: str) -> bool:
        """Have a member leave unless it is the last; return whether it is out."""
        return self._roster.eject(member, reason)

    def drop(self, member: ArrayMember) -> None:
        """Forget the copies of a member that has left."""
        for log in self.logs.values():
            log.copies.pop(member, None)

    @property
    def must_announce(self) -> bool:
        """See ``Roster.must_announce``."""
        return self._roster.must_announce

    async def announce(self) -> None:
        """See ``Roster.announce``."""
        await self._roster.announce()

    def _rebuilding(self) -> list[ArrayMember]:
        """Members that are being rebuilt and whose storage is open."""
        members = self._roster.members
        return [each for each in members if each.group == self.number and each.is_rebuilding and each.storage]

    def _arriving(self, log: MirrorLog) -> list[ArrayMember]:
        """Members that are being rebuilt, or have been while ``log`` was opened, and have no copy of it open."""
        group = [member for member in self._roster.members if member.group == self.number and member.storage]
        return [each for each in group if (each.is_rebuilding or each.is_in_sync) and each not in log.copies]

    async def settled(self) -> None:
        """See ``Roster.settled``."""
        await self._roster.settled()

    # logs

    async def list_logs(self) -> set[str]:
        """Names of the logs that a member has. Raises ``StorageError``."""
        members = self.in_sync()
        results = await self.background.run_all([partial(member.during, _list, member) for member in members])
        good = [result.get() for result in results if result.is_good]
        if not good:
            raise next((result.error for result in results if result.error), StorageError("no answer", kind="io"))
        for member, result in zip(members, results, strict=True):
            if not result.is_good:
                self.eject(member, result.reason)
        await self.settled()
        return {name for names in good for name in names}

    async def open_log(self, name: str) -> MirrorLog:
        """Open the log called ``name`` on every member. Raises ``StorageError``, ``CorruptionError``."""
        async with self._opening.setdefault(name, trio.Lock()):
            log = self.logs.get(name)
            if log is not None:
                if log.failure is not None:
                    raise StorageError(f"log {name} has stopped: {log.failure}", kind="flush")
                await trio.lowlevel.checkpoint()
                return log
            members = self.in_sync()
            results = await self.background.run_all([partial(member.during, _open, member, name) for member in members])
            copies: dict[ArrayMember, Log] = {}
            errors: list[tuple[ArrayMember, Exception | None]] = []
            for member, result in zip(members, results, strict=True):
                if not result.is_good:
                    errors.append((member, result.error))
                elif member.is_in_sync:
                    copies[member] = result.get()
            if not copies:
                raise next((error for _, error in errors if error), StorageError("no member answers", kind="io"))
            for member, error in errors:
                self.eject(member, f"log {name} cannot be opened ({error or 'it does not answer'})")
            await self.settled()
            log = self.logs[name] = MirrorLog(name, self, copies)
            for member in self._arriving(log):
                await self._open_joined(log, member)
        self._opening.pop(name, None)
        return log

    async def begin_log(self, name: str, start: int) -> MirrorLog:
        """Make the log called ``name``, which no member has, to begin at ``start``.

        Raises ``StorageError``, ``ValueError`` when there is one, ``CommandNotPossibleError`` where members cannot.
        """
        log = await self.open_log(name)
        if log.end:
            raise ValueError(f"log {name} exists already, it cannot be made to begin at {start}")
        async with self._opening.setdefault(name, trio.Lock()):
            members = list(log.copies)
            results = await self.background.run_all(
                [partial(member.during, _begin, member, name, start) for member in members]
            )
            for result in results:
                if isinstance(result.error, CommandNotPossibleError):
                    raise result.error
            copies = {member: result.get() for member, result in zip(members, results, strict=True) if result.is_good}
            if not any(member.is_in_sync for member in copies):
                raise next((result.error for result in results if result.error), StorageError("no answer", kind="io"))
            for member, result in zip(members, results, strict=True):
                if not result.is_good:
                    self.eject(member, f"log {name} cannot be begun ({result.reason})")
            await self.settled()
            log.shut()
            there = {member: copy for member, copy in copies.items() if member.is_in_sync or member.is_rebuilding}
            log = self.logs[name] = MirrorLog(name, self, there)
        self._opening.pop(name, None)
        return log

    async def _open_joined(self, log: MirrorLog, member: ArrayMember) -> None:
        """Have a member that is being rebuilt follow a log that it holds whole, or that is empty."""
        if log.name not in member.joined and log.end:
            return  # it is copied first
        with trio.CancelScope(shield=True):  # a log that it holds whole must not be used without it
            result = await self.background.run_bounded(partial(member.during, _open, member, log.name))
            if not result.is_good:
                self.eject(member, f"log {log.name} cannot be opened ({result.reason})")
            elif (result.get().start, result.get().end) == (log.start, log.end):
                log.join(member, result.get())
            elif log.name in member.joined:
                self.eject(member, f"log {log.name} is not what it was when it was copied")
        await self.settled()

    async def flush_joined(self, member: ArrayMember) -> None:
        """Flush all that a member has got while it was rebuilt. Raises ``StorageError``."""
        copies = [log.copies[member] for log in self.logs.values() if member in log.copies]
        if member.storage is not None:
            await member.storage.flush(copies)

    def forget(self, log: MirrorLog) -> None:
        """Note that a log is closed."""
        if self.logs.get(log.name) is log:
            del self.logs[log.name]

    async def delete_log(self, name: str) -> None:
        """Delete a log on every member. Raises ``StorageError``."""
        if self.must_announce:
            await self.announce()
        log = self.logs.pop(name, None)
        if log is not None:
            async with log.removing:
                log.shut()
        members = self.in_sync() + self._rebuilding()
        for member in members:
            member.joined.discard(name)
        results = await self.background.run_all([partial(member.during, _delete, member, name) for member in members])
        if all(not result.is_good for result in results):
            raise next((result.error for result in results if result.error), StorageError("no answer", kind="io"))
        for member, result in zip(members, results, strict=True):
            if not result.is_good:
                self.eject(member, f"log {name} cannot be deleted ({result.reason})")
        await self.settled()

    # flush

    async def flush(self, logs: Sequence[MirrorLog]) -> list[FlushedLog]:
        """Flush ``logs`` on every member, side by side; see ``StorageBackend.flush``. Not cancelled once begun."""
        self._refuse_stopped(logs)
        ends: list[int] = []
        with trio.CancelScope(shield=True):
            try:
                for log in logs:
                    await log.equalise(log.end)
                    if log.sums.must_tell and log.durable_end < log.end:
                        log.keep_sums()
            except StorageError as error:
                raise self._stop(logs, str(error)) from error
            ends = [log.end for log in logs]
            self.is_flushing = True
            try:
                await self._flush_members(logs)
            finally:
                self.is_flushing = False
        level = self.level
        for log, end in zip(logs, ends, strict=True):
            log.flushed(end)
        return [FlushedLog(end, level) for end in ends]

    async def _flush_members(self, logs: Sequence[MirrorLog]) -> None:
        members = self.in_sync()
        members += [member for member in self._rebuilding() if member.takes_flushes]
        results = await self.background.run_all([partial(member.during, _flush, member, logs) for member in members])
        failed: dict[ArrayMember, str] = {}
        waits: StorageError | None = None
        for member, result in zip(members, results, strict=True):
            error = result.error
            if isinstance(error, StorageError) and error.kind == "too-many-files":
                waits = error
            elif result.is_late or error is not None:
                failed[member] = result.reason
        if not any(member.is_in_sync and member not in failed for member in members):
            raise self._stop(logs, "; ".join(failed.values()))
        for member, reason in failed.items():
            self.eject(member, reason)
        try:
            await self.settled()
        except StorageError as error:
            raise self._stop(logs, str(error)) from error
        left = [member for member in members if member.is_in_sync and member not in failed]
        if len(left) < self._min_members:
            raise self._stop(
                logs,
                f"mirror group {self.number} has {len(left)} members left and min_members is {self._min_members}",
            )
        if waits is not None:
            raise waits

    def _refuse_stopped(self, logs: Sequence[MirrorLog]) -> None:
        for log in logs:
            if log.closed:
                raise StorageError(f"log {log.name} is closed; open it again", kind="closed")
        stopped = [log.name for log in logs if log.failure is not None]
        if stopped:
            raise FlushFailedError(
                f"log {stopped[0]} has stopped after a failed flush; restart, so that the devices are read again",
                logs=stopped,
            )

    def _stop(self, logs: Sequence[MirrorLog], reason: str) -> FlushFailedError:
        """Stop what a flush covered that failed on every member: which of their logs it hit is theirs to know."""
        covered = {*logs, *self.logs.values()}
        self.stopped = self.stopped or reason
        text = f"a flush failed ({reason}); {len(covered)} logs stop here: restart, so that the devices are read again"
        for log in covered:
            log.fail(text)
        return FlushFailedError(text, logs=[log.name for log in covered])

    def stop_all(self, reason: str) -> FlushFailedError:
        """Stop every log: the last member has stopped by itself."""
        return self._stop((), reason)


def _storage_of(member: ArrayMember) -> StorageError:
    return StorageError(f"member {member.path} is closed", kind="closed", path=member.path)


async def _list(member: ArrayMember) -> list[str]:
    if member.storage is None:
        raise _storage_of(member)
    return await member.storage.list_logs()


async def _open(member: ArrayMember, name: str) -> Log:
    if member.storage is None:
        raise _storage_of(member)
    return await member.storage.open_log(name)


async def _begin(member: ArrayMember, name: str, start: int) -> Log:
    if member.storage is None:
        raise _storage_of(member)
    return await member.storage.begin_log(name, start)


async def _delete(member: ArrayMember, name: str) -> None:
    if member.storage is None:
        raise _storage_of(member)
    # First: a log of the same name, made after a crash, must not find them.
    await member.call(drop_sums, member.directory, name)
    await member.storage.delete_log(name)


async def _flush(member: ArrayMember, logs: Sequence[MirrorLog]) -> None:
    if member.storage is None:
        raise _storage_of(member)
    storage = member.storage
    await member.settle_sums(log.name for log in logs)
    await storage.flush([log.copies[member] for log in logs if member in log.copies])
