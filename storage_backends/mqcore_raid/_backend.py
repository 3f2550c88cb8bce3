"""The backend of ``raid://``: an array of members, opened, used and closed as one storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar, TypeVar

import attrs
import trio
from crc32c import crc32c

from mqcore.abc import Capabilities, FlushedLog, Log, StorageBackend, StorageContext, StoredAt, check_log_name
from mqcore.errors import CommandNotPossibleError, ConfigurationError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore.registry import create_storage, find
from mqcore.url import Url
from mqcore_raid._background import Background
from mqcore_raid._config import RaidOptions
from mqcore_raid._directory import eject_offline
from mqcore_raid._group import MirrorGroup
from mqcore_raid._log import MirrorLog
from mqcore_raid._looking import Lookout
from mqcore_raid._member import ArrayMember
from mqcore_raid._opening import Opened, open_array
from mqcore_raid._places import last_move
from mqcore_raid._repairs import Repairs
from mqcore_raid._roster import Roster
from mqcore_raid._shape import shape_of
from mqcore_raid._striped import StripedLog
from mqcore_raid._stripes import Stripes

__all__ = ["RaidStorage"]

L = TypeVar("L", bound=Log)
DESCRIPTORS_LEAST = 16
FLUSHES_OF_AN_IDENTITY = 2
"""After so many flushes the core has its new incarnation on the disk, which comes before all else that it flushes."""


class RaidStorage(StorageBackend):
    """``raid:///d1,/d2?level=1``; see ``RaidOptions`` and the package."""

    options_class: ClassVar[type[RaidOptions]] = RaidOptions

    def __init__(self, url: Url, options: RaidOptions, context: StorageContext) -> None:
        super().__init__(url, options, context)
        self._options: RaidOptions = options
        self._shape = shape_of(url, options)
        self._late_after_s = options.member_timeout_ms / 1000
        parts = [self._compose(path, -1) for path in self._shape.paths]
        samples = [part.capabilities for part in parts]
        self._directories = tuple(
            attrs.evolve(stored, mirror_group=self._shape.group_of(slot) if self._shape.copies > 1 else None)
            for slot, part in enumerate(parts)
            for stored in part.directories
        )
        self._single = min(sample.flush_level for sample in samples)
        if self._single < Level.DISK:
            raise ConfigurationError(
                f"{url}: a flush of its members, {options.member}, reaches {self._single.label}; an array needs "
                "members whose flush reaches disk"
            )
        losses = self._shape.losses_survived
        self._capabilities = Capabilities(
            append_level=min(sample.append_level for sample in samples),
            flush_level=Level.MIRROR if losses else self._single,
            member_losses_survived=losses,
            simulable=all(sample.simulable for sample in samples),
            proves_durable_end=all(sample.proves_durable_end for sample in samples),
            append_bytes_max=min(sample.append_bytes_max for sample in samples),
            log_name_bytes_max=min(sample.log_name_bytes_max for sample in samples),
            on_degraded=options.on_degraded,
        )
        self._background = Background(self._late_after_s)
        self._roster: Roster | None = None
        self._groups: list[MirrorGroup] = []
        self._striped: dict[str, StripedLog] = {}
        self._opening: dict[str, trio.Lock] = {}
        self._lookout: Lookout | None = None
        self._repairs: Repairs | None = None
        self._flushes = 0
        self._mount = ""

    @property
    def capabilities(self) -> Capabilities:
        """What the array reaches with all of its members."""
        return self._capabilities

    @property
    def may_lack_reported(self) -> bool:
        """Whether a member was missing at the opening that may know more than those that were there."""
        return self._roster is not None and self._roster.may_lack

    def _compose(self, path: str, slot: int) -> StorageBackend:
        """The storage of the member at ``path``; ``slot`` -1 before it is known."""
        url = Url.parse(self._options.member.replace("{path}", path))
        table = self._options.of_members()
        if "open_files_max" in {field.name for field in attrs.fields(find("storage", url.scheme).options_class)}:
            # Each member by itself would take what the process has.
            process_max = self.context.ports.files.open_files_max()
            reserve = min(self.context.limits.connections_max + 64, process_max // 2)
            table["open_files_max"] = max(DESCRIPTORS_LEAST, (process_max - reserve) // len(self._shape.paths) - 64)
        # A flush in the event loop's thread would hold up those of the other members, which are to run beside it.
        limits = attrs.evolve(self.context.limits, flush_inline_us_max=0)
        context = attrs.evolve(self.context, limits=limits, stopped=partial(self._member_stopped, slot))
        return create_storage(url, context, table)

    # opening and closing

    async def open(self) -> None:
        """Read the records, decide who belongs, open the members, record this opening on them."""
        if self._roster is not None:
            raise StorageError(f"storage {self.url} is open already", kind="busy")
        await self._background.start()
        try:
            with trio.CancelScope(shield=True):
                opened = await open_array(
                    self.url, self._options, self._shape, self.context, self._background, self._compose
                )
                self._take(opened)
                roster = opened.roster
                moved = await last_move(roster.in_sync(), roster.record.generation, self._background)
                self._mount = f"{roster.record.array_id}:{moved}"
        except BaseException:
            await self._background.aclose()
            self._background = Background(self._late_after_s)
            raise
        await trio.lowlevel.checkpoint_if_cancelled()

    def _take(self, opened: Opened) -> None:
        roster = self._roster = opened.roster
        roster.ejected = self._left
        self._flushes = 0
        self._groups = [
            MirrorGroup(
                number,
                roster,
                self._background,
                min_members=self._options.min_members,
                late_after_s=self._late_after_s,
                single_level=self._single,
                report=self.context.report,
            )
            for number in range(self._shape.groups)
        ]
        self._lookout = Lookout(roster, self._groups, self._background, stopped=self.context.stopped)
        self._repairs = Repairs(
            roster,
            self._groups,
            self._background,
            self.context,
            self._lookout,
            compose=self._compose,
            late_after_s=self._late_after_s,
            scrub_interval_ms=self._options.scrub_interval_ms,
        )
        self._repairs.resume()

    def _left(self, member: ArrayMember) -> None:
        """A member has left: nothing waits for its storage to close, which may never happen."""
        self._groups[member.group].drop(member)
        self._background.submit(_close_quietly, member)

    def _member_stopped(self, slot: int, error: FlushFailedError) -> None:
        """The storage of a member stopped by itself. A flush under way sees to what it finds."""
        roster = self._roster
        if roster is None or slot < 0:
            return
        member = roster.members[slot]
        if not self._groups[member.group].is_flushing and self._lookout is not None:
            self._lookout.lose(member, str(error))

    async def aclose(self) -> None:
        """Close every log on every member, record what left meanwhile, release the locks."""
        roster, self._roster = self._roster, None
        if roster is not None:
            with trio.CancelScope(shield=True):
                try:
                    if self._repairs is not None:
                        await self._repairs.aclose()
                    await self._close_members(roster)
                finally:
                    for member in roster.members:
                        await member.aclose()
                    await self._background.aclose()
                    self._background = Background(self._late_after_s)
                    self._groups = []
                    self._striped.clear()
        await trio.lowlevel.checkpoint()

    async def _close_members(self, roster: Roster) -> None:
        if self._flushes >= FLUSHES_OF_AN_IDENTITY:
            roster.may_lack = False
        for group in self._groups:
            for log in list(group.logs.values()):
                log.keep_sums()
                log.shut()
            members = group.in_sync()
            results = await self._background.run_all([partial(each.during, _close, each) for each in members])
            failed = [(member, result) for member, result in zip(members, results, strict=True) if not result.is_good]
            if len(failed) == len(members):
                raise failed[0][1].error or StorageError(f"{members[0].path} does not answer", kind="io")
            for member, result in failed:
                roster.eject(member, f"it did not close ({result.reason})")
        for member in roster.members:
            if member.is_rebuilding:  # the next opening goes on with it either way
                await self._background.run_bounded(partial(member.during, _close, member))
        # A copy of a member that was made while it was in use, and is brought back later, is an old one from here on.
        roster.in_use = False
        await roster.publish()

    # logs

    async def list_logs(self) -> list[str]:
        """Names of the logs that a member has, sorted."""
        self._opened()
        names: set[str] = set()
        for group in self._groups:
            names |= await group.list_logs()
        return sorted(names)

    async def open_log(self, name: str) -> Log:
        """Open the log called ``name``; see ``StorageBackend.open_log``."""
        self._opened()
        check_log_name(name, self._capabilities.log_name_bytes_max)
        if len(self._groups) == 1:
            return await self._groups[0].open_log(name)
        async with self._opening.setdefault(name, trio.Lock()):
            log = self._striped.get(name)
            if log is None or log.closed:
                stripes = self._stripes_of(name)
                parts = [await group.open_log(name) for group in self._groups]
                parts = await self._begin_parts(stripes, parts, stripes.start([part.start for part in parts]))
                log = self._striped[name] = StripedLog(name, stripes, parts, self._capabilities.append_bytes_max)
            elif log.failure is not None:
                raise StorageError(f"log {name} has stopped: {log.failure}", kind="flush")
        self._opening.pop(name, None)
        return log

    async def begin_log(self, name: str, start: int) -> Log:
        """Make the log called ``name`` on every member, to begin at ``start``; see ``StorageBackend.begin_log``."""
        log = await self.open_log(name)
        if log.end:
            raise ValueError(f"log {name} exists already, it cannot be made to begin at {start}")
        if not isinstance(log, StripedLog):
            return await self._groups[0].begin_log(name, start)
        async with self._opening.setdefault(name, trio.Lock()):
            stripes = self._stripes_of(name)
            parts = await self._begin_parts(stripes, log.parts, start)
            log = self._striped[name] = StripedLog(name, stripes, parts, self._capabilities.append_bytes_max)
        self._opening.pop(name, None)
        return log

    def _stripes_of(self, name: str) -> Stripes:
        return Stripes.of(name, self._opened().record.stripe_bytes, len(self._groups))

    async def _begin_parts(self, stripes: Stripes, parts: Sequence[MirrorLog], start: int) -> list[MirrorLog]:
        """Of a log that begins at ``start``, have each part begin where its group's first bytes of it belong.

        One that nothing was appended to yet may be gone since; to fill it up from 0 could take more than a disk has.
        """
        begun = []
        for group, part in zip(self._groups, parts, strict=True):
            local = stripes.local(group.number, start)
            if part.end < local:
                if part.end:
                    await group.delete_log(part.name)
                begun.append(await group.begin_log(part.name, local))
            else:
                begun.append(part)
        return begun

    async def delete_log(self, name: str) -> None:
        """Delete a log on every member, durably."""
        self._opened()
        check_log_name(name, self._capabilities.log_name_bytes_max)
        self._striped.pop(name, None)
        first = crc32c(name.encode()) % len(self._groups)
        # The group of unit 0 last: what a crash in between leaves is a beginning of the log, not one with holes.
        for group in sorted(self._groups, key=lambda group: group.number == first):
            await group.delete_log(name)

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """Make everything appended to ``logs`` durable on every member; see ``StorageBackend.flush``."""
        self._opened()
        if len(self._groups) == 1:
            reached = await self._groups[0].flush([_own(log, MirrorLog) for log in logs])
        else:
            reached = await self._flush_striped([_own(log, StripedLog) for log in logs])
        self._flushes += 1
        return reached

    async def _flush_striped(self, logs: Sequence[StripedLog]) -> list[FlushedLog]:
        stopped = [log.name for log in logs if log.failure is not None]
        if stopped:
            raise FlushFailedError(f"log {stopped[0]} has stopped after a failed flush; restart", logs=stopped)
        errors: list[Exception] = []
        ends: list[int] = []
        with trio.CancelScope(shield=True):
            for log in logs:
                await log.seal_flushed()
            ends = [log.end for log in logs]
            wanted = [part for log in logs for part in log.dirty_parts()]
            async with trio.open_nursery() as nursery:
                for group in self._groups:
                    parts = [part for part in wanted if group.logs.get(part.name) is part]
                    if parts:
                        nursery.start_soon(_flush_group, group, parts, errors)
        if errors:
            raise next((error for error in errors if isinstance(error, FlushFailedError)), errors[0])
        for log, end in zip(logs, ends, strict=True):
            log.flushed(end)
        return [FlushedLog(end, log.level) for log, end in zip(logs, ends, strict=True)]

    @property
    def directories(self) -> Sequence[StoredAt]:
        """Those of its members."""
        return self._directories

    def facts(self) -> dict[str, object]:
        """What the array is now: its members and their states, and what each mirror group reaches."""
        facts: dict[str, object] = {"level": self._shape.level, "copies": self._shape.copies}
        if self._repairs is not None and self._roster is not None:
            facts |= self._repairs.status() | {"mount": self._mount}
        return facts

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """Eject, replace or rebuild a member, or report the status; see ``Repairs``.

        Closed, it can eject a directory: what an operator decides where two members were used without each other.
        """
        if self._roster is None and operation == "eject":
            return await self._eject_closed(str(arguments.get("member", "")))
        self._opened()
        assert self._repairs is not None
        return await self._repairs.operate(operation, arguments)

    async def _eject_closed(self, path: str) -> Mapping[str, object]:
        if path not in self._shape.paths:
            raise CommandNotPossibleError(f"{path!r} is no member's directory; {', '.join(self._shape.paths)} are")
        thread = self.context.ports.threads.start("raid-eject")
        try:
            await thread.run(eject_offline, self.context.ports.files, path)
        except OSError as error:
            raise StorageError(f"cannot eject {path}: {error}", kind="io", path=path) from error
        finally:
            await thread.aclose()
        return {"ejected": path}

    def _opened(self) -> Roster:
        if self._roster is None:
            raise StorageError(f"storage {self.url} is not open", kind="closed")
        return self._roster


async def _close(member: ArrayMember) -> None:
    storage, member.storage = member.storage, None
    if storage is not None:
        await storage.aclose()


async def _close_quietly(member: ArrayMember) -> None:
    """Close the storage of a member that has left; what it says to that is of no interest."""
    try:
        await member.wait_idle()
        await _close(member)
    except Exception as error:
        del error


def _own(log: Log, kind: type[L]) -> L:
    if not isinstance(log, kind):
        raise TypeError(f"{log!r} is not a log of this storage")
    return log


async def _flush_group(group: MirrorGroup, parts: Sequence[MirrorLog], errors: list[Exception]) -> None:
    try:
        await group.flush(parts)
    except StorageError as error:
        errors.append(error)
