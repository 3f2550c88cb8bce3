"""Reigning, following and leaving on one open store (rules R3, R4): what is closed, what goes on, what is durable."""

from __future__ import annotations

import struct

import pytest
import trio
import trio.testing
from crc32c import crc32c
from shelf_storage import NAME, SALT, Broker, Crashed, Shelf, Stored, batch, read_all, sent, start

from mqcore.errors import FlushFailedError, OutcomeUnknownError, StorageError
from mqcore.log import Duplicate, MetadataLog

OTHER_REIGN = b"other reign's id"


class FailsOnce(Shelf):
    """Goes on after the operation that ``crash_after`` names: a step that fails in a process that lives on."""

    def step(self, what: str) -> bool:
        fails = super().step(what)
        if fails:
            self.crash_after = None
        return fails


async def stop(broker: Broker) -> None:
    await broker.store.aclose()


def closed() -> pytest.RaisesExc[StorageError]:
    return pytest.RaisesExc(StorageError, check=lambda error: error.kind == "closed")


def test_r3_open_writes_nothing_of_a_reign_and_takes_no_appends() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf, reign=False)
        log = await broker.log()
        with closed():
            await log.append([batch(b"a")])
        assert broker.store.epoch == 0
        assert {name for name, stored in shelf.logs.items() if stored.end} == {"identity", "identity-copy"}

    trio.run(main)


def test_r2_a_store_that_was_only_opened_writes_nothing_and_stays_clean() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        await (await broker.log()).append([batch(b"a")])
        await stop(broker)
        before = {name: bytes(stored.data) for name, stored in shelf.logs.items()}
        broker = await start(shelf, reign=False)
        assert await read_all(await broker.log()) == sent([batch(b"a")])
        await stop(broker)
        assert {name: bytes(stored.data) for name, stored in shelf.logs.items()} == before
        assert (await start(shelf, boot_id="another")).store.was_clean

    trio.run(main)


def test_r2_a_raised_incarnation_is_durable_when_open_returns() -> None:
    async def main() -> None:
        shelf = Shelf()
        first = await start(shelf)
        shelf.crash()
        raised = await start(shelf, boot_id="second", reign=False)
        shelf.crash()
        again = await start(shelf, boot_id="third", reign=False)
        assert raised.store.incarnation == first.store.incarnation + 1
        assert again.store.incarnation == raised.store.incarnation + 1

    trio.run(main)


def test_r2_the_clean_mark_is_not_laundered_by_a_stop_that_left_an_unflushed_log_unopened() -> None:
    async def main() -> None:
        shelf = Shelf()
        first = await start(shelf)
        log = await first.log()
        await log.append([batch(b"reported as held, not flushed")])
        await stop(await start(shelf))  # the process died; this one does not touch the log
        shelf.crash()  # and now the power
        broker = await start(shelf, boot_id="second")
        assert (await broker.log()).end_offset == 0
        assert (broker.store.was_clean, broker.store.incarnation) == (False, first.store.incarnation + 1)
        await stop(broker)
        assert (await start(shelf, boot_id="third")).store.was_clean

    trio.run(main)


def test_r3_late_work_of_an_ended_reign_meets_a_closed_log() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a", producer_id=7)])
        await broker.store.leave()
        with closed():
            await log.append([batch(b"between")])
        await broker.store.reign()
        stored = bytes(shelf.logs[NAME].data)
        for late in (log.append([batch(b"late")]), log.append([]), log.trim(1), log.truncate(0)):
            with closed():
                await late
        with closed():
            await log.read(0, 100, 1)
        await broker.store.flush([log])
        assert bytes(shelf.logs[NAME].data) == stored

        heir = await broker.log()
        assert heir is not log
        assert heir.check([batch(b"a", producer_id=7).header]) == [Duplicate(0, 1)]
        assert await heir.append([batch(b"b")]) == [1]
        assert [(entry.number, entry.start_offset) for entry in heir.history] == [(1, 0), (2, 1)]
        assert broker.store.epoch == 2
        assert [entry.number for entry in broker.store.metadata.history] == [1, 2]

    trio.run(main)


def test_a_log_that_is_open_already_is_not_recovered_again() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        await (await broker.log()).append([batch(b"a")])
        shelf.logs[NAME].data[150] ^= 1  # a scan would find this
        await broker.store.leave()
        await broker.store.reign()
        log = await broker.log()
        assert (log.end_offset, log.epoch_at(0), broker.notices) == (1, 1, [])

    trio.run(main)


