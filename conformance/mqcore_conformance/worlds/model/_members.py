"""What befalls one member of an array on the simulated machine: a folder that the storage's URL names with ``{dir}``.

What is done to a folder while its process is dead is done before the next life begins.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial

from mqcore.testing import ModelDisk
from mqcore_conformance.folders import copy_folder, member_folders, remove_folder
from mqcore_conformance.histories import FaultInjected
from mqcore_conformance.plans import FaultPlan
from mqcore_conformance.worlds.model._machine import DATA, ModelMachine

KEPT = f"{DATA}-kept"
ROT_TRIES = 20


class MemberFaults:
    """Carries out faults whose kind begins with ``member-``. ``stalled`` is told of a stall that it plans."""

    def __init__(self, world: ModelMachine, stalled: Callable[[FaultPlan], None]) -> None:
        self._world = world
        self._stalled = stalled
        self.paths = member_folders(world.plan.storage, DATA)

    def strike(self, fault: FaultPlan) -> None:
        """Do what ``fault`` says to its member, and record whether it found something to take."""
        if not self.paths:
            return
        number, _, operation = fault.target.partition(":")
        path = self.paths[int(number) % len(self.paths)]
        hit = self._strike(fault, path, operation)
        self._world.witnesses["member-struck"] += bool(hit)
        self._world.note(FaultInjected, by=self._world.present, kind=fault.kind, detail=path, hit=int(hit))

    def _strike(self, fault: FaultPlan, path: str, operation: str) -> bool:
        disk = self._world.disk
        match fault.kind:
            case "member-lost" if fault.amount:
                return self._between_lives(fault, partial(_remove, path=path))
            case "member-lost":
                return self._at_once(partial(_remove, path=path))
            case "member-emptied":
                return self._between_lives(fault, partial(_empty, path=path))
            case "member-swapped":
                other = self.paths[(self.paths.index(path) + 1) % len(self.paths)]
                return self._between_lives(fault, partial(_swap, path=path, other=other))
            case "member-stale" if fault.amount:
                return self._between_lives(fault, partial(_put_back, path=path))
            case "member-stale":
                return self._at_once(partial(_keep, path=path))
            case "member-away":
                back = _bring_back if fault.amount else _take_away
                return self._between_lives(fault, partial(back, path=path))
            case "member-slow":
                disk.stall_next(operation, fault.duration_us / 1e6, path=f"{path}/*", times=fault.amount)
                self._stalled(fault)
            case "member-full":
                disk.fail_next(operation, errno.ENOSPC, path=f"{path}/*", times=fault.amount)
            case "member-flush-error":
                disk.fail_next_flush(path=f"{path}/*", times=fault.amount)
            case "member-io-error":
                disk.fail_next(operation, errno.EIO, path=f"{path}/*", times=fault.amount)
            case "member-rot":
                return self._rot(path, fault.amount)
            case kind:
                raise ValueError(f"unknown fault {kind!r}")
        return True

    def _at_once(self, action: Callable[[ModelDisk], bool]) -> bool:
        disk = self._world.disk
        if not disk.alive:
            return False
        hook, disk.on_call = disk.on_call, None  # these calls are not the broker's
        try:
            return action(disk)
        finally:
            disk.on_call = hook

    def _between_lives(self, fault: FaultPlan, action: Callable[[ModelDisk], bool]) -> bool:
        if not self._world.kill("power-cut" if fault.amount == 2 else "process-kill"):
            return False
        self._world.between_lives.append(action)
        return True

    def _rot(self, path: str, size: int) -> bool:
        """Flip bits in a file of the member, wherever it has some."""
        world = self._world
        files = [each for each in world.disk.paths() if each.startswith(f"{path}/")]
        for _ in range(ROT_TRIES if files else 0):
            file = world.random.choice(files)
            held = len(world.disk.content(file, durable=True).rstrip(b"\0"))
            if held:
                first = world.random.randrange(held)
                world.disk.rot(file, first, min(size, held - first), world.random)
                return True
        return False


def _there(disk: ModelDisk, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    grand = parent.rpartition("/")[0] or "/"
    return parent.rpartition("/")[2] in disk.list(grand) and name in disk.list(parent)


def _remove(disk: ModelDisk, path: str) -> bool:
    if not _there(disk, path):
        return False
    remove_folder(disk, path)
    return True


def _empty(disk: ModelDisk, path: str) -> bool:
    done = _remove(disk, path)
    if done:
        disk.make_directory(path)
        disk.flush_directory(path.rpartition("/")[0])
    return done


def _rename(disk: ModelDisk, old: str, new: str) -> None:
    disk.rename(old, new)
    disk.flush_directory(old.rpartition("/")[0])
    disk.flush_directory(new.rpartition("/")[0])


def _swap(disk: ModelDisk, path: str, other: str) -> bool:
    if not (_there(disk, path) and _there(disk, other)):
        return False
    _rename(disk, path, f"{path}-swapped")
    _rename(disk, other, path)
    _rename(disk, f"{path}-swapped", other)
    return True


def _kept(path: str) -> str:
    return f"{KEPT}-{path.rpartition('/')[2]}"


def _keep(disk: ModelDisk, path: str) -> bool:
    """Copy what the member's device holds now, as a backup of it would."""
    if not _there(disk, path) or _there(disk, _kept(path)):
        return False
    copy_folder(disk, path, _kept(path), durable=True)
    return True


def _put_back(disk: ModelDisk, path: str) -> bool:
    if not _there(disk, _kept(path)):
        return False
    _remove(disk, path)
    _rename(disk, _kept(path), path)
    return True


def _take_away(disk: ModelDisk, path: str) -> bool:
    if not _there(disk, path) or _there(disk, _kept(path)):
        return False
    _rename(disk, path, _kept(path))
    return True


def _bring_back(disk: ModelDisk, path: str) -> bool:
    return _put_back(disk, path)
