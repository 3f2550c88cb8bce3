"""A log that begins where its primary's was trimmed to: absolute positions and offsets, in every later run (R15)."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from shelf_storage import batch

from mqcore.abc import StorageBackend, StorageContext
from mqcore.errors import StorageError
from mqcore.limits import Limits
from mqcore.log import (
    METADATA_NAME,
    LogStart,
    LogStore,
    MetadataLog,
    StorageInspection,
    Transfer,
    backup_identity,
    partition_log_name,
    partition_salt,
)
from mqcore.log._opening import LogOpener
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

TOPIC = b"t" * 16
NAME, SALT = partition_log_name(TOPIC, 0), partition_salt(TOPIC, 0)
LIMITS = Limits()


def mmap_on(disk: ModelDisk, folder: str) -> StorageBackend:
    ports = model_ports(1, disk)
    context = StorageContext(ports=ports, limits=LIMITS, report=lambda notice: None, stopped=lambda error: None)
    return create_storage(f"mmap://{folder}?segment_bytes=1MiB", context, {})


async def store_on(disk: ModelDisk, folder: str, set_id: bytes | None = None, node_name: str = "") -> LogStore:
    ports, backend, name = model_ports(1, disk), mmap_on(disk, folder), node_name or folder[1:]
    store = LogStore(backend, ports=ports, limits=LIMITS, node_name=name, report=lambda notice: None)
    await store.open()
    if set_id is not None:
        await store.join(set_id)
    return store


async def stored(log: Any, position: int) -> bytes:
    found = await log.read_stored(position, 1 << 20, log.end_position)
    return b"".join(map(bytes, found.chunks))


async def primary_with(disk: ModelDisk, count: int) -> LogStore:
    store = await store_on(disk, "/a")
    await store.reign()
    log = await store.open_log(NAME, salt=SALT)
    for _ in range(count):
        await log.append([batch(b"value")])
    await store.flush([log])
    return store


async def follow(store: LogStore, primary: LogStore) -> Any:
    await store.follow(primary.epoch, primary.reign_id)
    if not store.metadata.end_position:
        await store.metadata.append_foreign([await stored(primary.metadata, 0)], position=0)
    return await store.open_log(NAME, salt=SALT)


@pytest.mark.parametrize("stop", ["clean", "killed", "power"])
def test_r15_a_log_that_was_begun_anew_has_the_positions_and_offsets_of_its_primary(stop: str) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        primary = await primary_with(disk, 50)
        source = await primary.open_log(NAME, salt=SALT)
        begins = await source.start_at(30)
        assert begins is not None
        store = await store_on(disk, "/b", primary.set_id)
        log = await follow(store, primary)
        await store.begin_anew(NAME, begins, kept_for="the primary has trimmed it")
        log = await store.open_log(NAME, salt=SALT)
        assert (log.start_offset, log.end_offset, log.end_position) == (30, 30, begins.position)
        assert log.last_batch[0] == 0, "it holds nothing, and says so"
        await log.append_foreign([await stored(source, begins.position)], position=begins.position)
        await store.flush([log])
        incarnation = store.incarnation
        if stop == "clean":
            await store.aclose()
        elif stop == "power":
            disk.power_cut(seeded(1, "cut"))
            disk = disk.restart()
        else:
            await store.aclose(flush=False)
        again = await store_on(disk, "/b")
        log = await again.open_log(NAME, salt=SALT)
        if stop != "power":
            assert await stored(log, begins.position) == await stored(source, begins.position)
        assert (log.start_offset, log.start_position) == (30, begins.position)
        assert (log.end_offset, log.end_position) == (source.end_offset, source.end_position)
        assert log.last_batch == source.last_batch
        assert again.incarnation >= incarnation
        await again.follow(primary.epoch, primary.reign_id)
        log = await again.open_log(NAME, salt=SALT)
        await log.truncate(40)
        assert (log.start_offset, log.end_offset) == (30, 40)
        await log.trim(35)
        assert log.start_offset == 35
        await again.aclose()
        if stop != "power":
            await primary.aclose()

    run_simulation(main, seed=1)


def test_r15_what_a_log_held_is_kept_aside_and_the_incarnation_raised() -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        primary = await primary_with(disk, 50)
        source = await primary.open_log(NAME, salt=SALT)
        store = await store_on(disk, "/b", primary.set_id)
        log = await follow(store, primary)
        await log.append_foreign([await stored(source, 0)], position=0)
        for number in (40, 45):
            begins = await source.start_at(number)
            assert begins is not None
            incarnation = store.incarnation
            await store.begin_anew(NAME, begins, kept_for="the primary has trimmed it")
            log = await store.open_log(NAME, salt=SALT)
            assert log.start_offset == number
            assert store.incarnation == incarnation + (number == 40), "raised where something had been held"
            with pytest.raises(StorageError):
                await (await store.open_log(NAME + "x", salt=1)).append([batch(b"x")])
        aside = [each for each in await store.backend.list_logs() if ".quarantine-" in each]
        assert len(aside) == 1
        await store.delete_log(NAME)
        assert not [each for each in await store.backend.list_logs() if each.startswith(NAME)]
        await store.aclose()
        await primary.aclose()

    run_simulation(main, seed=1)


def test_a_start_of_a_log_comes_back_from_json_and_what_is_none_is_refused() -> None:
    begins = LogStart(5, 900, 2, b"r" * 16, 100, 1)
    assert LogStart.from_json(begins.to_json()) == begins
    for bad in ([], [1, 2, 3, "00", 4, 5], [-1, 0, 0, "00" * 16, 0, 0], [True, 0, 0, "00" * 16, 0, 0]):
        with pytest.raises((ValueError, TypeError)):
            LogStart.from_json(bad)


@pytest.mark.parametrize("is_running", [False, True])
def test_r15_a_storage_with_a_log_that_was_begun_anew_is_moved_backed_up_and_restored(is_running: bool) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        primary = await primary_with(disk, 50)
        source = await primary.open_log(NAME, salt=SALT)
        begins = await source.start_at(30)
        assert begins is not None
        store = await store_on(disk, "/b", primary.set_id)
        await follow(store, primary)
        await store.begin_anew(NAME, begins, kept_for="the primary has trimmed it")
        log = await store.open_log(NAME, salt=SALT)
        expected = await stored(source, begins.position)
        await log.append_foreign([expected], position=begins.position)
        await store.flush([log])
        if not is_running:
            await store.aclose()

        async with StorageInspection(mmap_on(disk, "/b"), LIMITS) as inspection:
            assert inspection.beside_broker == is_running
            transfer = Transfer(inspection, target := mmap_on(disk, "/c"), purpose="backup", limits=LIMITS)
            await transfer.plan()
            await transfer.run()
            await target.aclose()
        assert {each.name: each.messages for each in transfer.copied}[NAME] == 20
        again = await store_on(disk, "/c", node_name="b")
        log = await again.open_log(NAME, salt=SALT)
        assert (log.start_position, log.start_offset, log.end_offset) == (begins.position, 30, 50)
        assert await stored(log, begins.position) == expected

    run_simulation(main)


@pytest.mark.parametrize(("offset", "position"), [(7, 3 * 1024 * 1024), (0, 0)])
@pytest.mark.parametrize("stop", ["clean", "power"])
def test_r15_a_metadata_log_that_was_begun_anew_and_has_got_nothing_yet_is_opened_and_not_reigned_over(
    stop: str, offset: int, position: int
) -> None:
    """Partition logs stand beside it: without what says where it begins that would be damage to a start.

    At 0 it begins where the primary's was never made short, and the own one that was is of another history.
    """

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        primary = await primary_with(disk, 50)
        store = await store_on(disk, "/b", primary.set_id)
        log = await follow(store, primary)
        source = await primary.open_log(NAME, salt=SALT)
        await log.append_foreign([await stored(source, 0)], position=0)
        await store.flush([store.metadata, log])
        begins = LogStart(offset, position, primary.epoch, primary.reign_id, 0, 0) if position else LogStart()
        old = store.metadata
        await store.begin_anew(METADATA_NAME, begins, kept_for="the primary has trimmed it")
        assert store.metadata is not old
        assert (store.metadata.start_offset, store.metadata.end_position) == (offset, position)
        with pytest.raises(StorageError):
            await store.open_log(NAME + "x", salt=1)
        if stop == "clean":
            await store.aclose()
        else:
            disk.power_cut(seeded(1, "cut"))
            disk = disk.restart()
        async with StorageInspection(mmap_on(disk, "/b"), LIMITS) as inspection:
            findings = [each async for each in inspection.findings()]
            assert {each.state for each in findings} == {"whole"}, findings
        again = await store_on(disk, "/b")
        assert (again.metadata.bytes_total, again.metadata.end_position) == (0, begins.position)
        with pytest.raises(StorageError, match="another node has to reign first"):
            await again.reign()
        assert [each for each in await again.backend.list_logs() if each.startswith("metadata.quarantine-")]
        await again.aclose()

    run_simulation(main, seed=1)


def test_r15_a_mark_that_was_not_flushed_leaves_the_log_as_it_was() -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        store = await primary_with(disk, 5)
        mark = await store.backend.open_log(NAME + ".anew")
        await mark.append([b"[30, 90"])
        await store.aclose()
        again = await store_on(disk, "/a")
        log = await again.open_log(NAME, salt=SALT)
        assert log.end_offset == 5
        assert NAME + ".anew" not in await again.backend.list_logs()
        await again.aclose()

    run_simulation(main, seed=1)


def test_g13_flushes_go_on_while_the_metadata_log_is_begun_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """One now and then looks after the metadata log, too: of a closed handle it would fail, and end the node."""

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        primary = await primary_with(disk, 50)
        source = await primary.open_log(NAME, salt=SALT)
        store = await store_on(disk, "/b", primary.set_id)
        log = await follow(store, primary)
        await log.append_foreign([await stored(source, 0)], position=0)
        remove = LogOpener._remove

        async def removed_slowly(self: LogOpener, *names: str) -> None:
            await remove(self, *names)
            if names[0] == METADATA_NAME:
                await trio.sleep(2)
                await store.flush([log])
                assert not log.dirty

        monkeypatch.setattr(LogOpener, "_remove", removed_slowly)
        begins = LogStart(7, 900, primary.epoch, primary.reign_id, 0, 0)
        await store.begin_anew(METADATA_NAME, begins, kept_for="the primary has trimmed it")
        assert store.metadata.start_position == 900
        await store.aclose()
        await primary.aclose()

    run_simulation(main, seed=1)


@pytest.mark.parametrize("is_running", [False, True])
def test_r13_a_metadata_log_that_begins_at_its_snapshot_says_the_same_after_a_backup(*, is_running: bool) -> None:
    """On the node that made it short, and on one that began it anew there."""

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        primary = await primary_with(disk, 5)
        metadata = MetadataLog(primary)
        for number in range(40):
            await metadata.append([{"number": number}])
        at = await metadata.write_snapshot([{"all": 40}], lambda room: [{"last": 1}], 1 << 20)
        await primary.metadata.trim(at.offset, at.position)
        await metadata.append([{"number": 41}])
        begins = await primary.metadata.start_at(primary.metadata.start_offset)
        assert begins is not None
        assert (begins.offset, begins.position) == (at.offset, at.position)
        store = await store_on(disk, "/b", primary.set_id)
        await store.follow(primary.epoch, primary.reign_id)
        await store.begin_anew(METADATA_NAME, begins, kept_for="the primary has trimmed it")
        await store.metadata.append_foreign([await stored(primary.metadata, at.position)], position=at.position)
        await store.flush([store.metadata])
        for folder, each in (("/a", primary), ("/b", store)):
            if not is_running:
                await each.aclose()
            async with StorageInspection(mmap_on(disk, folder), LIMITS) as inspection:
                target = mmap_on(disk, folder + "-copy")
                transfer = Transfer(inspection, target, purpose="backup", limits=LIMITS, identity_of=backup_identity)
                await transfer.plan()
                await transfer.run()
                await target.aclose()
            again = await store_on(disk, folder + "-copy", node_name=folder[1:])
            assert again.metadata.start_position == at.position
            assert await MetadataLog(again).replay() == [{"all": 40}, {"last": 1}, {"number": 41}]
            await again.aclose()

    run_simulation(main)
