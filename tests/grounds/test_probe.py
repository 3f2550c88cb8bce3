"""What lies below a directory, read from trees of ``/proc`` and ``/sys`` that are made here.

Where each form is from: mountinfo lines, ``proc(5)``; ``queue/*``, ``Documentation/ABI/stable/sysfs-block``; ``md/*``,
``Documentation/admin-guide/md.rst``; ``dm/name``, ``Documentation/ABI/testing/sysfs-block-dm``; a partition is a folder
in that of its disk, with a file ``partition`` (sysfs-block).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mqcore.ports import probe_ground as probe

ROOT_LINE = "27 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro"


def make(root: Path, files: dict[str, str], links: dict[str, str], mounts: list[str]) -> str:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("\n".join([ROOT_LINE, *mounts]) + "\n")
    for name, text in files.items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    for name, target in links.items():
        path = root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(root / "sys" / target)
    return str(root)


def test_a_partition_of_a_disk(tmp_path):
    disk = "devices/pci0000:00/ata1/block/sda"
    files = {
        f"{disk}/queue/rotational": "1",
        f"{disk}/queue/write_cache": "write back",
        f"{disk}/queue/physical_block_size": "4096",
        f"{disk}/sda2/partition": "2",
    }
    root = make(tmp_path, files, {"dev/block/8:2": f"{disk}/sda2"}, [])
    ground = probe("/var/lib/mq", root=root, device=(8, 2))
    assert (ground.mount_point, ground.file_system, ground.source) == ("/", "ext4", "/dev/sda2")
    assert ground.device is not None
    assert (ground.device.name, ground.device.rotational, ground.device.write_cache) == ("sda", True, "write back")
    assert ground.device.physical_block_bytes == 4096
    assert ground.warnings == ()


def test_a_degraded_md_array_under_a_logical_volume(tmp_path):
    files = {
        "devices/virtual/block/dm-0/dm/name": "vg-mq",
        "devices/virtual/block/md127/md/level": "raid1",
        "devices/virtual/block/md127/md/degraded": "1",
        "devices/virtual/block/md127/md/mismatch_cnt": "128",
        "devices/virtual/block/md127/md/chunk_size": "0",
        "devices/pci0/sda/queue/rotational": "0",
    }
    links = {
        "dev/block/253:0": "devices/virtual/block/dm-0",
        "devices/virtual/block/dm-0/slaves/md127": "devices/virtual/block/md127",
        "devices/virtual/block/md127/slaves/sda": "devices/pci0/sda",
    }
    mounts = ["40 27 253:0 / /d1 rw,noatime - xfs /dev/mapper/vg-mq rw,attr2"]
    ground = probe("/d1/data", root=make(tmp_path, files, links, mounts), device=(253, 0))
    assert ground.mount_point == "/d1"
    assert ground.device is not None
    (array,) = ground.device.below
    assert (ground.device.dm_name, array.md_level, array.below[0].name) == ("vg-mq", "raid1", "sda")
    assert [text.split(" ")[2] for text in ground.warnings] == ["md127", "md127"]
    assert "degraded by 1" in ground.warnings[0]
    assert "128 sectors" in ground.warnings[1]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("50 27 0:44 / /d1 rw - tmpfs tmpfs rw,size=1g", "memory"),
        ("50 27 0:45 / /d1 rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w", "container"),
        ("50 27 0:46 / /d1 rw - nfs4 server:/export rw,vers=4.2", "network"),
        ("50 27 0:47 /@mq /d1 rw - btrfs /dev/sdb rw,subvol=/@mq", "btrfs filesystem df"),
    ],
)
def test_what_outlives_nothing_or_is_not_here_is_said(tmp_path, line, word):
    ground = probe("/d1", root=make(tmp_path, {}, {}, [line]), device=(0, 44))
    assert ground.device is None
    assert len(ground.warnings) == 1
    assert word in ground.warnings[0]


def test_a_mount_over_another_one_counts_and_blanks_are_read(tmp_path):
    mounts = [
        r"50 27 8:16 / /my\040disk rw - ext4 /dev/sdb rw",
        r"51 50 0:44 / /my\040disk rw - tmpfs tmpfs rw",
    ]
    assert probe("/my disk/x", root=make(tmp_path, {}, {}, mounts), device=(0, 44)).file_system == "tmpfs"


@pytest.mark.needs("linux")
def test_this_machine_says_something(tmp_path):
    ground = probe(str(tmp_path))
    assert ground.mount_point.startswith("/")
    assert ground.file_system
