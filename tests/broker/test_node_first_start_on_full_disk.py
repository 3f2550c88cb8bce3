"""G18, G20: a first start that finds no space fails in one line, and what it left behind is a new storage's to use."""

from __future__ import annotations

import errno

import pytest

from mqcore.broker import open_broker
from mqcore.client import connect
from mqcore.errors import StorageError
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=64KiB&first_extent_bytes=4KiB&extent_bytes_max=16KiB&journal_bytes=64KiB"


async def start_and_send(disk: ModelDisk, seed: int) -> None:
    """Start a broker, send a message to a new topic and read it again."""
    ports = model_ports(seed, disk)
    async with open_broker(storage=STORAGE, listen=["inproc://here"], flush="sync", ports=ports) as broker:
        async with connect(broker.urls[0]) as client:
            await client.admin.create_topic("lines")
            async with client.producer("lines") as producer:
                await producer.send(b"first")
            async with client.consumer("lines", start="start") as consumer:
                assert (await anext(consumer)).value == b"first"


async def start(disk: ModelDisk) -> bool:
    """Whether a broker starts (and stops)."""
    try:
        async with open_broker(storage=STORAGE, listen=["inproc://here"], ports=model_ports(1, disk)):
            return True
    except StorageError as error:
        assert error.kind in ("full", "flush")
        assert "No space left on device" in str(error)
        assert "\n" not in str(error)
        return False


@pytest.mark.parametrize("operation", ["make_directory", "open", "truncate", "pwritev", "flush", "rename"])
@pytest.mark.parametrize("killed", [False, True], ids=["given-up", "power-cut"])
def test_a_start_without_space_at_any_call_is_made_good_by_one_with_space(operation: str, killed: bool) -> None:
    async def main(calls: int) -> bool:
        disk = ModelDisk(seeded(1, "disk"))
        disk.fail_next(operation, errno.ENOSPC, times=1000, after=calls)
        started = await start(disk)
        disk.heal()
        if killed:
            disk.power_cut(seeded(calls, "cut"))
        await start_and_send(disk.restart(), 2)
        return started

    outcomes = [run_simulation(main, calls) for calls in range(12)]
    assert not outcomes[0]


@pytest.mark.parametrize("bytes_max", [0, 100, 4096, 5000, 8192, 9000, 12_288, 16_384, 65_536])
def test_a_start_on_a_small_disk_is_made_good_when_it_has_grown(bytes_max: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"), bytes_max=bytes_max)
        await start(disk)
        disk.bytes_max = None
        await start_and_send(disk.restart(), 2)

    run_simulation(main)
