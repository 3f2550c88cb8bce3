"""One log of a mirror group: the same bytes at the same positions on every member that is in sync.

An append is made by all of them or by none; one that cannot leaves. After a stop that was not clean the copies may
differ above what is proved: then one of them, the ``source``, is what the log holds, and the others are made equal to
it before anything changes (``_equal``). Knows nothing of how members leave and how that is recorded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol, TypeVar

import trio

from mqcore.abc import Log, Notice
from mqcore.errors import CorruptionError, StorageError
from mqcore.guarantees import Level
from mqcore.ports import Buffer
from mqcore_raid._background import Background, MemberResult
from mqcore_raid._equal import choose_source, make_equal, read_range, warm_copies
from mqcore_raid._errors import as_storage_error, first_error, is_refusal, refused
from mqcore_raid._member import ArrayMember
from mqcore_raid._mending import check_overwrite, mend_by, write_over
from mqcore_raid._sums import BlockSums

__all__ = ["LogGroup", "MirrorLog"]

T = TypeVar("T")


class LogGroup(Protocol):
    """What a log uses of its mirror group."""

    background: Background
    late_after_s: float
    report: Callable[[Notice], None]

    @property
    def level(self) -> Level: ...

    def check_takes_appends(self) -> None:
        """Raise ``StorageError`` when too few members are left."""

    def eject(self, member: ArrayMember, reason: str) -> bool:
        """Have a member leave unless it is the last; return whether it is out."""
        ...

    @property
    def must_announce(self) -> bool: ...

    async def announce(self) -> None:
        """Record that what the members hold is about to change. Raises ``StorageError``."""

    async def settled(self) -> None:
        """Return once every member that left is recorded as such. Raises ``StorageError``."""

    def forget(self, log: MirrorLog) -> None:
        """Note that the log is closed."""


class MirrorLog(Log):
    """See ``Log``. ``copies``: the log of each member that is in sync, or about to be."""

    def __init__(self, name: str, group: LogGroup, copies: Mapping[ArrayMember, Log]) -> None:
        self.name = name
        self.copies = dict(copies)
        self._group = group
        self._source: ArrayMember | None = choose_source(self.copies)
        first = self.copies[self._source] if self._source is not None else next(iter(self.copies.values()))
        self._start = min(log.start for log in self.copies.values() if log.end >= first.start)
        self._end = first.end
        self._durable_end = first.durable_end
        self._failure: str | None = None
        self._closed = False
        self.is_appending = False
        self._held: trio.Event | None = None
        self._appended = trio.Event()
        self.sums = BlockSums(self._durable_end, self._end)
        self.removing = trio.Lock()
        """Held by what takes bytes away, and by what copies the log to another member meanwhile."""

    # what it is

    @property
    def level(self) -> Level:
        """``mirror`` while two members of the group are in sync."""
        return self._group.level

    @property
    def start(self) -> int:
        """Position of the first byte that a member keeps."""
        return self._start

    @property
    def end(self) -> int:
        """Position after the last byte; after a failed flush, after the last byte that was durable before."""
        return self._end if self._failure is None else self._durable_end

    @property
    def durable_end(self) -> int:
        """Position below which everything was flushed."""
        return self._durable_end

    @property
    def may_be_stale(self) -> bool:
        """Whether one of the copies may show bytes of another time."""
        return any(log.may_be_stale for log in self.copies.values())

    @property
    def closed(self) -> bool:
        """Whether this handle can no longer be used."""
        return self._closed

    def in_sync(self) -> dict[ArrayMember, Log]:
        """The copies that hold everything."""
        return {member: log for member, log in self.copies.items() if member.is_in_sync}

    # appends and removals

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """Append ``chunks`` to every copy; see ``Log.append``. Not cancelled once begun."""
        self._check_usable()
        self._group.check_takes_appends()
        position = self._end
        if self._held is not None:
            await self._held.wait()
            self._check_usable()
        total = sum(len(chunk) if type(chunk) is bytes else memoryview(chunk).nbytes for chunk in chunks)
        if total:
            self.is_appending = True
            try:
                await self._append(chunks, position)
                self._end = position + total
                self.sums.appended(chunks, position)
                if self.sums.must_be_kept:
                    self.keep_sums()
            finally:
                self.is_appending = False
                self._appended.set()
            await self._settled(position)
        await trio.lowlevel.checkpoint_if_cancelled()
        return position

    async def _append(self, chunks: Sequence[Buffer], position: int) -> None:
        if self._source is not None or self._group.must_announce:
            await self._begin_change(position)
        copies = list(self.copies.items())
        results = await self._group.background.run_all(
            [partial(member.during, log.append, chunks) for member, log in copies]
        )
        refusals = [
            error
            for (member, _), result in zip(copies, results, strict=True)
            if (error := result.error) is not None and is_refusal(error) and member.is_in_sync
        ]
        done = [
            (member, log)
            for (member, log), result in zip(copies, results, strict=True)
            if result.is_good and result.value == position
        ]
        if refusals:
            # What one member has no room for, no member may keep: they would no longer be the same.
            self._drop_failed(copies, results, excused=is_refusal)
            await self._take_back(copies, results, position)
            await self._settled(position)
            raise refused(refusals[0], self.name)
        if not any(member.is_in_sync for member, _ in done):
            raise first_error(results, "append to", self.name)
        self._drop_failed(copies, results)

    async def _take_back(
        self, copies: Sequence[tuple[ArrayMember, Log]], results: Sequence[MemberResult[int]], position: int
    ) -> None:
        """Cut off, durably, what an append has left on the members that are not known to have refused it untouched."""
        touched = [
            (member, log)
            for (member, log), result in zip(copies, results, strict=True)
            if member.is_in_sync and not (isinstance(result.error, StorageError) and not result.error.appended)
        ]
        calls = [partial(member.during, log.truncate, position) for member, log in touched]
        self._drop_failed(touched, await self._group.background.run_all(calls))

    async def truncate(self, position: int) -> None:
        """Cut everything from ``position`` on, on every copy; see ``Log.truncate``. Not cancelled once begun."""
        self._check_usable()
        if not self._start <= position <= self._end:
            raise ValueError(f"{self.name}: position {position} is outside the log ({self._start} to {self._end})")
        async with self.removing:
            with trio.CancelScope(shield=True):
                await self._begin_change(position)
                await self._on_all(lambda log: log.truncate(position), "truncate")
                self._end = position
                self.sums.truncated(position)
                self.keep_sums()
                self._durable_end = min(self._durable_end, position)
                await self._settled(position)

    async def trim(self, position: int) -> int:
        """Give up whole segments below ``position``; see ``Log.trim``. Not cancelled once begun."""
        self._check_usable()
        async with self.removing:
            with trio.CancelScope(shield=True):
                await self._begin_change(self._end)
                starts = await self._on_all(lambda log: log.trim(position), "trim")
                # Segments of the copies need not begin at the same positions: what one still has is still read.
                self._start = max(self._start, min(starts))
                self._durable_end = max(self._durable_end, self._start)
                await self._settled(position)
        return self._start

    async def _begin_change(self, end: int) -> None:
        if self._group.must_announce:
            await self._group.announce()
        await self.equalise(end)

    async def equalise(self, end: int) -> None:
        """Have every copy hold what the source holds up to ``end``, and nothing else, flushed where that took a write.

        Raises ``StorageError`` when no copy is left to be the source.
        """
        while self._source is not None:
            if not self._source.is_in_sync:
                self._source = next(iter(self.in_sync()))
            source = self._source
            copies = dict(self.copies)
            bad = await make_equal(copies, source, end, self._group.background)
            self.copies |= {member: log for member, log in copies.items() if member in self.copies}
            for member, reason in bad.items():
                if not self._group.eject(member, reason):
                    raise StorageError(
                        f"log {self.name}: the last member, {member.path}, fails: {reason}", kind="io", path=member.path
                    )
            if source not in bad:
                self._source = None
                self._end = min(self._end, end)

    @asynccontextmanager
    async def held_back(self) -> AsyncIterator[None]:
        """Have appends wait for a block, once that which is under way has ended; nothing else is appended in it."""
        self._held = held = trio.Event()
        try:
            while self.is_appending:
                self._appended = trio.Event()
                await self._appended.wait()
            yield
        finally:
            self._held = None
            held.set()

    def join(self, member: ArrayMember, copy: Log) -> None:
        """Have appends go to ``copy`` too, which holds everything by now: the log of a member that is being rebuilt."""
        self.copies[member] = copy
        member.joined.add(self.name)

    # reads

    async def read(self, position: int, size: int) -> memoryview:
        """Return up to ``size`` bytes of one copy, of another one when that fails; see ``Log.read``."""
        self._check_open()
        if not self._start <= position <= self.end:
            await trio.lowlevel.checkpoint()
            raise ValueError(f"{self.name}: position {position} is outside the log ({self._start} to {self.end})")
        size = min(size, self.end - position)
        if size <= 0:
            await trio.lowlevel.checkpoint()
            return memoryview(b"")
        failed: dict[ArrayMember, Exception] = {}
        if self._source is None and len(self.copies) > 1:
            member, log = next(iter(self.copies.items()))  # the way of nearly every read, with little around it
            if member.is_in_sync and log.start <= position:
                waited = trio.CancelScope()
                self._group.background.watch(waited)
                member.begin_call()
                try:
                    with waited:
                        return await log.read(position, size)
                except (StorageError, OSError) as error:
                    self._check_open()
                    failed[member] = error
                finally:
                    member.end_call()
                    self._group.background.watched(waited)
                if waited.cancelled_caught:
                    failed[member] = trio.TooSlowError()
        while True:
            readers = [member for member in self._readers(position) if member not in failed]
            if not readers:
                raise as_storage_error(next(iter(failed.values()), None), "read", self.name, position)
            member = readers[0]
            try:
                view = await self._read_copy(member, position, size, patient=len(readers) == 1)
            except (StorageError, OSError, trio.TooSlowError) as error:
                self._check_open()
                failed[member] = error
                continue
            for other, problem in failed.items():
                self._group.eject(other, f"a read failed ({problem or 'it does not answer'})")
            return view

    async def _read_copy(self, member: ArrayMember, position: int, size: int, *, patient: bool) -> memoryview:
        if patient:
            return await self.copies[member].read(position, size)
        with trio.fail_after(self._group.late_after_s):
            return await member.during(self.copies[member].read, position, size)

    def _readers(self, position: int) -> list[ArrayMember]:
        """Members that have the position, the best one first."""
        if self._source is not None and self._source.is_in_sync:
            return [self._source]
        return [member for member, log in self.in_sync().items() if log.start <= position]

    # mending

    def keep_sums(self) -> None:
        """Have what is new of the blocks' checksums written beside each member's storage; see ``_sums``."""
        void, data = self.sums.take_void(), self.sums.take_fresh()
        for member in self.in_sync() if data or void is not None else ():
            member.keep_sums(self.name, void, data)

    @property
    def proven_end(self) -> int:
        """Position below which every copy proves that it was flushed; above, they may differ until it is used."""
        return self._durable_end if self._source is None else min(log.durable_end for log in self.in_sync().values())

    async def held(self, position: int, size: int) -> dict[ArrayMember, bytes | None]:
        """What each member that has the position holds there; None where it cannot be read."""
        found: dict[ArrayMember, bytes | None] = {}
        for member, log in self.in_sync().items():
            if log.start <= position:
                try:
                    found[member] = await read_range(log, position, size)
                except (StorageError, CorruptionError, OSError):
                    found[member] = None
        return found

    async def warm(self, position: int, size: int, copies_max: int | None = None) -> None:
        """Have a range brought into the page cache on so many members; what fails is found by who reads it."""
        await warm_copies(list(self.in_sync().values())[:copies_max], position, size)

    async def mend(self, position: int, size_max: int, whole: Callable[[memoryview], int]) -> int:
        """Put right what is wrong at ``position`` on one copy and not on another; see ``Log.mend``."""
        self._check_open()
        return await mend_by(self.versions, self.settle_on, position, min(size_max, self.end - position), whole)

    async def versions(self, position: int, size: int) -> list[bytes]:
        """What the members hold of a range, each different version once; one that cannot be read has none."""
        held = await self.held(position, size)
        return list(dict.fromkeys(data for data in held.values() if data is not None))

    async def settle_on(self, position: int, data: bytes) -> bool:
        """Write ``data`` on every copy that has something else; return whether one had. Raises ``StorageError``.

        Above what all prove a source alone is written: the others are made equal to it later.
        """
        held = await self.held(position, len(data))
        source = self._source if position + len(data) > self.proven_end else None
        wrong = {one: self.copies[one] for one, found in held.items() if found != data and source in (None, one)}
        await write_over(self.name, wrong, position, data, eject=self._group.eject, report=self._group.report)
        await self._settled(position)
        return bool(wrong)

    async def overwrite(self, position: int, data: Buffer) -> None:
        """Write ``data`` on every copy; see ``Log.overwrite``. Not cancelled once begun."""
        self._check_usable()
        wanted = check_overwrite(self, position, data)
        async with self.removing:
            with trio.CancelScope(shield=True):
                await self._begin_change(self._end)
                if await self.settle_on(position, wanted) and await self.versions(position, len(wanted)) != [wanted]:
                    raise as_storage_error(None, "mend", self.name, position)

    # flush

    def flushed(self, end: int) -> None:
        """Note that everything below ``end`` is flushed on every member that is left."""
        self._durable_end = max(self._durable_end, end)

    @property
    def failure(self) -> str | None:
        """Why the log has stopped, None while it has not."""
        return self._failure

    def fail(self, reason: str) -> None:
        """Stop: what is not durable now is never served again (clause G11)."""
        self._failure = self._failure or reason

    # end

    async def aclose(self) -> None:
        """Close every copy; see ``Log.aclose``."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._group.forget(self)
        with trio.CancelScope(shield=True):
            self.keep_sums()
            await self._on_all(lambda log: log.aclose(), "close")
            await self._settled(self._end)

    def shut(self) -> None:
        """Make every later call an error, at once."""
        self._closed = True

    # helpers

    async def _on_all(self, function: Callable[[Log], Awaitable[T]], what: str) -> list[T]:
        """Call ``function`` with every copy; those that fail leave, unless all do. Raises ``StorageError``."""
        copies = list(self.copies.items())
        results = await self._group.background.run_all(
            [partial(member.during, function, log) for member, log in copies]
        )
        good = [
            result.get()
            for (member, _), result in zip(copies, results, strict=True)
            if result.is_good and member.is_in_sync
        ]
        if not good:
            raise first_error(results, what, self.name)
        self._drop_failed(copies, results)
        return good

    def _drop_failed(
        self,
        copies: Sequence[tuple[ArrayMember, Log]],
        results: Sequence[MemberResult[T]],
        *,
        excused: Callable[[Exception | None], bool] = lambda error: False,
    ) -> None:
        for (member, _), result in zip(copies, results, strict=True):
            if not result.is_good and not (member.is_in_sync and excused(result.error)):
                self._group.eject(member, result.reason)

    async def _settled(self, position: int) -> None:
        try:
            await self._group.settled()
        except StorageError as error:
            raise StorageError(str(error), kind="flush", path=error.path, position=position, appended=True) from error

    def _check_usable(self) -> None:
        self._check_open()
        if self._failure is not None:
            raise StorageError(f"log {self.name} has stopped: {self._failure}", kind="flush")

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError(f"log {self.name} is closed; open it again", kind="closed")
