"""Appending and reading through the contract of any backend: memory and mmap, found through the registry."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from crc32c import crc32c
from shelf_storage import LIMITS, NAME, SALT, Broker, Clock, Shelf, batch, read_all, sent, start

from mqcore.abc import StorageContext
from mqcore.batch import ATTRIBUTE_CONTROL, unpack_header, verify_body
from mqcore.errors import OutcomeUnknownError, StorageError
from mqcore.log import BelowStartError
from mqcore.ports import system_ports
from mqcore.registry import create_storage


@pytest.fixture(params=["memory", "mmap", "shelf"])
def with_log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Run a test on an open broker on each storage."""

    def run(main: Callable[[Broker], Awaitable[None]], clock: Clock | None = None) -> None:
        async def whole() -> None:
            if request.param == "shelf":
                broker = await start(Shelf(segment_bytes=300), clock=clock)
            else:
                url = "memory://" if request.param == "memory" else f"mmap://{tmp_path}/s"
                backend = create_storage(url, StorageContext(ports=system_ports(), limits=LIMITS))
                broker = await start(backend, clock=clock)
            await main(broker)
            await broker.store.aclose()

        trio.run(whole)

    return run


def test_what_is_read_is_what_was_sent_byte_for_byte(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        batches = [batch(*[b"v%d" % number] * (number % 3 + 1)) for number in range(200)]
        assert await log.append(batches[:3]) == [0, 1, 3]
        for each in batches[3:]:
            await log.append([each])
        assert await read_all(log) == sent(batches)
        assert await read_all(log, bytes_max=1) == sent(batches)
        assert log.end_offset == sum(each.header.count for each in batches)

    with_log(main)


def test_a_read_is_of_whole_batches_sealed_for_this_log_with_offset_and_epoch(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        await log.append([batch(b"a"), batch(b"b", b"c")])
        result = await log.read(1, 1, log.end_offset)
        (chunk,) = result.chunks
        header = unpack_header(chunk)
        assert (header.base_offset, header.count, header.epoch) == (1, 2, broker.store.epoch)
        assert (result.size, result.next_offset) == (header.size, 3)
        assert unpack_header(chunk).header_checksum == crc32c(bytes(chunk[:100]), SALT)
        verify_body(chunk, header)

    with_log(main)


def test_a_read_begins_with_the_batch_that_contains_the_offset(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        await log.append([batch(b"a"), batch(b"b", b"c", b"d"), batch(b"e")])
        for offset in (1, 2, 3):
            result = await log.read(offset, 1, log.end_offset)
            assert unpack_header(result.chunks[0]).base_offset == 1
            assert result.next_offset == 4

    with_log(main)


def test_nothing_at_or_beyond_the_committed_offset_is_read(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        await log.append([batch(b"a"), batch(b"b"), batch(b"c")])
        assert await read_all_below(log, 2) == 2
        assert await log.read(2, 100, 2) == ([], 0, 2, 0, 0)
        assert await log.read(3, 100, 3) == ([], 0, 3, 0, 0)
        assert await log.read(9, 100, 9) == ([], 0, 9, 0, 0)

    async def read_all_below(log, end):  # type: ignore[no-untyped-def]
        return (await log.read(0, 1 << 20, end)).next_offset

    with_log(main)


def test_bytes_max_holds_but_for_one_batch(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        size = batch(b"x" * 500).header.size
        await log.append([batch(b"x" * 500) for _ in range(10)])
        for bytes_max, batches in ((1, 1), (size, 1), (2 * size - 1, 1), (2 * size, 2), (20 * size, 10)):
            result = await log.read(0, bytes_max, log.end_offset)
            assert result.size == sum(len(chunk) for chunk in result.chunks) == batches * size

    with_log(main)


def test_control_batches_are_never_delivered(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        await log.append([batch(b"a")])
        result = await log.read(0, 1 << 20, 1)
        assert len(result.chunks) == 1
        assert not unpack_header(result.chunks[0]).attributes & ATTRIBUTE_CONTROL

    with_log(main)


def test_r15_offsets_by_time_hold_when_the_clock_jumps_back(with_log: Callable[..., None]) -> None:
    clock = Clock()

    async def main(broker: Broker) -> None:
        log = await broker.log()
        times = [1_000, 1_010, 9_000, 1_020, 1_030, 9_000, 9_500]
        for now_ms in times:
            clock.now_ms = now_ms
            await log.append([batch(b"x" * 3_000)])
        for time_ms in (0, 1_000, 1_005, 1_015, 5_000, 9_000, 9_001, 9_500):
            expected = next(offset for offset, now_ms in enumerate(times) if now_ms >= time_ms)
            assert await log.offset_at_time(time_ms) == expected
        assert await log.offset_at_time(9_501) == len(times)

    with_log(main, clock)


def test_below_the_start_is_told_apart(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        for _ in range(10):
            await log.append([batch(b"x" * 100)])
        await log.trim(4)
        with pytest.raises(BelowStartError) as caught:
            await log.read(3, 1, 10)
        assert caught.value.start_offset == log.start_offset == 4
        assert len(await read_all(log, 4)) == 6
        assert log.bytes_total == 6 * batch(b"x" * 100).header.size

    with_log(main)


def test_truncation_cuts_at_a_batch(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        await log.append([batch(b"a"), batch(b"b", b"c"), batch(b"d")])
        await log.truncate(2)
        assert log.end_offset == 1
        assert await log.append([batch(b"e")]) == [1]
        assert await read_all(log) == sent([batch(b"a"), batch(b"e")])

    with_log(main)


def test_deleting_a_log_takes_all_that_belongs_to_it(with_log: Callable[..., None]) -> None:
    async def main(broker: Broker) -> None:
        log = await broker.log()
        await log.append([batch(b"a")])
        await log.trim(1)
        assert await broker.store.list_logs() == [NAME]
        await broker.store.delete_log(NAME)
        await broker.store.delete_log(NAME)
        assert await broker.store.list_logs() == []
        assert not [name for name in await broker.store.backend.list_logs() if name.startswith(NAME)]
        with pytest.raises(StorageError):
            await log.append([batch(b"b")])
        again = await broker.log()
        assert again.end_offset == 0

    with_log(main)


def test_one_append_is_one_append_of_the_backend_and_no_flush() -> None:
    shelf = Shelf()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"first")])
        shelf.operations.clear()
        await log.append([batch(b"a"), batch(b"b"), batch(b"c")])
        assert shelf.operations == [f"append {NAME}"]

    trio.run(main)


def test_g07_an_append_that_failed_before_a_byte_changes_nothing() -> None:
    shelf = Shelf()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a", producer_id=1)])
        shelf.fail_appends.append(StorageError("full", kind="full", retryable=True))
        with pytest.raises(StorageError) as caught:
            await log.append([batch(b"b", producer_id=1, first_sequence=1)])
        assert (caught.value.kind, caught.value.appended, caught.value.retryable) == ("full", False, True)
        assert log.failed is None
        assert await log.append([batch(b"b", producer_id=1, first_sequence=1)]) == [1]

    trio.run(main)


def test_g07_an_append_that_failed_midway_is_cut_off_durably_and_rejected() -> None:
    shelf = Shelf()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a")])
        end = shelf.logs[NAME].end
        shelf.fail_appends.append(StorageError("io", kind="io", appended=True))
        with pytest.raises(StorageError) as caught:
            await log.append([batch(b"b")])
        assert not caught.value.appended
        assert shelf.logs[NAME].end == end
        assert await log.append([batch(b"c")]) == [1]
        assert await read_all(log) == sent([batch(b"a"), batch(b"c")])

    trio.run(main)


def test_an_append_that_cannot_be_undone_is_unknown_and_stops_the_log() -> None:
    shelf = Shelf()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a")])
        await broker.store.flush([log])
        shelf.fail_appends.append(StorageError("io", kind="io", appended=True))
        shelf.fail_truncates.append(StorageError("io", kind="io"))
        with pytest.raises(OutcomeUnknownError):
            await log.append([batch(b"b")])
        assert log.failed is not None
        with pytest.raises(StorageError):
            await log.append([batch(b"c")])
        assert await read_all(log) == sent([batch(b"a")])

    trio.run(main)


def test_a_cancelled_append_leaves_nothing() -> None:
    shelf = Shelf()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a", producer_id=1)])
        shelf.hold_appends = trio.Event()
        with trio.move_on_after(0.01) as scope:
            await log.append([batch(b"b", producer_id=1, first_sequence=1)])
        assert scope.cancelled_caught
        shelf.hold_appends = None
        assert log.end_offset == 1
        assert await log.append([batch(b"b", producer_id=1, first_sequence=1)]) == [1]
        assert (await (await start(shelf)).log()).end_offset == 2

    trio.run(main)


def test_a_second_task_is_refused_while_one_appends() -> None:
    shelf = Shelf()

    async def main() -> None:
        broker = await start(shelf)
        log = await broker.log()
        await log.append([batch(b"a")])
        shelf.hold_appends = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.append, [batch(b"b")])
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await log.append([batch(b"c")])
            with pytest.raises(trio.BusyResourceError):
                log.check([batch(b"c").header])
            assert (await log.read(0, 1 << 20, log.end_offset)).next_offset == 1
            shelf.hold_appends.set()
        assert log.end_offset == 2

    trio.run(main)


@pytest.mark.parametrize("broken", ["control", "short", "long"])
def test_what_is_no_whole_batch_of_a_producer_is_refused(broken: str) -> None:
    from mqcore.batch import control_batch
    from mqcore.log import IncomingBatch

    async def main() -> None:
        log = await (await start(Shelf())).log()
        header, data = batch(b"a")
        if broken == "control":
            data = control_batch(b"x", created_ms=1, count=1)
            header = unpack_header(data)
        elif broken == "short":
            data = data[:-1]
        else:
            data = bytes(data) + b"x"
        with pytest.raises(ValueError, match="not a batch of a producer"):
            await log.append([IncomingBatch(header, data)])
        assert log.end_offset == 0

    trio.run(main)
