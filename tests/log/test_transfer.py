"""Migration, backup and restore: what comes over, what a crash at any call leaves, who a restored node is (R2, R14)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import pytest
import trio
from shelf_storage import LIMITS, NAME, Shelf, ShelfStorage, Stored, batch, read_all, sent, start

from mqcore.abc import Capabilities, FlushedLog, Log, StorageBackend, StorageContext
from mqcore.errors import CommandNotPossibleError, CorruptionError, MqcoreError, StorageError
from mqcore.log import (
    BackupFolder,
    LogStore,
    MetadataLog,
    StorageInspection,
    Transfer,
    backup_identity,
    moved_identity,
    partition_log_name,
    partition_salt,
    restored_identity,
)
from mqcore.log._identity import Identity
from mqcore.ports import Ports
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore.url import Url
from mqcore_mmap import MmapStorage

TOPIC_ID = bytes(range(16))
OTHER = partition_log_name(TOPIC_ID, 1)
BATCHES = [batch(b"value-%02d" % number * 40, producer_id=9, first_sequence=number) for number in range(6)]
ASIDE = f"{NAME}.quarantine-1-4096"


async def filled(shelf: Shelf) -> Identity:
    """Two partitions, metadata, bytes kept aside that begin at a position of their own; a clean stop."""
    broker = await start(shelf)
    metadata = MetadataLog(broker.store)
    await metadata.replay()
    await metadata.append([{"topic": "t"}])
    for name in (NAME, OTHER):
        log = await broker.store.open_log(name, salt=partition_salt(TOPIC_ID, int(name[-1])))
        await log.append(BATCHES)
        await broker.store.flush([log])
    await broker.store.aclose()
    shelf.logs[ASIDE] = Stored(bytearray(b'{"log": "x"}\nbytes'), start=4096, durable=4096 + 18)
    async with StorageInspection(ShelfStorage(shelf), LIMITS) as inspection:
        return await inspection.identity()


def mmap_on(disk: ModelDisk, path: str = "/to", seed: int = 1) -> MmapStorage:
    ports = model_ports(seed, disk)
    options = MmapStorage.options_class(segment_bytes=8192, first_extent_bytes=4096, journal_bytes=65536)
    return MmapStorage(Url("mmap", path), options, StorageContext(ports=ports, limits=LIMITS))


def folder_on(disk: ModelDisk, *, writing: bool) -> BackupFolder:
    return BackupFolder("/backup", StorageContext(ports=model_ports(1, disk), limits=LIMITS), writing=writing)


async def bring(source: StorageBackend, target: StorageBackend, **options: object) -> tuple[Transfer, Identity]:
    async with StorageInspection(source, LIMITS) as inspection:
        transfer = Transfer(inspection, target, **{"purpose": "migration", "limits": LIMITS, **options})  # type: ignore[arg-type]
        await transfer.plan()
        try:
            return transfer, await transfer.run()
        finally:
            with trio.CancelScope(shield=True):
                await target.aclose()


async def take_backup(shelf: Shelf, disk: ModelDisk) -> Transfer:
    goal = folder_on(disk, writing=True)

    async def finish(_: Identity) -> None:
        logs = {each.name: each.checksum for each in transfer.copied}
        await goal.seal({"logs": logs})

    async with StorageInspection(ShelfStorage(shelf), LIMITS) as inspection:
        transfer = Transfer(
            inspection,
            goal,
            purpose="backup",
            identity_of=backup_identity,
            limits=LIMITS,
            fresh_ends=True,
            finish=finish,
        )
        await transfer.plan()
        try:
            await transfer.run()
        finally:
            with trio.CancelScope(shield=True):
                await goal.aclose()
    return transfer


async def bring_back(disk: ModelDisk, target: StorageBackend, *, as_replica: bool = False, seed: int = 7) -> Identity:
    source = folder_on(disk, writing=False)
    async with StorageInspection(source, LIMITS) as inspection:
        transfer = Transfer(
            inspection,
            target,
            purpose="restore",
            identity_of=partial(restored_identity, as_replica=as_replica),
            node_id=bytes([seed]) * 16,
            limits=LIMITS,
            fresh_ends=True,
            checksums=source.manifest["logs"],
        )
        await transfer.plan()
        try:
            return await transfer.run()
        finally:
            with trio.CancelScope(shield=True):
                await target.aclose()


async def served(backend: StorageBackend, ports: Ports) -> LogStore:
    """Open it as a broker does, and check that everything can be read and goes on."""
    notices: list[object] = []
    store = LogStore(backend, ports=ports, limits=LIMITS, node_name="node-1", report=notices.append)
    await store.open()
    await store.reign()
    for name in (NAME, OTHER):
        log = await store.open_log(name, salt=partition_salt(TOPIC_ID, int(name[-1])))
        assert await read_all(log) == sent(BATCHES)
        assert log.check([BATCHES[-1].header]) is not None
        assert await log.append([batch(b"on")]) == [len(BATCHES)]
    assert notices == []
    await store.aclose()
    return store


def state_of_target(disk: ModelDisk) -> str:
    """What a broker makes of ``/to``: it is ``empty``, ``refused`` or ``complete``."""

    async def main() -> str:
        backend = mmap_on(disk)
        store = LogStore(backend, ports=model_ports(3, disk), limits=LIMITS, node_name="node-1", report=lambda _: None)
        try:
            await store.open()
        except CorruptionError as error:
            assert "has not come to its end" in str(error)
            return "refused"
        state = "complete" if store.metadata.end_position else "empty"
        await store.aclose()
        return state

    return run_simulation(main)


def contents(shelf: Shelf) -> dict[str, tuple[int, bytes]]:
    return {name: (stored.start, bytes(stored.data)) for name, stored in shelf.logs.items()}


def test_everything_comes_over_and_the_source_is_only_read() -> None:
    async def main() -> None:
        shelf, disk = Shelf(), ModelDisk(1)
        identity = await filled(shelf)
        before = contents(shelf)
        shelf.operations.clear()
        transfer, new = await bring(ShelfStorage(shelf), mmap_on(disk))
        assert contents(shelf) == before
        assert not [each for each in shelf.operations if each.startswith(("append", "truncate", "delete"))]
        assert new == moved_identity(identity, b"", 0)
        assert new.incarnation == identity.incarnation
        assert {each.name for each in transfer.copied} == set(before) - {"identity", "identity-copy"}
        backend = mmap_on(disk)
        await backend.open()
        for each in transfer.copied:
            log = await backend.open_log(each.name)
            at, data = log.start, b""
            while at < log.end:
                piece = bytes(await log.read(at, 1 << 20))
                data, at = data + piece, at + len(piece)
            assert (log.start, data) == before[each.name]
        await backend.aclose()
        store = await served(mmap_on(disk), model_ports(2, disk))
        assert (store.node_id, store.incarnation) == (identity.node_id, identity.incarnation)
        assert store.epoch == identity.highest_epoch + 1

    run_simulation(main)


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_crash_at_any_call_leaves_nothing_that_passes_for_complete_and_the_same_command_goes_on(
    power_cut: bool,
) -> None:
    shelf, base = Shelf(), ModelDisk(1)
    run_simulation(filled, shelf)
    whole = base.fork()
    run_simulation(bring, ShelfStorage(shelf.copy()), mmap_on(whole))
    calls = whole.call_count - base.call_count
    assert calls > 50
    states = set()
    for call in range(1, calls + 1):
        disk = base.fork()
        disk.kill_at(disk.call_count + call, power_cut=power_cut)
        try:
            run_simulation(bring, ShelfStorage(shelf.copy()), mmap_on(disk))
        except (OSError, MqcoreError, ExceptionGroup):
            assert not disk.alive
        disk = disk.restart()
        state = state_of_target(disk.fork())
        states.add(state)
        try:
            run_simulation(bring, ShelfStorage(shelf.copy()), mmap_on(disk))
        except StorageError as error:  # the mark was gone, or about to be: nothing was left to do
            assert (error.kind, state) == ("foreign", "complete")
        run_simulation(served, mmap_on(disk), model_ports(2, disk))
    assert states == {"empty", "refused", "complete"}


@pytest.mark.parametrize("power_cut", [False, True])
def test_a_backup_is_finished_or_is_none_after_a_crash_at_any_call(power_cut: bool) -> None:
    shelf, base = Shelf(), ModelDisk(1)
    run_simulation(filled, shelf)
    whole = base.fork()
    run_simulation(take_backup, shelf.copy(), whole)
    outcomes = set()
    for call in range(1, whole.call_count - base.call_count + 1):
        disk = base.fork()
        disk.kill_at(disk.call_count + call, power_cut=power_cut)
        try:
            run_simulation(take_backup, shelf.copy(), disk)
        except (OSError, MqcoreError, ExceptionGroup):
            assert not disk.alive
        disk = disk.restart()
        is_finished = "/backup/manifest.json" in disk.paths()
        outcomes.add(is_finished)
        if not is_finished:
            with pytest.raises(MqcoreError):
                run_simulation(bring_back, disk.fork(), mmap_on(disk.fork()))
            run_simulation(take_backup, shelf.copy(), disk)
        run_simulation(bring_back, disk, mmap_on(disk))
        run_simulation(served, mmap_on(disk), model_ports(2, disk))
    assert outcomes == {False, True}


def test_r2_r14_a_restored_node_is_no_member_of_old_and_reigns_above_all_that_there_was() -> None:
    async def main() -> None:
        shelf, disk = Shelf(), ModelDisk(1)
        old = await filled(shelf)
        await take_backup(shelf, disk)
        # Since then the node has reigned again, and has been given another incarnation.
        shelf.mount = "disk-2"
        again = await start(shelf, boot_id="boot-2")
        new = await bring_back(disk, mmap_on(disk))
        assert new.node_id != old.node_id
        assert new.set_id == old.set_id
        store = await served(mmap_on(disk), model_ports(2, disk))
        assert store.epoch > again.store.epoch + 1000
        assert not new.reign_number

    run_simulation(main)


def test_r4_a_node_restored_as_a_replica_follows_the_set_that_went_on() -> None:
    async def main() -> None:
        shelf, disk = Shelf(), ModelDisk(1)
        old = await filled(shelf)
        await take_backup(shelf, disk)
        new = await bring_back(disk, mmap_on(disk), as_replica=True)
        assert (new.highest_epoch, new.node_id == old.node_id) == (old.highest_epoch, False)
        store = LogStore(
            mmap_on(disk), ports=model_ports(2, disk), limits=LIMITS, node_name="node-1", report=lambda _: None
        )
        await store.open()
        assert not store.reigned_last
        await store.follow(old.highest_epoch + 1, bytes(16))
        await store.aclose()

    run_simulation(main)


def test_g12_a_backup_that_rotted_is_refused_by_name() -> None:
    async def main() -> None:
        shelf, disk = Shelf(), ModelDisk(1)
        await filled(shelf)
        await take_backup(shelf, disk)
        # Of the identity there are two copies, and where the logs end stands in the list too.
        paths = [each for each in disk.paths() if each.startswith("/backup/logs/")]
        for path in [each for each in paths if "identity" not in each and "clean-ends" not in each]:
            for position in (0, 13):
                rotten = disk.fork()
                rotten.rot(path, position)
                with pytest.raises(CorruptionError, match=path.rpartition("/")[2].partition("@")[0]):
                    await bring_back(rotten, mmap_on(rotten))
        rotten = disk.fork()
        rotten.rot("/backup/manifest.json", 40)
        with pytest.raises(CorruptionError, match="list of logs is damaged"):
            await bring_back(rotten, mmap_on(rotten))
        rotten = disk.fork()
        rotten.unlink(f"/backup/logs/{ASIDE}@4096")
        with pytest.raises(CorruptionError, match="1 logs are missing"):
            await bring_back(rotten, mmap_on(rotten))

    run_simulation(main)


def test_g12_what_a_broken_target_reads_back_otherwise_is_refused() -> None:
    class Lying(ShelfStorage):
        """Keeps another byte than it was given, in one log."""

        async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
            if any(log.name == OTHER for log in logs):
                self.shelf.logs[OTHER].data[150] ^= 1
            return await super().flush(logs)

    async def main() -> None:
        shelf, target = Shelf(), Shelf()
        await filled(shelf)
        del shelf.logs[ASIDE]
        with pytest.raises(CorruptionError, match="reads otherwise"):
            await bring(ShelfStorage(shelf), Lying(target))
        assert not target.logs.get("identity", Stored()).data

    run_simulation(main)


def test_g18_what_the_target_cannot_hold_is_refused_by_name_and_limit_and_nothing_is_left() -> None:
    class Small(ShelfStorage):
        logs_max: int | None = None
        name_bytes_max = 128

        @property
        def capabilities(self) -> Capabilities:
            return attrs.evolve(super().capabilities, logs_max=self.logs_max, log_name_bytes_max=self.name_bytes_max)

    async def main() -> None:
        shelf = Shelf()
        await filled(shelf)
        for options, message in (({"logs_max": 5}, "at most 5 logs"), ({"name_bytes_max": 40}, "at most 40")):
            target = Shelf()
            small = Small(target)
            vars(small).update(options)
            with pytest.raises(StorageError, match=message) as caught:
                await bring(ShelfStorage(shelf), small)
            assert caught.value.kind == "limit"
            assert not target.logs
        target = Shelf()
        with pytest.raises(CommandNotPossibleError, match=f"{ASIDE} was trimmed and begins at 4096"):
            await bring(ShelfStorage(shelf), ShelfStorage(target))
        assert not [name for name, stored in target.logs.items() if stored.data]

    run_simulation(main)


def test_g12_damage_and_foreign_targets_are_refused_and_damage_can_be_taken_along() -> None:
    async def main() -> None:
        shelf, disk = Shelf(), ModelDisk(1)
        await filled(shelf)
        other = Shelf()
        await filled(other)
        with pytest.raises(StorageError, match="not empty") as caught:
            await bring(ShelfStorage(shelf), ShelfStorage(other))
        assert caught.value.kind == "foreign"
        shelf.logs[NAME].data[300] ^= 1
        with pytest.raises(CorruptionError, match="--with-damage"):
            await bring(ShelfStorage(shelf), mmap_on(disk))
        await bring(ShelfStorage(shelf), mmap_on(disk), with_damage=True)
        async with StorageInspection(mmap_on(disk), LIMITS) as inspection:
            found = {each.name: each.state async for each in inspection.findings()}
        assert found[NAME] == "damaged"
        assert found[OTHER] == "whole"

    run_simulation(main)


def test_a_target_begun_from_another_storage_is_refused() -> None:
    async def main() -> None:
        shelf, other, disk = Shelf(), Shelf(), ModelDisk(1)
        await filled(shelf)
        await filled(other)
        disk.kill_at(disk.call_count + 120)
        with pytest.raises((OSError, MqcoreError, ExceptionGroup)):
            await bring(ShelfStorage(shelf), mmap_on(disk))
        disk = disk.restart()
        with pytest.raises(StorageError, match="beginning of another migration"):
            await bring(ShelfStorage(other), mmap_on(disk))

    run_simulation(main)
