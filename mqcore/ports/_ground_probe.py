"""Reads what lies below a directory from ``/proc`` and ``/sys``: its mount, its block devices, the arrays under it.

Reads text files only, below a root that a test can make: nothing is asked of a device. Formats: ``proc(5)``
(mountinfo); the kernel's ``Documentation/ABI/stable/sysfs-block``, ``ABI/testing/sysfs-block-dm``,
``ABI/testing/sysfs-block-loop`` and ``admin-guide/md.rst``; ``btrfs(5)``, "sysfs interface".
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs

from mqcore.ports._ground import BlockDevice, DirectoryGround

__all__ = ["probe_ground"]

DEPTH_MAX = 8
FILES_MAX = 4096
"""Entries of one folder of ``/sys`` that are looked at, and bytes of one text there."""


def probe_ground(directory: str, *, root: str = "/", device: tuple[int, int] | None = None) -> DirectoryGround:
    """Return what ``directory`` stands on, or will where it is not made yet: then what is above it counts.

    ``root`` has ``proc`` and ``sys``; ``device``: its major and minor number. Raises ``OSError`` where the table of
    mounts cannot be read, as on a system that is not Linux.
    """
    place = os.path.realpath(directory) if device is None else directory
    if device is None:
        while not os.path.isdir(place) and place != "/":
            place = os.path.dirname(place)
        number = os.stat(place).st_dev
        device = os.major(number), os.minor(number)
    base = Path(root)
    mount = _mount_of(base, place, device)
    found = _device(base / "sys/dev/block" / f"{device[0]}:{device[1]}", 0)
    if found is None and mount[3].startswith("/dev/"):  # btrfs, say, whose files have a device number of their own
        found = _device(base / "sys/class/block" / os.path.basename(os.path.realpath(mount[3])), 0)
    ground = DirectoryGround(
        directory=directory,
        mount_point=mount[1],
        file_system=mount[2],
        source=mount[3],
        options=mount[4],
        device=found,
        device_number=device,
    )
    return _with_btrfs(base, ground) if mount[2] == "btrfs" else ground


def _mount_of(base: Path, directory: str, device: tuple[int, int]) -> tuple[str, str, str, str, str]:
    """Device, mount point, type, source and options of the mount that holds ``directory``: the last, longest one."""
    best = ("", "", "", "", "")
    for line in (base / "proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        if len(fields) < 6 or len(rest) < 2:
            continue
        point = fields[4].encode().decode("unicode_escape")  # blanks and the like stand as \\040
        holds = directory == point or directory.startswith(point.rstrip("/") + "/")
        if holds and len(point) >= len(best[1]):
            best = (fields[2], point, rest[0], rest[1], f"{fields[5]};{rest[2] if len(rest) > 2 else ''}")
    return best


def _device(path: Path, depth: int) -> BlockDevice | None:
    """The device at ``path`` of ``/sys``; of a partition, the disk that it is on."""
    if not path.exists() or depth > DEPTH_MAX:
        return None
    real = path.resolve()
    if (real / "partition").exists():
        real = real.parent
    below = [_device(real / "slaves" / name, depth + 1) for name in _names(real / "slaves")]
    loop_file = _text(real / "loop/backing_file")
    if loop_file is not None and depth < DEPTH_MAX:
        below.append(_device_of_file(loop_file, depth + 1))
    rotational = _number(real / "queue/rotational")
    return BlockDevice(
        name=real.name,
        rotational=None if rotational is None else bool(rotational),
        write_cache=_text(real / "queue/write_cache"),
        physical_block_bytes=_number(real / "queue/physical_block_size"),
        dm_name=_text(real / "dm/name"),
        md_level=_text(real / "md/level"),
        md_chunk_bytes=_number(real / "md/chunk_size"),
        md_degraded=_number(real / "md/degraded"),
        md_mismatches=_number(real / "md/mismatch_cnt"),
        loop_file=loop_file,
        below=tuple(each for each in below if each is not None),
    )


def _device_of_file(file: str, depth: int) -> BlockDevice | None:
    """The device that a loop device's file is on, where this is the machine's own ``/sys``."""
    try:
        number = os.stat(file).st_dev
    except OSError:
        return None
    return _device(Path("/sys/dev/block") / f"{os.major(number)}:{os.minor(number)}", depth)


def _with_btrfs(base: Path, ground: DirectoryGround) -> DirectoryGround:
    """``ground`` with what the file system's folder in ``/sys/fs/btrfs`` says; as it is where there is none."""
    own = os.path.basename(os.path.realpath(ground.source))
    for uuid in _names(base / "sys/fs/btrfs"):
        folder = base / "sys/fs/btrfs" / uuid
        names = _names(folder / "devices")
        if own in names:
            data = folder / "allocation/data"
            profiles = [name for name in _names(data) if (data / name).is_dir()]
            infos = _names(folder / "devinfo")
            missing = sum(_number(folder / "devinfo" / number / "missing") or 0 for number in infos)
            below = [_device(folder / "devices" / name, 1) for name in names]
            whole = BlockDevice(name=f"btrfs {uuid}", below=tuple(each for each in below if each is not None))
            return attrs.evolve(
                ground,
                data_profiles=tuple(profiles),
                devices=max(len(names), len(infos)),
                missing_devices=missing,
                device=whole if len(whole.below) > 1 else ground.device,
            )
    return ground


def _names(path: Path) -> list[str]:
    try:
        return sorted(os.listdir(path))[:FILES_MAX]
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        with path.open() as file:
            return file.read(FILES_MAX).strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None
