"""Identity, incarnation and reign (R2, R3), flushes that fail (G11), clean stops."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence

import attrs
import pytest
import trio
import trio.testing
from shelf_storage import (
    LIMITS,
    NAME,
    Clock,
    Crashed,
    Shelf,
    ShelfLog,
    ShelfStorage,
    batch,
    ports_of,
    read_all,
    sent,
    start,
)

from mqcore.abc import Log
from mqcore.errors import CorruptionError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore.log import LogStore, MetadataLog
from mqcore.log._identity import Identity, IdentityLog

IDENTITY = ("identity", "identity-copy")


async def stop(shelf: Shelf, **options: object) -> LogStore:
    """Start and stop cleanly."""
    broker = await start(shelf, **options)  # type: ignore[arg-type]
    await broker.store.aclose()
    return broker.store


async def kill(shelf: Shelf, **options: object) -> LogStore:
    """Start and be killed."""
    return (await start(shelf, **options)).store  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second", "raised"),
    [
        (("stop", "boot-1", False), "boot-2", False),
        (("kill", "boot-1", False), "boot-1", False),
        (("kill", "boot-1", False), "boot-2", True),
        (("kill", "boot-1", True), "boot-2", False),
        (("kill", "", False), "", True),
    ],
    ids=["clean", "process-died", "power-cut", "flushed-only", "unknown-boot"],
)
def test_r2_the_incarnation_is_raised_unless_nothing_reported_can_be_missing(
    first: tuple[str, str, bool], second: str, raised: bool
) -> None:
    how, boot_id, flushed_only = first

    async def main() -> None:
        shelf = Shelf()
        store = await (stop if how == "stop" else kill)(shelf, boot_id=boot_id, flushed_only=flushed_only)
        shelf.crash()
        again = await kill(shelf, boot_id=second)
        assert again.incarnation == store.incarnation + raised
        assert again.node_id == store.node_id
        assert again.was_clean == (how == "stop")

    trio.run(main)


@pytest.mark.parametrize(("first", "second"), [("disk-1", "disk-2"), ("", ""), ("disk-1", "")])
def test_r2_c_a_dead_process_proves_nothing_unless_the_mount_is_known_and_the_same(first: str, second: str) -> None:
    async def main() -> None:
        shelf = Shelf(mount=first)
        store = await kill(shelf)
        shelf.mount = second
        assert (await kill(shelf)).incarnation == store.incarnation + 1

    trio.run(main)


def test_r2_b_flushed_positions_prove_nothing_of_an_older_copy() -> None:
    async def main() -> None:
        shelf = Shelf(mount="disk-1")
        store = await kill(shelf, flushed_only=True)
        shelf.mount = "disk-2"
        assert (await kill(shelf, boot_id="other")).incarnation == store.incarnation + 1

    trio.run(main)


def test_r2_b_flushed_only_is_noted_after_what_was_reported_before_is_flushed_and_taken_back_durably() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        store = broker.store
        log = await store.open_log(NAME, salt=1)
        await log.append([batch()])
        assert await store.report_flushed_only(True)
        assert not log.dirty
        shelf.crash()
        second = (await start(shelf, boot_id="boot-2")).store
        assert second.flushed_only
        assert second.incarnation == store.incarnation
        assert not await second.report_flushed_only(False)
        shelf.crash()
        third = await kill(shelf, boot_id="boot-3")
        assert not third.flushed_only
        assert third.incarnation == store.incarnation + 1

    trio.run(main)


def test_r2_b_flushed_only_is_not_noted_while_a_log_that_was_not_opened_may_hold_more() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        await (await broker.store.open_log(NAME, salt=1)).append([batch()])
        store = (await start(shelf)).store  # the process died, and what it wrote is in the page cache
        assert not await store.report_flushed_only(True)
        await store.open_log(NAME, salt=1)
        assert await store.report_flushed_only(True)

    trio.run(main)


def test_r2_a_raised_incarnation_is_told_to_nobody_before_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the disk has not got would be given again by the next start, after a power cut that took something."""

    async def fails(log: IdentityLog, identity: Identity) -> None:
        raise StorageError("cannot be written", kind="full")

    async def main() -> None:
        shelf = Shelf()
        store = (await start(shelf)).store
        before = store.incarnation
        with monkeypatch.context() as patched:
            patched.setattr(IdentityLog, "write", fails)
            with pytest.raises(StorageError):
                await store.raise_incarnation()
        assert store.incarnation == before
        await store.raise_incarnation()
        assert store.incarnation == before + 1
        shelf.crash()
        assert (await kill(shelf, boot_id="boot-2")).incarnation == before + 2

    trio.run(main)


