"""What is below a storage, held against what a build promises: refused, or said at every start."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio

import mqcore
from mqcore.abc import Notice, StoredAt
from mqcore.config import make_config
from mqcore.errors import RefusedError
from mqcore.grounds import ground_lines, judge, look_below
from mqcore.guarantees import Build, Fault, Level, NoReplication, SyncReplication, explain
from mqcore.ports import BlockDevice, DirectoryGround, system_ports

SDA, SDB = BlockDevice(name="sda", rotational=True), BlockDevice(name="sdb")


def ground(directory: str, device: BlockDevice | None = SDA, **keys) -> DirectoryGround:
    facts = {"mount_point": "/", "file_system": "ext4", "source": "/dev/sda", "options": "rw", "device_number": (8, 1)}
    return DirectoryGround(directory=directory, device=device, **{**facts, **keys})


def md(level: str, *, degraded: int = 0, chunk: int | None = None) -> BlockDevice:
    return BlockDevice(name="md0", md_level=level, md_degraded=degraded, md_chunk_bytes=chunk, below=(SDA, SDB))


def build(*, flush_level: Level = Level.DISK, **keys) -> Build:
    return Build(storage="mmap:///d1", append_level=Level.PAGE_CACHE, flush_level=flush_level, **keys)


def alone(device: BlockDevice | None, *, segment_bytes: int | None = None, **keys):
    return [(StoredAt(directory="/d1", segment_bytes=segment_bytes), ground("/d1", device, **keys))]


def mirror_on(first: BlockDevice, second: BlockDevice, *, groups: tuple[int, int] = (0, 0)):
    members = zip(("/d1", "/d2"), groups, (first, second), strict=True)
    return [(StoredAt(directory=path, mirror_group=group), ground(path, on)) for path, group, on in members]


# the declaration of an array below

SURVIVES = {"survive": (Fault.DISK_LOSS,), "array_below": True}


@pytest.mark.parametrize(
    "device", [md("raid1"), SDA, BlockDevice(name="nvme0n1"), None], ids=["md", "sda", "nvme", "?"]
)
def test_a_declared_array_is_believed_where_nothing_contradicts_it(device):
    assert judge(build(**SURVIVES), alone(device)).refusals == ()


@pytest.mark.parametrize(
    ("device", "keys", "words"),
    [
        (md("raid0"), {}, "md0 is raid0"),
        (md("raid1", degraded=1), {}, "degraded by 1"),
        (None, {"file_system": "tmpfs"}, "memory"),
        (SDA, {"file_system": "btrfs", "data_profiles": ("single",), "devices": 2}, "single"),
    ],
)
def test_a_declared_array_that_is_none_is_refused_with_what_is_there(device, keys, words):
    (refusal,) = judge(build(**SURVIVES), alone(device, **keys)).refusals
    assert refusal.name == "array-is-none"
    assert words in str(refusal)
    assert judge(build(survive=()), alone(device, **keys)).refusals == ()


def test_a_declared_array_meets_the_loss_of_a_disk_and_nothing_else_does_alone():
    assert explain(build(**SURVIVES)).starts
    table = explain(build(**SURVIVES)).tables[0]
    assert table.level is Level.DISK, "a receipt states what was reached, and not what is declared"
    assert "array below" in table.promise(Fault.DISK_LOSS).reason
    (refusal,) = explain(build(survive=(Fault.DISK_LOSS,))).refusals
    assert 'array = "mirror"' in refusal.remedy
    assert not explain(build(survive=(Fault.HOST_LOSS,), array_below=True)).starts
    assert not explain(attrs.evolve(build(**SURVIVES), flush_level=Level.MEMORY, append_level=Level.MEMORY,
                                    survive=(Fault.POWER_CUT,))).starts  # fmt: skip


# members that are lost together

PARTITIONS = BlockDevice(name="sda")


def kinds(notices: tuple[Notice, ...]) -> list[str]:
    return [notice.kind for notice in notices]


def test_two_members_of_a_mirror_on_one_disk_are_said_at_every_start():
    built = build(flush_level=Level.MIRROR, survive=(Fault.DISK_LOSS,))
    verdict = judge(built, mirror_on(SDA, PARTITIONS))
    assert kinds(verdict.notices) == ["storage-one-device"]
    assert "does not hold" in verdict.notices[0].text
    assert kinds(judge(built, mirror_on(SDA, md("raid0"))).notices) == ["storage-ground", "storage-one-device"]


def test_members_on_disks_of_their_own_or_of_other_groups_are_not():
    built = build(flush_level=Level.MIRROR, survive=(Fault.DISK_LOSS,))
    assert judge(built, mirror_on(SDA, SDB)).notices == ()
    assert judge(built, mirror_on(SDA, SDA, groups=(0, 1))).notices == ()


def test_where_no_disk_is_known_the_file_system_counts():
    places = [(stored, attrs.evolve(below, device=None)) for stored, below in mirror_on(SDA, SDB)]
    assert kinds(judge(build(flush_level=Level.MIRROR), places).notices) == ["storage-one-device"]


# segments and chunks


@pytest.mark.parametrize(
    ("segment_bytes", "better"), [(1 << 26, None), (3 << 19, 1 << 20), (1000, 1 << 20), (None, None)]
)
def test_segments_end_where_chunks_of_the_array_below_do(segment_bytes, better):
    verdict = judge(build(), alone(md("raid10", chunk=1 << 20), segment_bytes=segment_bytes))
    assert kinds(verdict.notices) == ([] if better is None else ["storage-unaligned"])
    if better is not None:
        assert verdict.notices[0].facts["better_bytes"] == better


# explain


def test_explain_names_what_a_promise_relies_on_and_compares():
    lines = "\n".join(ground_lines(build(**SURVIVES), alone(md("raid1"))))
    assert "mirrored below, the array md0 is raid1" in lines
    assert 'met by an array below, which storage.array = "mirror" declares' in lines
    for way in (
        "array only: a lost disk takes nothing, a lost host everything",
        "replicas only: a lost disk takes nothing",
    ):
        assert way in lines
    both = build(flush_level=Level.MIRROR, replication=SyncReplication(copies=2, level=Level.DISK), nodes=2)
    relies = "met by the array of this storage (level mirror) and by synchronous replication to 2 nodes"
    assert relies in "\n".join(ground_lines(both, []))
    assert "met by nothing here" in "\n".join(ground_lines(build(), alone(SDA)))


def test_a_storage_in_memory_stands_on_nothing():
    in_memory = Build(
        storage="memory://", append_level=Level.MEMORY, flush_level=Level.MEMORY, replication=NoReplication()
    )
    assert ground_lines(in_memory, []) == []


# a broker starts


def ports_on(found: DirectoryGround):
    return attrs.evolve(system_ports(), ground=lambda directory: attrs.evolve(found, directory=directory))


def start(tmp_path: Path, found: DirectoryGround, storage: str, **keys) -> list[Notice]:
    notices: list[Notice] = []

    async def main() -> None:
        config = {"storage": storage, "listen": ["inproc://judged"], **keys}
        async with mqcore.open_broker(**config, ports=ports_on(found), report=notices.append):
            pass

    trio.run(main)
    return notices


def test_a_broker_says_at_every_start_what_speaks_against_its_ground(tmp_path):
    url = f"raid://{tmp_path}/one,{tmp_path}/two?level=1"
    for _ in range(2):
        found = kinds(tuple(start(tmp_path, ground("", md("raid1", degraded=1)), url)))
        assert found.count("storage-ground") == 2
        assert found.count("storage-one-device") == 1


def test_a_broker_does_not_start_on_a_declared_array_that_is_none(tmp_path):
    storage = {"url": f"mmap://{tmp_path}/one", "array": "mirror"}
    with pytest.raises(RefusedError, match="md0 is raid0"):
        start(tmp_path, ground("", md("raid0")), storage, survive=["disk-loss"])
    assert not (tmp_path / "one").exists(), "nothing was made of what was refused"
    start(tmp_path, ground("", md("raid1")), storage, survive=["disk-loss"])


def test_a_machine_that_says_nothing_is_none_to_fail_on():
    def nothing(directory: str) -> DirectoryGround:
        raise OSError("no /proc here")

    stored = [StoredAt(directory="/d1")]
    assert look_below(attrs.evolve(system_ports(), ground=nothing), stored) == []
    assert look_below(attrs.evolve(system_ports(), ground=None), stored) == []
    assert make_config(storage="mmap:///d1").storage.array is None