@pytest.mark.parametrize("append_ends_first", [True, False])
def test_leave_waits_for_appends_and_flushes_under_way_and_the_next_reign_has_them(append_ends_first: bool) -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log, other = await broker.log(), await broker.log("f" * 32 + "-0")
        await other.append([batch(b"flushed meanwhile")])
        shelf.hold_appends, shelf.hold_flushes = trio.Event(), trio.Event()
        left = trio.Event()

        async def leave() -> None:
            await broker.store.leave()
            left.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.append, [batch(b"under way")])
            nursery.start_soon(broker.store.flush, [other])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(leave)
            held = [shelf.hold_appends, shelf.hold_flushes]
            for event in held if append_ends_first else reversed(held):
                await trio.testing.wait_all_tasks_blocked()
                assert not left.is_set()
                event.set()
        shelf.hold_appends = shelf.hold_flushes = None
        await broker.store.reign()
        assert (await broker.log()).end_offset == 1
        heir = await broker.log(other.name)
        assert (heir.durable_offset, heir.dirty) == (1, False)

    trio.run(main)


def test_leave_waits_for_a_flush_that_hangs_and_says_so_while_it_does() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch()])
        shelf.hold_flushes = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.store.flush, [log])
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(broker.store.leave)
            await trio.sleep(25)
            assert broker.kinds == ["leave-waits"] * 2
            assert "the last writes of reign 1" in broker.notices[0].text
            with pytest.raises(StorageError, match="takes no appends"):
                await log.append([batch()])  # it has ended all the same
            shelf.hold_flushes.set()
        assert log.durable_offset == 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_log_that_an_ended_reign_was_opening_is_not_given_to_it() -> None:
    async def main() -> None:
        shelf = Shelf()
        await (await (await start(shelf)).log()).append([batch(b"unflushed")])
        broker = await start(shelf)
        shelf.hold_flushes = trio.Event()

        async def late() -> None:
            with closed():
                await broker.log()

        async def next_reign() -> None:
            await broker.store.leave()
            await broker.store.reign()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(next_reign)
            await trio.testing.wait_all_tasks_blocked()
            shelf.hold_flushes.set()
        assert await (await broker.log()).append([batch(b"b")]) == [1]

    trio.run(main)


@pytest.mark.parametrize("follows", [False, True])
def test_r3_a_term_that_failed_at_any_step_leaves_the_store_for_the_next_reign(follows: bool) -> None:
    async def main() -> None:
        for crash_after in range(20):
            shelf = FailsOnce()
            broker = await start(shelf)
            await broker.store.leave()
            shelf.crash_after = crash_after
            try:
                await (broker.store.follow(9, OTHER_REIGN) if follows else broker.store.reign())
            except Crashed:
                pass
            else:
                break
            with closed():
                await broker.store.metadata.open_reign()
            await broker.store.reign()
            assert broker.store.epoch == (10 if follows else 3), "a number is never given twice"
            await (await broker.log()).append([batch(b"a")])
            assert broker.store.metadata.history[-1].reign_id == broker.store.reign_id
            await stop(broker)
            assert (await start(shelf, reign=False)).notices == []
        assert crash_after >= (4 if follows else 6)

    trio.run(main)


def test_r3_a_reign_that_was_cancelled_leaves_the_store_for_the_next_one() -> None:
    async def main() -> None:
        for hold in ("hold_appends", "hold_flushes"):
            shelf = Shelf()
            broker = await start(shelf)
            await broker.store.leave()
            setattr(shelf, hold, trio.Event())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(broker.store.reign)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                getattr(shelf, hold).set()
            setattr(shelf, hold, None)
            await broker.store.reign()
            assert broker.store.epoch == 3

    trio.run(main)


def test_r3_a_number_that_was_given_must_be_above_every_one_seen() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf, reign=False)
        await broker.store.reign(7)
        assert broker.store.epoch == 7
        await broker.store.leave()
        for refused in (1, 7):
            with pytest.raises(StorageError, match=f"seen the epoch 7: a reign cannot get the number {refused}"):
                await broker.store.reign(refused)
        with pytest.raises(StorageError, match="seen the epoch 7, it does not follow 6"):
            await broker.store.follow(6, OTHER_REIGN)
        await broker.store.reign()
        assert broker.store.epoch == 8

    trio.run(main)