def test_r2_an_incarnation_that_is_raised_while_a_term_is_about_to_begin_stays_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        shelf = Shelf()
        store = (await start(shelf)).store
        await store.leave()
        before = store.incarnation
        leave = LogStore.leave

        async def raised(store: LogStore) -> None:
            await store.raise_incarnation()
            await leave(store)

        with monkeypatch.context() as patched:
            patched.setattr(LogStore, "leave", raised)
            await store.reign()
        assert store.incarnation == before + 1
        assert (await kill(shelf)).incarnation == before + 1, "a killed process loses nothing"

    trio.run(main)


def test_r2_memory_always_raises_it() -> None:
    async def main() -> None:
        shelf = Shelf(append_level=Level.MEMORY)
        store = await stop(shelf)
        assert (await stop(shelf)).incarnation == store.incarnation + 1

    trio.run(main)


def test_r2_the_clean_mark_is_gone_durably_before_anything_else_happens() -> None:
    async def main() -> None:
        shelf = Shelf()
        await stop(shelf)
        await kill(shelf)
        shelf.crash()
        third = await kill(shelf, boot_id="other")
        assert not third.was_clean

    trio.run(main)


def test_r2_a_stop_that_was_told_not_to_flush_is_not_clean() -> None:
    async def main() -> None:
        shelf = Shelf()
        store = await kill(shelf)
        await store.aclose(flush=False)
        assert not (await kill(shelf)).was_clean

    trio.run(main)


def test_r3_every_start_opens_a_new_reign_flushed_before_its_first_batch() -> None:
    async def main() -> None:
        shelf = Shelf()
        epochs = []
        for how in (stop, kill, stop, kill):
            store = await how(shelf)
            epochs.append((store.epoch, store.reign_id))
            shelf.crash()
        assert [number for number, _ in epochs] == [1, 2, 3, 4]
        assert len({reign_id for _, reign_id in epochs}) == 4

    trio.run(main)


def test_r3_a_crash_at_every_step_of_a_start_never_gives_a_number_twice() -> None:
    async def main() -> None:
        shelf = Shelf()
        await stop(shelf)
        whole = shelf.copy()
        await kill(whole)
        for crash_after in range(len(whole.operations)):
            attempt = shelf.copy()
            attempt.crash_after = crash_after
            with pytest.raises(Crashed):
                await kill(attempt)
            attempt.crash_after = None
            for stored in attempt.logs.values():
                stored.durable = min(stored.durable, stored.end)
            store = await kill(attempt)
            numbers = [entry.number for entry in store.metadata.history]
            assert numbers == sorted(set(numbers))
            assert numbers[-1] == store.epoch

    trio.run(main)


def test_r3_the_epoch_batch_opens_the_metadata_log_at_once_and_others_before_their_first_batch() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        assert [entry.number for entry in broker.store.metadata.history] == [1]
        assert log.history == []
        await log.append([batch(b"a")])
        await kill(shelf)
        broker = await start(shelf)
        log = await broker.log()
        assert [entry.number for entry in log.history] == [1]
        await log.append([batch(b"b")])
        assert [(entry.number, entry.start_offset) for entry in log.history] == [(1, 0), (3, 1)]
        assert log.history[-1].reign_id == broker.store.reign_id
        assert (log.epoch_at(0), log.epoch_at(1), log.epoch_at(2)) == (1, 3, 3)

    trio.run(main)


def test_g06_divergence_is_the_end_of_the_last_reign_that_both_know() -> None:
    async def main() -> None:
        shelf = Shelf()
        for count in (3, 2, 4):  # reigns 1, 2, 3: offsets 0-2, 3-4, 5-8
            log = await (await start(shelf)).log()
            await log.append([batch(b"x")] * count)
        for offset, epoch, expected in [
            (0, 1, None), (3, 1, None), (4, 1, 3), (5, 2, None), (9, 2, 5), (7, 3, None), (9, 3, None), (12, 3, None),
            (9, 7, 9), (12, 7, 9), (2, 0, 0),
        ]:  # fmt: skip
            assert log.divergence(offset, epoch) == expected, (offset, epoch)

    trio.run(main)


