"""Contract checks of arrays: a storage that claims to survive the loss of a member, on a model disk.

A member is a folder that its URL names with ``{dir}``. Members are lost, made to fail, put back from an old copy and
used without each other; what was acknowledged is looked for on those that are left.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mqcore.abc import Log, Notice, StorageBackend, StorageContext
from mqcore.errors import CommandNotPossibleError, MqcoreError
from mqcore.guarantees import Level
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore_conformance.contract._checks import NotApplicable, check, expect
from mqcore_conformance.contract._storage import StorageHarness, read_whole
from mqcore_conformance.contract._storage_grounds import VIRTUAL_SECONDS_MAX, ModelGround
from mqcore_conformance.folders import copy_folder, member_folders, remove_folder
from mqcore_conformance.plans import with_small_files

FIRST, SECOND = bytes(range(256)) * 36, b"second" * 700
REBUILT_S = 60.0
LEVEL_LOOK_S = 0.01


class ArrayGround:
    """An array on a model disk. ``members``: its folders. ``notices``: what it reported, in all its lives."""

    def __init__(self, harness: StorageHarness, url: str, disk: ModelDisk, members: list[str]) -> None:
        self.harness, self.url, self.disk, self.members = harness, url, disk, members
        self.notices: list[Notice] = []
        self.lives = 0

    @classmethod
    def of(cls, harness: StorageHarness) -> ArrayGround:
        """Ground for one check. Raises ``NotApplicable`` for what is no array, or cannot be simulated."""
        capabilities = harness.create().capabilities
        if not capabilities.member_losses_survived:
            raise NotApplicable("it claims no member loss")
        if not capabilities.simulable:
            raise NotApplicable("it does not claim simulable; a_lost_member_takes_nothing looks at its folders")
        ground = ModelGround(with_small_files(harness.template), harness.folder, seed=0)
        members = member_folders(harness.template, str(harness.folder / "data"))
        expect(len(members) > 1, "it claims to survive a lost member, and its URL names fewer than two folders")
        return cls(harness, ground.url, ground.disk, members)

    def fork(self) -> ArrayGround:
        """The same array on a copy of the disk."""
        other = ArrayGround(self.harness, self.url, self.disk.fork(), self.members)
        other.lives = self.lives + 1000
        return other

    async def open(self) -> StorageBackend:
        """Open it for its next life, in which other random numbers are drawn."""
        self.lives += 1
        context = StorageContext(ports=model_ports(self.lives, self.disk), report=self.notices.append)
        backend = create_storage(self.url, context)
        await backend.open()
        return backend

    async def cut(self, backend: StorageBackend) -> None:
        """Cut the power while it is open."""
        self.disk.power_cut()
        with trio.CancelScope(shield=True):
            with contextlib.suppress(MqcoreError, OSError):  # its process is dead
                await backend.aclose()
        self.disk = self.disk.restart()

    async def expect_content(self, wanted: bytes, when: str) -> None:
        """Open it, find ``wanted`` at the beginning of its log, and close it."""
        backend = await self.open()
        log = await backend.open_log("log")
        found = bytes(await _read(log, len(wanted))) if log.end >= len(wanted) else b""
        what = "other bytes" if log.end >= len(wanted) else f"{log.end} bytes"
        expect(found == wanted, f"{len(wanted)} bytes were acknowledged; {when} there are {what}")
        await backend.aclose()

    async def expect_on_each(self, wanted: bytes, when: str) -> None:
        """Find ``wanted`` whichever one member is gone."""
        for lost in self.members:
            fork = self.fork()
            remove_folder(fork.disk, lost)
            await fork.expect_content(wanted, f"{when}, without the member {lost.rpartition('/')[2]},")


async def _read(log: Log, size: int) -> bytes:
    pieces, position = [], 0
    while position < size:
        pieces.append(bytes(await log.read(position, size - position)))
        position += len(pieces[-1])
    return b"".join(pieces)


def _simulated(function: Callable[[ArrayGround], Awaitable[None]]) -> Callable[[StorageHarness], None]:
    def run(harness: StorageHarness) -> None:
        run_simulation(function, ArrayGround.of(harness), seconds_max=VIRTUAL_SECONDS_MAX)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


async def _put(backend: StorageBackend, data: bytes) -> tuple[Log, Any]:
    log = await backend.open_log("log")
    await log.append([data])
    (reached,) = await backend.flush([log])
    return log, reached


@check("storage", "G01")
@_simulated
async def what_a_flush_reached_is_there_without_any_one_member(ground: ArrayGround) -> None:
    """After a power cut, what was flushed at level mirror is there whichever one member is gone."""
    backend = await ground.open()
    _, reached = await _put(backend, FIRST)
    expect(reached.level is Level.MIRROR, f"with all members a flush reaches {reached.level.label}, not mirror")
    await ground.cut(backend)
    await ground.expect_on_each(FIRST, "after a power cut")


@check("storage", "G14")
@_simulated
async def the_level_moves_with_the_members(ground: ArrayGround) -> None:
    """Once a member is gone, the first flush that meets it states a lower level, and everything is still read."""
    for lost in ground.members[:2]:
        fork = ground.fork()
        backend = await fork.open()
        await _put(backend, FIRST)
        remove_folder(fork.disk, lost)
        log, reached = await _put(backend, SECOND)
        best, group = backend.capabilities.flush_level, len(ground.members)
        fallen = backend.capabilities.member_losses_survived == 1
        expect(
            not fallen or reached.level < best,
            f"one of {group} members is gone, and a flush still states {reached.level.label}",
        )
        expect(reached.level == log.level, f"a flush states {reached.level.label}, its log {log.level.label}")
        expect(await read_whole(log) == FIRST + SECOND, "what was appended is not read any more")
        await fork.cut(backend)
        await fork.expect_content(FIRST + SECOND, "after a power cut")


@check("storage", "G01")
@_simulated
async def a_member_that_failed_is_out_when_the_flush_returns(ground: ArrayGround) -> None:
    """A member that failed a flush never wins after a power cut, though it holds more than those that went on."""
    for failing in ground.members:
        fork = ground.fork()
        backend = await fork.open()
        log, _ = await _put(backend, FIRST[:3000])
        for at in range(3000, len(FIRST), 3000):  # several flushes: what a member proves trails by one
            await _put(backend, FIRST[at : at + 3000])
        fork.disk.fail_next_flush(path=f"{failing}/*")
        await _put(backend, SECOND[:500])
        if not fork.disk.witnesses["flush-error"]:
            await backend.aclose()
            continue  # the log has nothing on that member
        await log.truncate(1000)
        await _put(backend, SECOND[500:1000])
        await fork.cut(backend)
        fork.disk.heal()
        when = f"{failing.rpartition('/')[2]} had failed, and the log was cut and went on; after a power cut"
        await fork.expect_content(FIRST[:1000] + SECOND[500:1000], when)


@check("storage", "G01")
@_simulated
async def an_old_copy_of_a_member_never_wins(ground: ArrayGround) -> None:
    """A member that is put back as it was before the last run is not believed."""
    backend = await ground.open()
    await _put(backend, FIRST)
    await backend.aclose()
    for old in ground.members:
        fork = ground.fork()
        copy_folder(fork.disk, old, f"{old}-kept")
        backend = await fork.open()
        log = await backend.open_log("log")
        await log.truncate(1000)
        await _put(backend, SECOND[:500])
        await backend.aclose()
        remove_folder(fork.disk, old)
        fork.disk.rename(f"{old}-kept", old)
        fork.disk.flush_directory(old.rpartition("/")[0])
        await fork.expect_content(FIRST[:1000] + SECOND[:500], "with an old copy of a member")


@check("storage", "G05")
@_simulated
async def two_halves_that_were_used_alone_never_both_win(ground: ArrayGround) -> None:
    """Two members that were each used without the other are not joined silently: an error, or one of them, reported."""
    backend = await ground.open()
    await _put(backend, FIRST)
    await backend.aclose()
    one, other = ground.members[:2]
    halves = []
    for alone, away, data in ((one, other, SECOND[:500]), (other, one, SECOND[500:900])):
        for path in (alone, away):
            if path.rpartition("/")[2] not in ground.disk.list(path.rpartition("/")[0]):
                ground.disk.rename(f"{path}-away", path)
        ground.disk.rename(away, f"{away}-away")
        try:
            backend = await ground.open()
        except MqcoreError:
            return  # it knows that the other one was used
        log, _ = await _put(backend, data)
        halves.append(await read_whole(log))
        await backend.aclose()
    ground.disk.rename(f"{one}-away", one)
    ground.notices.clear()
    try:
        backend = await ground.open()
    except MqcoreError:
        return
    found = await read_whole(await backend.open_log("log"))
    await backend.aclose()
    expect(bool(ground.notices), "two members were each used alone, and it opens with both and reports nothing")
    expect(found in halves, "it opens with bytes of both halves mixed")


@check("storage", "G12")
@_simulated
async def a_bad_copy_is_mended_from_a_good_one(ground: ArrayGround) -> None:
    """Where one copy rotted, ``Log.mend`` finds the other by what the caller knows, and puts the bad one right."""
    for number, bad in enumerate(ground.members):
        fork = ground.fork()
        backend = await fork.open()
        log, _ = await _put(backend, FIRST)
        if not _rot(fork.disk, bad):
            await backend.aclose()
            continue
        await log.mend(0, len(FIRST), lambda view: len(FIRST) if bytes(view) in (FIRST, FIRST[: len(view)]) else 0)
        await backend.aclose()
        await fork.expect_on_each(FIRST, f"after copy {number} rotted and was mended")


def _rot(disk: ModelDisk, member: str) -> bool:
    """Flip a bit of the log on one member; False if it has none of it."""
    for path in disk.paths():
        at = disk.content(path, durable=True).find(FIRST[:700]) if path.startswith(f"{member}/") else -1
        if at >= 0:
            disk.rot(path, at + 600)
            return True
    return False


@check("storage", "G01")
@_simulated
async def a_rebuilt_member_counts_when_all_of_it_is_there(ground: ArrayGround) -> None:
    """When a rebuild lets the level return, everything is there whichever one member is gone then."""
    backend = await ground.open()
    log, _ = await _put(backend, FIRST)
    lost = ground.members[1]
    remove_folder(ground.disk, lost)
    await _put(backend, SECOND)
    try:
        await backend.operate("rebuild", {"member": lost})
    except CommandNotPossibleError as error:
        await backend.aclose()
        raise NotApplicable(f"it has no operation rebuild ({error})") from None
    with trio.move_on_after(REBUILT_S) as waited:
        while log.level < backend.capabilities.flush_level:  # noqa: ASYNC110 - a level has no event
            await trio.sleep(LEVEL_LOOK_S)
    expect(not waited.cancelled_caught, f"{REBUILT_S:.0f} s after a rebuild began the level is {log.level.label}")
    await ground.cut(backend)
    await ground.expect_on_each(FIRST + SECOND, "after a rebuild and a power cut")
