"""Opening an array: reads what lies at each member's directory, locks, decides, opens the members, records it.

In an order in which a crash at any step leaves an array that opens: nothing of a member changes before all that can be
read was read, and no member is used before every one that belongs has the new generation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs

from mqcore.abc import StorageBackend, StorageContext
from mqcore.errors import ConfigurationError, CorruptionError, StorageError
from mqcore.ports import DeviceThread, FileBirth, FileSystem
from mqcore.url import Url
from mqcore_raid._assembly import Assembly, Finding, assemble
from mqcore_raid._background import Background
from mqcore_raid._config import RaidOptions
from mqcore_raid._directory import MemberDirectory, inspect, make_member_directory, places_above
from mqcore_raid._member import ArrayMember
from mqcore_raid._record import ArrayRecord, SlotState
from mqcore_raid._roster import Roster
from mqcore_raid._shape import Shape

__all__ = ["Opened", "open_array"]

T = TypeVar("T")


@attrs.frozen
class Opened:
    """An open array."""

    roster: Roster


class _Place:
    """The directory of one path of the URL, and the thread for its calls."""

    def __init__(self, path: str, thread: DeviceThread, context: StorageContext) -> None:
        self.path = path
        self.thread = thread
        self.directory = MemberDirectory(context.ports.files, path)
        self._calls = 0
        self._ended: Callable[[], None] | None = None

    async def call(self, function: Callable[..., T], *args: object) -> T:
        """Run a blocking call on the directory in its thread."""
        self._calls += 1
        try:
            return await self.thread.run(function, *args)
        finally:
            self._calls -= 1
            if self._ended is not None:
                self._ended()

    def hand_over(self, member: ArrayMember) -> None:
        """Have ``member`` wait for the calls that are still under way."""
        self._ended = member.end_call
        for _ in range(self._calls):
            member.begin_call()

    async def aclose(self) -> None:
        """End the thread and release the lock; where a call hangs, leave both as they are: it would hang too."""
        if not self._calls:
            await self.thread.aclose()
            self.directory.release()


async def open_array(
    url: Url,
    options: RaidOptions,
    shape: Shape,
    context: StorageContext,
    background: Background,
    compose: Callable[[str, int], StorageBackend],
) -> Opened:
    """Open the array of ``shape``; ``compose(path, slot)`` makes a member's storage. Leaves nothing open on an error.

    Raises ``StorageError``, ``CorruptionError``, ``ConfigurationError``.
    """
    places = {path: _Place(path, context.ports.threads.start(f"raid-{path}"), context) for path in shape.paths}
    members: list[ArrayMember] = []
    try:
        findings = await _inspect_all(places, context, background)
        assembly = assemble(findings, shape, min_members=options.min_members, create=options.create)
        if assembly.record is None:
            assembly = await _make(places, findings, options, shape, context)
        else:
            unusable = await _lock(places, assembly, background)
            # Another broker may have used and closed it between the reading and the locks.
            again = await _inspect_all(places, context, background)
            findings = [attrs.evolve(each, text=unusable.get(each.path, each.text)) for each in again]
            assembly = assemble(findings, shape, min_members=options.min_members, create=options.create)
        roster = await _open_members(places, findings, assembly, options, shape, context, background, compose, members)
    except BaseException:
        for member in members:
            try:
                await member.aclose()
            except (StorageError, OSError):
                continue
        for place in places.values():
            await place.aclose()
        raise
    used = {member.path for member in roster.members}
    for path, place in places.items():
        if path not in used:
            await place.aclose()
    return Opened(roster)


async def _inspect_all(places: dict[str, _Place], context: StorageContext, background: Background) -> list[Finding]:
    results = await background.run_all(
        [partial(place.call, _look, context.ports.files, path) for path, place in places.items()]
    )
    findings: list[Finding] = []
    seen: dict[tuple[int, int], str] = {}
    lies_in: dict[str, set[tuple[int, int]]] = {}
    for path, result in zip(places, results, strict=True):
        if result.is_late:
            findings.append(Finding(path, "unreadable", text="it does not answer"))
            continue
        if result.error is not None:
            raise result.error
        finding, where, lies_in[path] = result.get()
        if where is not None and where in seen:
            raise ConfigurationError(
                f"{seen[where]} and {path} are the same directory (a link, or mounted twice); each member needs its own"
            )
        if where is not None:
            seen[where] = path
        findings.append(finding)
    for path, above in lies_in.items():
        for where in above & seen.keys():
            raise ConfigurationError(f"{path} lies in {seen[where]}, by a link; members must not contain each other")
    return findings


def _look(files: FileSystem, path: str) -> tuple[Finding, tuple[int, int] | None, set[tuple[int, int]]]:
    return *inspect(files, path), places_above(files, path)


async def _lock(places: dict[str, _Place], assembly: Assembly, background: Background) -> dict[str, str]:
    """Lock those that belong; return why of each one that cannot be, by path. Raises ``StorageError`` of one in use."""
    wanted = [
        path
        for member, path in zip(assembly.members, assembly.paths, strict=True)
        if path is not None and member.state in ("in-sync", "rebuilding")
    ]
    results = await background.run_all([partial(places[path].call, places[path].directory.lock) for path in wanted])
    unusable: dict[str, str] = {}
    for path, result in zip(wanted, results, strict=True):
        if isinstance(result.error, StorageError):
            raise result.error
        if not result.is_good:
            unusable[path] = f"it cannot be locked: {result.reason}"
    return unusable


async def _make(
    places: dict[str, _Place],
    findings: Sequence[Finding],
    options: RaidOptions,
    shape: Shape,
    context: StorageContext,
) -> Assembly:
    """Make the directories and a record of generation 0 in each: with it, and until the next, the array is empty."""

    def new_id() -> str:
        return f"{context.ports.random.getrandbits(64):016x}"

    record = ArrayRecord(
        array_id=f"{context.ports.random.getrandbits(96):024x}",
        slot=0,
        level=shape.level,
        copies=shape.copies,
        stripe_bytes=options.stripe_bytes,
        generation=0,
        generation_id=new_id(),
        committed=False,
        history=(),
        may_lack=False,
        members=tuple(SlotState(member_id=new_id(), path=path, state="in-sync", since=0) for path in shape.paths),
    )
    for slot, path in enumerate(shape.paths):
        place = places[path]
        try:
            await place.call(make_member_directory, context.ports.files, path)
            await place.call(place.directory.lock)
            await place.call(place.directory.write, attrs.evolve(record, slot=slot))
        except OSError as error:
            raise StorageError(f"cannot make member {path}: {error}", kind="io", path=path) from error
    return Assembly(record, record.members, shape.paths, may_lack=False)


async def _open_members(
    places: dict[str, _Place],
    findings: Sequence[Finding],
    assembly: Assembly,
    options: RaidOptions,
    shape: Shape,
    context: StorageContext,
    background: Background,
    compose: Callable[[str, int], StorageBackend],
    members: list[ArrayMember],
) -> Roster:
    """Open the storages of those that belong, then publish the new generation; what does not open leaves."""
    assert assembly.record is not None
    for notice in assembly.notices:
        context.report(notice)
    for slot, (state, path) in enumerate(zip(assembly.members, assembly.paths, strict=True)):
        place = places[path] if path is not None else _gone(state.path, places, context)
        members.append(ArrayMember(slot, shape.group_of(slot), state, place.directory, place.thread))
        place.hand_over(members[-1])
    record = attrs.evolve(assembly.record, may_lack=assembly.may_lack)
    roster = Roster(
        record,
        members,
        background,
        report=context.report,
        new_id=lambda: f"{context.ports.random.getrandbits(64):016x}",
    )
    await _eject_copies(roster, findings, background)
    opening = roster.in_sync()
    results = await background.run_all(
        [partial(member.open_storage, compose(member.path, member.slot)) for member in opening]
    )
    for member, result in zip(opening, results, strict=True):
        error = result.error
        if isinstance(error, StorageError) and error.kind == "busy":
            raise error
        if not result.is_good and not roster.eject(member, f"its storage does not open ({result.reason})"):
            raise error or StorageError(f"{member.path} does not answer", kind="io", path=member.path)
        if error is not None and not isinstance(error, (StorageError, CorruptionError, OSError)):
            raise error
    await _open_rebuilding(roster, background, compose)
    for group in range(shape.groups):
        left = len(roster.in_sync(group))
        if left < options.min_members:
            raise StorageError(
                f"mirror group {group} of the array has {left} members left and min_members is {options.min_members}",
                kind="missing",
            )
    await roster.publish()
    return roster


async def _eject_copies(roster: Roster, findings: Sequence[Finding], background: Background) -> None:
    """Eject who was in use when its broker was killed and is not the directory that was, beside one that is.

    A copy that was made meanwhile has the newest generation, as all have; what it holds may be older, and where a log
    was cut since it even proves more. Without one that stands where it stood, all were moved, and are believed.
    """
    own = {finding.path: finding.record for finding in findings if finding.record is not None}
    members = roster.in_sync()
    results = await background.run_all([partial(member.call, member.directory.find_storage) for member in members])
    stands: dict[ArrayMember, bool | None] = {}
    for member, result in zip(members, results, strict=True):
        # By its own record: the newest one may be of a use that it had no part in, or be written halfway only.
        record = own.get(member.path)
        inode, birth = result.get() if result.is_good else (0, FileBirth())
        if record is None or not record.in_use:
            stands[member] = True  # just made, or closed after all of it was flushed
        else:
            stands[member] = record.members[record.slot].stands(inode, birth)
    for member in members:
        if stands[member] is False and any(stands[other] for other in roster.in_sync(member.group)):
            reason = "it is a copy of the directory that was in use when the broker was killed, and may be older"
            roster.eject(member, reason)


async def _open_rebuilding(
    roster: Roster, background: Background, compose: Callable[[str, int], StorageBackend]
) -> None:
    """Open what is to be rebuilt further."""
    members = [member for member in roster.members if member.is_rebuilding]
    for member in members:
        result = await background.run_bounded(partial(member.open_storage, compose(member.path, member.slot)))
        if not result.is_good:
            roster.eject(member, f"its storage does not open ({result.reason})")


def _gone(path: str, places: dict[str, _Place], context: StorageContext) -> _Place:
    """A place for a member of which nothing is there: no call is made on it."""
    known = places.get(path)
    return known if known is not None else _Place(path, context.ports.threads.start(f"raid-{path}"), context)
