"""G12 beside re-used segments: bytes of another time are neither believed nor reported; what was torn is."""

from __future__ import annotations

import pytest
import trio
from shelf_storage import NAME, SALT, Broker, Shelf, batch, read_all, sent, start

from mqcore.abc import StorageContext
from mqcore.batch import HEADER_BYTES
from mqcore.log import partition_log_name
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

OTHER = partition_log_name(bytes(16), 7)
VALUES = [b"v%d" % number * 40 for number in range(20)]


async def stale_bytes(salt: int = SALT + 1, name: str = OTHER) -> bytes:
    """What a log, of another topic unless its salt says otherwise, left in a file."""
    shelf = Shelf()
    log = await (await start(shelf)).log(name, salt)
    await log.append([batch(value) for value in VALUES])
    return bytes(shelf.logs[name].data)


async def recovered(tail: bytes) -> tuple[Broker, Shelf, int]:
    """A log in a file used before, ``tail`` behind its end, opened again after a kill; with the end that it had."""
    shelf = Shelf(may_be_stale=True)
    broker = await start(shelf)
    log = await broker.log()
    await log.append([batch(*VALUES), batch(b"b"), batch(b"c")])
    end = log.end_position
    shelf.logs[NAME].data += tail
    broker = await start(shelf)
    assert await read_all(await broker.log()) == sent([batch(*VALUES), batch(b"b"), batch(b"c")])
    return broker, shelf, end


def kept(shelf: Shelf) -> list[bytes]:
    return [bytes(stored.data) for name, stored in shelf.logs.items() if "quarantine" in name]


@pytest.mark.parametrize("mine", [False, True], ids=["of-another-log", "of-this-log-at-lower-offsets"])
@pytest.mark.parametrize("at", [16, 300, 4000])
def test_stale_batches_behind_the_end_mark_are_not_reported_and_not_kept(mine: bool, at: int) -> None:
    async def main() -> None:
        old = await (stale_bytes(SALT, NAME) if mine else stale_bytes())
        broker, shelf, end = await recovered(bytes(16) + old[at:] + bytes(5000))
        assert broker.kinds == []
        assert kept(shelf) == []
        assert shelf.logs[NAME].end == end

    trio.run(main)


def test_the_remainder_of_one_stale_batch_behind_the_end_mark_is_not_reported() -> None:
    async def main() -> None:
        broker, _, _ = await recovered(bytes(16) + b"\x77" * 3000)
        assert broker.kinds == []

    trio.run(main)


def test_in_a_file_that_was_never_used_everything_above_the_end_is_reported() -> None:
    async def main() -> None:
        shelf = Shelf()
        log = await (await start(shelf)).log()
        await log.append([batch(*VALUES)])
        shelf.logs[NAME].data += bytes(16) + (await stale_bytes())[300:]
        broker = await start(shelf)
        await broker.log()
        assert broker.kinds == ["log-torn"]

    trio.run(main)


def test_what_stands_at_the_very_end_is_kept_up_to_the_first_stale_batch() -> None:
    async def main() -> None:
        old = await stale_bytes()
        torn = b"\x55" * 700
        broker, shelf, end = await recovered(torn + old + bytes(100))
        assert broker.kinds == ["log-torn"]
        (found,) = kept(shelf)
        assert found.endswith(b"\n" + torn)
        assert broker.notices[0].facts["end_position"] == end + len(torn)

    trio.run(main)


@pytest.mark.parametrize("position", [0, 60, 72, 100, HEADER_BYTES + 3])
def test_a_damaged_last_batch_of_this_use_is_reported_before_stale_ones_whatever_its_damage(position: int) -> None:
    async def main() -> None:
        shelf = Shelf(may_be_stale=True)
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"kept")])
        begin = log.end_position
        await log.append([batch(b"last" * 50)])
        end = log.end_position
        shelf.logs[NAME].data[begin + position] ^= 0x10
        shelf.logs[NAME].data += bytes(16) + (await stale_bytes())[16:]
        broker = await start(shelf)
        await broker.log()
        assert broker.kinds == ["log-torn"]
        assert broker.notices[0].facts["position"] == begin
        assert broker.notices[0].facts["end_position"] >= end

    trio.run(main)


def test_a_batch_of_this_use_above_stale_ones_keeps_everything() -> None:
    async def main() -> None:
        shelf = Shelf(may_be_stale=True)
        log = await (await start(shelf)).log()
        await log.append([batch(b"a")])
        begin = log.end_position
        await log.append([batch(b"hole" * 200)])
        hole_end = log.end_position
        await log.append([batch(b"beyond")])
        end = log.end_position
        old = await stale_bytes()
        shelf.logs[NAME].data[begin:hole_end] = bytes(16) + old[16 : hole_end - begin]
        broker = await start(shelf)
        await broker.log()
        assert broker.kinds == ["log-torn"]
        assert broker.notices[0].facts["end_position"] == end

    trio.run(main)


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_broker_whose_segments_were_used_before_finds_nothing_torn(seed: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(seed, "disk"))
        url = "mmap:///data?segment_bytes=64KiB&first_extent_bytes=4KiB&extent_bytes_max=16KiB"

        async def begin(disk: ModelDisk) -> Broker:
            storage = create_storage(url, StorageContext(ports=model_ports(seed, disk)))
            return await start(storage, boot_id=disk.boot_id())

        broker = await begin(disk)
        names = [(partition_log_name(bytes(16), number), number) for number in range(3)]
        for round_number in range(8):
            for name, salt in names:
                log = await broker.log(name, salt)
                for _ in range(5 + seed):
                    await log.append([batch(bytes([round_number, salt]) * (900 + 37 * salt))])
                await broker.store.flush([log])
                await log.trim(log.end_offset - 2)
        disk.process_kill()
        broker = await begin(disk.restart())
        for name, salt in names:
            await broker.log(name, salt)
        assert [notice for notice in broker.notices if notice.kind != "journal-replayed"] == []
        await broker.store.aclose()

    run_simulation(main, seed=seed)