def test_g12_each_flipped_byte_of_the_identity_is_survived_by_the_other_copy_and_told() -> None:
    async def main() -> None:
        shelf = Shelf()
        store = await stop(shelf)
        for name in IDENTITY:
            for at in range(len(shelf.logs[name].data)):
                hurt = shelf.copy()
                hurt.logs[name].data[at] ^= 0x20
                broker = await start(hurt)
                assert broker.store.node_id == store.node_id
                assert broker.store.epoch > store.epoch
                assert broker.kinds == ["identity-torn-or-damaged"]
                if at % 100 == 0:  # the newest record is made again at once, an older one when the log begins anew
                    assert (await start(hurt)).kinds == ([] if at >= 1024 else ["identity-torn-or-damaged"])

    trio.run(main)


def test_g12_a_damaged_identity_is_its_own_clear_error() -> None:
    async def main() -> None:
        shelf = Shelf()
        await stop(shelf)
        for name in IDENTITY:
            shelf.logs[name].data[-100] ^= 1
        with pytest.raises(CorruptionError, match="identity of this storage is damaged"):
            await start(shelf)

    trio.run(main)


def test_r14_logs_without_an_identity_are_refused_loudly() -> None:
    async def main() -> None:
        shelf = Shelf()
        log = await (await start(shelf)).log()
        await log.append([batch(b"a")])
        for name in IDENTITY:
            del shelf.logs[name]
        with pytest.raises(CorruptionError, match="no identity"):
            await start(shelf)

    trio.run(main)


def test_r14_an_identity_that_has_gone_back_is_refused() -> None:
    async def main() -> None:
        shelf = Shelf()
        await stop(shelf)
        old = {name: bytes(shelf.logs[name].data) for name in IDENTITY}
        await stop(shelf)
        await stop(shelf)
        for name in IDENTITY:
            shelf.logs[name].data[:] = old[name]
        with pytest.raises(CorruptionError, match="gone back"):
            await start(shelf)

    trio.run(main)


def test_a_storage_of_another_broker_is_refused_by_name() -> None:
    async def main() -> None:
        shelf = Shelf()
        await stop(shelf, node_name="berlin")
        with pytest.raises(StorageError, match="belongs to the broker 'berlin', this one is called 'paris'") as caught:
            await start(shelf, node_name="paris")
        assert caught.value.kind == "foreign"

    trio.run(main)


def test_a_storage_of_another_version_is_refused_by_version() -> None:
    from crc32c import crc32c

    async def main() -> None:
        shelf = Shelf()
        await stop(shelf)
        for data in (shelf.logs[name].data for name in IDENTITY):
            for at in range(0, len(data), 512):
                data[at + 4] = 9
                data[at + 508 : at + 512] = crc32c(bytes(data[at : at + 508])).to_bytes(4, "little")
        with pytest.raises(StorageError, match="format version 9, this mqcore reads version 2"):
            await start(shelf)

    trio.run(main)


def test_g12_one_copy_of_the_identity_that_is_gone_is_told_and_made_again() -> None:
    async def main() -> None:
        for name in IDENTITY:
            shelf = Shelf()
            store = await stop(shelf)
            del shelf.logs[name]
            broker = await start(shelf)
            assert (broker.store.node_id, broker.kinds) == (store.node_id, ["identity-torn-or-damaged"])
            assert (await start(shelf)).kinds == []

    trio.run(main)


def test_g17_a_crash_at_any_step_of_many_restarts_never_loses_the_identity_or_a_number() -> None:
    async def main() -> None:
        shelf = Shelf()
        node_id = (await stop(shelf)).node_id
        epoch = 1
        for crash_after in range(120):  # each of them further on in the round through both logs
            shelf.crash_after = crash_after % 16
            try:
                await stop(shelf)
            except Crashed:
                shelf.crash()
            shelf.crash_after = None
            broker = await start(shelf)
            assert (broker.store.node_id, broker.store.epoch > epoch) == (node_id, True)
            epoch = broker.store.epoch

    trio.run(main)


def test_g17_an_identity_that_was_read_is_never_lost_to_crashes_in_a_row() -> None:
    async def read(shelf: Shelf) -> tuple[IdentityLog, Identity]:
        storage = ShelfStorage(shelf)

        async def flush(logs: Sequence[Log]) -> None:
            await storage.flush(logs)

        log = IdentityLog([ShelfLog(name, shelf) for name in IDENTITY], flush=flush, report=[].append)
        identity = await log.read()
        assert identity is not None
        return log, identity

    async def main() -> None:
        rng = random.Random(7)
        shelf = Shelf()
        await stop(shelf)
        for _ in range(500):
            log, identity = await read(shelf)
            shelf.crash_after = rng.randrange(6)
            with contextlib.suppress(Crashed):
                await log.write(attrs.evolve(identity, incarnation=identity.incarnation + 1))
            shelf.crash_after = None
            shelf.crash(tail=rng.choice((0, 100)))
            assert (await read(shelf))[1].incarnation >= identity.incarnation

    trio.run(main)


