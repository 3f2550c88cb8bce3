"""Arrays below a directory, from trees of ``/proc`` and ``/sys`` that are made here, and live where root allows.

Where each form is from: ``md/*``, the kernel's ``Documentation/admin-guide/md.rst``; ``dm/name``,
``Documentation/ABI/testing/sysfs-block-dm``, and the names of a raid volume's images, ``lvmraid(7)``;
``/sys/fs/btrfs``, ``btrfs(5)`` ("sysfs interface"); ``loop/backing_file``, ``drivers/block/loop.c``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from test_probe import make

from mqcore.ports import DirectoryGround, probe_ground

UUID = "0a1b2c3d-0000-4000-8000-000000000001"
BTRFS = "43 27 0:39 / /d1 rw,relatime - btrfs /dev/sda rw,space_cache=v2,subvolid=5,subvol=/"
MD = "40 27 9:127 / /d1 rw - ext4 /dev/md127 rw"


def md_tree(
    root: Path, level: str, *, degraded: int = 0, chunk: int = 0, legs: tuple[str, ...] = ("sda", "sdb")
) -> str:
    array = "devices/virtual/block/md127"
    files = {
        f"{array}/md/level": level,
        f"{array}/md/degraded": str(degraded),
        f"{array}/md/chunk_size": str(chunk),
        f"{array}/md/mismatch_cnt": "0",
        f"{array}/queue/physical_block_size": "512",
    }
    links = {"dev/block/9:127": array}
    for leg in legs:
        disk = leg.rstrip("0123456789")
        files[f"devices/pci0/{disk}/queue/rotational"] = "1"
        path = f"devices/pci0/{disk}"
        if leg != disk:
            files[f"{path}/{leg}/partition"] = leg[len(disk) :]
            path = f"{path}/{leg}"
        links[f"{array}/slaves/{leg}"] = path
    return make(root, files, links, [MD])


def btrfs_tree(
    root: Path, profiles: tuple[str, ...], *, devices: tuple[str, ...] = ("sda", "sdb"), missing: int = 0
) -> str:
    folder = f"fs/btrfs/{UUID}"
    files = {f"{folder}/allocation/data/{name}/total_bytes": "1073741824" for name in profiles}
    files[f"{folder}/allocation/data/bytes_used"] = "0"
    links = {}
    for number, name in enumerate(devices, 1):
        files[f"devices/pci0/{name}/queue/rotational"] = "0"
        files[f"{folder}/devinfo/{number}/missing"] = str(int(number <= missing))
        links[f"class/block/{name}"] = f"devices/pci0/{name}"
        if number > missing or name == "sda":
            links[f"{folder}/devices/{name}"] = f"devices/pci0/{name}"
    return make(root, files, links, [BTRFS])


def look(root: str, device: tuple[int, int] = (9, 127)) -> DirectoryGround:
    return probe_ground("/d1/data", root=root, device=device)


@pytest.mark.parametrize(
    ("level", "degraded", "legs", "answer", "why"),
    [
        ("raid1", 0, ("sda", "sdb"), "yes", "md127 is raid1"),
        ("raid10", 0, ("sda", "sdb"), "yes", "md127 is raid10"),
        ("raid5", 0, ("sda", "sdb", "sdc"), "yes", "md127 is raid5"),
        ("raid1", 1, ("sda",), "no", "degraded by 1"),
        ("raid0", 0, ("sda", "sdb"), "no", "lost with any one"),
        ("linear", 0, ("sda", "sdb"), "no", "lost with any one"),
        ("raid1", 0, ("sda1", "sda2"), "no", "two of its copies on sda"),
    ],
)
def test_whether_md_below_may_lose_a_disk(tmp_path, level, degraded, legs, answer, why):
    found = look(md_tree(tmp_path, level, degraded=degraded, legs=legs))
    assert found.mirrored[0] == answer
    assert why in found.mirrored[1]
    assert any(level in text for text in found.warnings) is (level in ("raid0", "linear") or degraded > 0)


@pytest.mark.parametrize(
    ("profiles", "devices", "missing", "answer", "why"),
    [
        (("raid1",), ("sda", "sdb"), 0, "yes", "raid1"),
        (("raid1c3",), ("sda", "sdb", "sdc"), 0, "yes", "raid1c3"),
        (("single",), ("sda", "sdb"), 0, "no", "single on 2 devices"),
        (("raid1", "single"), ("sda", "sdb"), 0, "no", "single on 2 devices"),
        (("raid1",), ("sda", "sdb"), 1, "no", "lacks 1"),
        (("dup",), ("sda",), 0, "unknown", "one disk"),
    ],
)
def test_whether_btrfs_may_lose_a_disk(tmp_path, profiles, devices, missing, answer, why):
    found = look(btrfs_tree(tmp_path, profiles, devices=devices, missing=missing), (0, 39))
    assert found.data_profiles == tuple(sorted(profiles))
    assert found.mirrored[0] == answer
    assert why in found.mirrored[1]


def test_a_raid_volume_of_lvm_is_known_by_its_images(tmp_path):
    virtual = "devices/virtual/block"
    names = {"dm-4": "vg-mq", "dm-1": "vg-mq_rimage_0", "dm-3": "vg-mq_rimage_1"}
    files = {f"{virtual}/{device}/dm/name": name for device, name in names.items()}
    files |= {f"devices/pci0/{disk}/queue/rotational": "0" for disk in ("sda", "sdb")}
    links = {
        "dev/block/253:4": f"{virtual}/dm-4",
        f"{virtual}/dm-4/slaves/dm-1": f"{virtual}/dm-1",
        f"{virtual}/dm-4/slaves/dm-3": f"{virtual}/dm-3",
        f"{virtual}/dm-1/slaves/sda": "devices/pci0/sda",
        f"{virtual}/dm-3/slaves/sdb": "devices/pci0/sdb",
    }
    root = make(tmp_path, files, links, ["40 27 253:4 / /d1 rw - xfs /dev/mapper/vg-mq rw"])
    found = look(root, (253, 4))
    assert found.mirrored[0] == "yes"
    assert found.shared_with == {"sda", "sdb"}


def test_a_plain_volume_and_a_plain_disk_say_nothing_of_mirrors(tmp_path):
    virtual = "devices/virtual/block"
    files = {f"{virtual}/dm-0/dm/name": "vg-plain", "devices/pci0/sda/queue/rotational": "1"}
    links = {"dev/block/253:0": f"{virtual}/dm-0", f"{virtual}/dm-0/slaves/sda": "devices/pci0/sda"}
    root = make(tmp_path, files, links, ["40 27 253:0 / /d1 rw - xfs /dev/mapper/vg-plain rw"])
    assert look(root, (253, 0)).mirrored == ("unknown", "sda is one disk, as far as the kernel sees")


@pytest.mark.parametrize("text", ["", "many", "-1", "\u00b2", "9" * 5000])
def test_nonsense_of_a_driver_counts_as_nothing_said(tmp_path, text):
    root = md_tree(tmp_path, "raid1")
    (tmp_path / "sys/devices/virtual/block/md127/md/chunk_size").write_text(text)
    (tmp_path / "proc/self/mountinfo").write_text((tmp_path / "proc/self/mountinfo").read_text() + "half a line\n")
    found = look(root)
    assert found.device is not None
    assert found.device.md_chunk_bytes is None


def test_as_recorded_from_a_virtual_machine(tmp_path):
    disk = "devices/pci0000:00/0000:00:02.0/virtio1/block/vda"
    recorded = {
        "rotational": "1",
        "write_cache": "write back",
        "physical_block_size": "4096",
        "logical_block_size": "512",
    }
    files = {f"{disk}/queue/{name}": text for name, text in recorded.items()} | {f"{disk}/dev": "254:0"}
    root = make(tmp_path, files, {"dev/block/254:0": disk}, ["21 1 254:0 / / rw,relatime - ext4 /dev/vda rw"])
    found = look(root, (254, 0))
    assert found.device is not None
    assert (found.file_system, found.device.name, found.device.write_cache) == ("ext4", "vda", "write back")
    assert (found.mirrored[0], found.warnings) == ("unknown", ())


def run(*command: str | Path) -> str:
    return subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()


@contextmanager
def loops(folder: Path, count: int, megabytes: int) -> Iterator[list[str]]:
    with ExitStack() as stack:
        devices = []
        for number in range(count):
            file = folder / f"disk-{number}"
            with file.open("wb") as made:
                made.truncate(megabytes << 20)
            devices.append(run("losetup", "--find", "--show", file))
            stack.callback(subprocess.run, ["losetup", "-d", devices[-1]], check=False, timeout=60)
        yield devices


@contextmanager
def mounted(device: str, folder: Path, options: str = "defaults") -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    run("mount", "-o", options, device, folder)
    try:
        yield
    finally:
        run("umount", folder)


@pytest.mark.slow
@pytest.mark.needs("btrfs-loops")
def test_a_real_btrfs_mirror_on_two_loops_and_without_one_of_them(tmp_path):
    point = tmp_path / "mounted"
    with loops(tmp_path, 2, 200) as (first, second):
        run("mkfs.btrfs", "-q", "-f", "-d", "raid1", "-m", "raid1", first, second)
        with mounted(first, point):
            found = probe_ground(str(point / "not-made-yet"))
            assert (found.file_system, found.data_profiles, found.missing_devices) == ("btrfs", ("raid1",), 0)
            assert found.device is not None
            assert {os.path.basename(first), os.path.basename(second)} <= {each.name for each in found.device.layers()}
            # both files are on one disk, which is what a mirror of two partitions of a disk looks like
            assert found.mirrored[0] == "no"
            assert "two of its devices on" in found.mirrored[1]
        run("losetup", "-d", first)
        with mounted(second, point, "degraded"):
            assert probe_ground(str(point)).missing_devices == 1


@pytest.mark.slow
@pytest.mark.needs("md-loops")
def test_a_real_md_mirror_on_two_loops(tmp_path):
    point, array = tmp_path / "mounted", f"/dev/md/mqcore-test-{os.getpid()}"
    with loops(tmp_path, 2, 64) as devices:
        run("mdadm", "--create", array, "--run", "--level=1", "--metadata=1.2", "--raid-devices=2", *devices)
        try:
            run("mkfs.ext4", "-q", array)
            with mounted(array, point):
                found = probe_ground(str(point))
                assert found.device is not None
                assert (found.device.md_level, found.device.md_degraded) == ("raid1", 0)
                assert found.mirrored[0] == "no"  # both files are on one disk
        finally:
            run("mdadm", "--stop", array)