def test_r4_the_epoch_that_is_followed_is_durable_before_anything_is_taken_from_it() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf, reign=False)
        await broker.store.follow(12, OTHER_REIGN)
        assert (broker.store.epoch, broker.store.reign_id) == (12, OTHER_REIGN)
        with closed():
            await broker.store.metadata.append([batch(b"own")])
        with pytest.raises(StorageError, match="before the metadata log has its first batch"):
            await broker.log()
        shelf.crash()
        broker = await start(shelf)
        assert broker.store.epoch == 13
        assert not broker.store.was_clean

    trio.run(main)


def test_two_terms_do_not_overlap() -> None:
    async def main() -> None:
        broker = await start(Shelf())
        with pytest.raises(RuntimeError, match="leave comes first: reign 1"):
            await broker.store.reign()
        with pytest.raises(RuntimeError, match="leave comes first"):
            await broker.store.follow(5, OTHER_REIGN)
        await broker.store.leave()
        await broker.store.leave()

    trio.run(main)


def test_g11_a_log_that_failed_in_one_reign_has_failed_in_the_next() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a")])
        shelf.fail_flush = True
        with pytest.raises(FlushFailedError):
            await broker.store.flush([log])
        shelf.fail_flush = False
        await broker.store.leave()
        await broker.store.reign()
        heir = await broker.log()
        with closed():
            await heir.append([batch(b"b")])
        assert await heir.read(0, 100, 1) == ([], 0, 0, 0, 0)
        await stop(broker)
        assert not (await start(shelf)).store.was_clean

    trio.run(main)


def test_metadata_records_of_an_ended_reign_are_refused_or_of_unknown_outcome() -> None:
    async def main() -> None:
        shelf = Shelf()
        broker = await start(shelf)
        metadata = MetadataLog(broker.store)
        await metadata.append([{"type": "first"}])
        shelf.hold_appends = trio.Event()

        async def late() -> None:
            with pytest.raises(OutcomeUnknownError, match="may hold the record"):
                await metadata.append([{"type": "late"}])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(broker.store.leave)
            await trio.testing.wait_all_tasks_blocked()
            shelf.hold_appends.set()
        shelf.hold_appends = None
        await broker.store.reign()
        with closed():
            await metadata.append([{"type": "later still"}])
        assert await MetadataLog(broker.store).replay() == [{"type": "first"}, {"type": "late"}]

    trio.run(main)


def test_r13_a_member_that_joins_on_an_empty_storage_takes_the_id_of_the_set() -> None:
    async def main() -> None:
        primary = await start(Shelf())
        shelf = Shelf()
        joining = await start(shelf, reign=False)
        assert joining.store.set_id != primary.store.set_id
        await joining.store.join(primary.store.set_id)
        await joining.store.join(primary.store.set_id)
        assert joining.store.metadata.salt == primary.store.metadata.salt
        shelf.crash()
        joining = await start(shelf)
        assert joining.store.set_id == primary.store.set_id
        await joining.store.leave()
        with pytest.raises(StorageError, match="holds logs of the set") as caught:
            await joining.store.join(bytes(16))
        assert caught.value.kind == "foreign"

    trio.run(main)


def test_a_storage_of_the_format_before_sets_is_refused_by_name_and_version() -> None:
    async def main() -> None:
        record = struct.pack(
            "<IHBBB7xQQ16sQQ16sQ64s64s128s",
            *(0x4449514D, 1, 0, 1, 0, 1, 0, b"n" * 16, 1, 1, b"r" * 16, 1, b"boot", b"mount", b"node-1"),
        ).ljust(508, b"\0")
        record += struct.pack("<I", crc32c(record))
        shelf = Shelf(logs={"identity": Stored(bytearray(record), durable=512)})
        with pytest.raises(StorageError, match=r"written in format version 1, this mqcore reads version 2") as caught:
            await start(shelf)
        assert caught.value.kind == "foreign"
        assert bytes(shelf.logs["identity"].data) == record

    trio.run(main)


def test_the_salt_of_a_partition_is_checked_in_every_term() -> None:
    async def main() -> None:
        broker = await start(Shelf())
        log = await broker.log()
        await broker.store.leave()
        await broker.store.reign()
        assert (await broker.log()).salt == log.salt == SALT

    trio.run(main)