def test_restarts_do_not_grow_a_storage() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        await (await broker.log()).append([batch(b"a" * 2**21)])  # large enough for a sidecar
        await MetadataLog(broker.store).append([{"type": "record"}])
        await broker.store.aclose()
        for restart in range(2, 300):
            broker = await start(shelf)
            log = await broker.log()
            assert broker.store.metadata.history[-1].number == broker.store.epoch == restart
            assert await MetadataLog(broker.store).replay() == [{"type": "record"}]
            await broker.store.aclose()
        sizes = {name: stored.end for name, stored in shelf.logs.items()}
        assert max(sizes[name] for name in IDENTITY) <= 4096
        assert sizes["metadata"] < 16_000
        assert sizes[f"{NAME}.state"] < 16_000
        assert log.end_offset == 1

    trio.run(main)


def test_one_flush_serves_many_logs_and_moves_their_durable_offsets() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        logs = [await broker.log(f"{number:032x}-0") for number in range(50)]
        for log in logs:
            await log.append([batch(b"a")])
        shelf.operations.clear()
        await broker.store.flush(logs)
        assert len(shelf.operations) == 1
        assert all(log.durable_offset == 1 and not log.dirty for log in logs)
        await broker.store.flush(logs)
        assert len(shelf.operations) == 1, "nothing is dirty, nothing is flushed"

    trio.run(main)


def test_g11_after_a_failed_flush_the_unflushed_is_not_served_and_the_log_takes_no_more() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log, other = await broker.log(), await broker.log("f" * 32 + "-0")
        await log.append([batch(b"flushed")])
        await broker.store.flush([log])
        await log.append([batch(b"not flushed")])
        await other.append([batch(b"x")])
        shelf.fail_flush = True
        with pytest.raises(FlushFailedError):
            await broker.store.flush([log])
        shelf.fail_flush = False
        assert log.failed is not None
        assert other.failed is None
        with pytest.raises(StorageError):
            await log.append([batch(b"more")])
        await broker.store.flush([log, other])
        assert log.durable_offset == 1
        assert await log.read(1, 1 << 20, 2) == ([], 0, 1, 0, 0)
        assert (await log.read(0, 1 << 20, 2)).next_offset == 1
        await broker.store.aclose()
        assert not (await kill(shelf)).was_clean

    trio.run(main)


def test_an_append_during_a_flush_is_not_taken_for_flushed() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a")])
        shelf.hold_flushes = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.store.flush, [log])
            await trio.testing.wait_all_tasks_blocked()
            await log.append([batch(b"b")])
            shelf.hold_flushes.set()
        assert (log.durable_offset, log.end_offset, log.dirty) == (1, 2, True)
        assert shelf.logs[NAME].durable == log.durable_position

    trio.run(main)


def test_the_same_name_gives_the_same_log_and_reserved_names_are_refused() -> None:
    async def main() -> None:
        broker = await start(Shelf())
        logs: list[object] = []

        async def opened() -> None:
            logs.append(await broker.log())

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(opened)
        assert len(set(map(id, logs))) == 1
        for name in (*IDENTITY, "metadata", f"{NAME}.state"):
            with pytest.raises(ValueError, match="kept for the store itself"):
                await broker.log(name)

    trio.run(main)


def test_everything_is_there_after_a_clean_stop() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a"), batch(b"b")])
        await broker.store.aclose()
        await broker.store.aclose()
        shelf.crash()
        broker = await start(shelf)
        assert await read_all(await broker.log()) == sent([batch(b"a"), batch(b"b")])
        assert broker.notices == []

    trio.run(main)


@pytest.mark.parametrize("where", ["backend", "metadata"])
def test_a_store_that_could_not_be_opened_is_closed_without_another_error(where: str) -> None:
    class Refusing(ShelfStorage):
        async def open(self) -> None:
            raise CorruptionError("damaged", where="the shelf")

    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch()])
        await broker.store.aclose()
        if where == "metadata":
            del shelf.logs["metadata"]
        backend = Refusing(shelf) if where == "backend" else ShelfStorage(shelf)
        store = LogStore(backend, ports=ports_of(Clock()), limits=LIMITS, node_name="node-1", report=lambda _: None)
        with pytest.raises(CorruptionError, match=r"damaged|metadata log is missing"):
            await store.open()
        operations = list(shelf.operations)
        await store.aclose()  # as the broker does: what went wrong first is what is told
        assert shelf.operations == operations, "a store that is not open was written to"

    trio.run(main)
