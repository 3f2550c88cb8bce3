"""G13, G20: what a client put into a file that is used again does not decide how long a recovery works on it."""

from __future__ import annotations

import attrs
import pytest
import trio
from crc32c import crc32c
from shelf_storage import LIMITS, Shelf, ShelfLog, batch

from mqcore.batch import HEADER_BYTES, BatchHeader, pack_header
from mqcore.log._state import LogState
from mqcore.log._tail import CHECKSUMMED_PER_BYTE_MAX, torn_range

KIB = 1024
SALT = 7
END_MARK = bytes(16)


@attrs.define
class Work:
    """What was checksummed, and how often the storage was asked."""

    checksummed_bytes: int = 0
    reads: int = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()
    read = ShelfLog.read

    def counted_checksum(data: bytes, value: int = 0) -> int:
        work.checksummed_bytes += len(data)
        return crc32c(data, value)

    async def counted_read(self: ShelfLog, position: int, size: int) -> memoryview:
        work.reads += 1
        return await read(self, position, size)

    monkeypatch.setattr("mqcore.log._tail.crc32c", counted_checksum)
    monkeypatch.setattr(ShelfLog, "read", counted_read)
    return work


def header_that_promises(size: int) -> bytes:
    fields = dict.fromkeys(BatchHeader._fields, 0) | {"size": size, "count": 1, "payload_bytes": size - HEADER_BYTES}
    return bytes(pack_header(BatchHeader(**fields)))


def headers_that_promise_all_that_follows(size: int) -> bytes:
    return b"".join(header_that_promises(left * HEADER_BYTES) for left in range(size // HEADER_BYTES, 0, -1))


def torn(tail: bytes, batch_bytes_max: int = LIMITS.batch_bytes_max) -> tuple[int, int]:
    """The torn range of a log without a batch, in a file used before that holds ``tail``."""

    async def main() -> tuple[int, int]:
        shelf = Shelf(may_be_stale=True)
        log = ShelfLog("x", shelf)
        shelf.logs["x"].data += tail
        limits = attrs.evolve(LIMITS, batch_bytes_max=batch_bytes_max)
        return await torn_range(log, LogState(limits), SALT, limits)

    return trio.run(main)


@pytest.mark.parametrize("size_kib", [64, 512])
def test_headers_that_each_promise_the_rest_of_the_tail_end_the_search_and_the_tail_is_kept(
    work: Work, size_kib: int
) -> None:
    tail = END_MARK + headers_that_promise_all_that_follows(size_kib * KIB) + b"\xff"
    assert torn(tail) == (0, len(tail))
    assert work.checksummed_bytes <= CHECKSUMMED_PER_BYTE_MAX * len(tail)


def test_a_size_that_no_batch_may_have_is_not_believed(work: Work) -> None:
    tail = END_MARK + headers_that_promise_all_that_follows(512 * KIB) + b"\xff"
    assert torn(tail, batch_bytes_max=4 * KIB) == (0, 0)
    assert work.checksummed_bytes < 2 * len(tail)


def test_many_small_batches_of_another_time_are_passed_over_with_few_reads(work: Work) -> None:
    stale = bytes(batch(b"v").data)
    count = 2 * 1024 * KIB // len(stale)
    assert torn(END_MARK + stale * count) == (0, 0)
    assert work.checksummed_bytes < 3 * len(stale) * count
    assert work.reads < count / 10


def test_magic_numbers_in_a_payload_cost_no_reads(work: Work) -> None:
    tail = END_MARK + b"MQ1\0" * (128 * KIB)
    assert torn(tail) == (0, 0)
    assert work.reads < 10
    assert work.checksummed_bytes == 0


def test_other_tasks_run_while_a_long_tail_is_checksummed() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def main() -> None:
        shelf = Shelf(may_be_stale=True)
        log = ShelfLog("x", shelf)
        shelf.logs["x"].data += END_MARK + bytes(batch(b"v").data) * 7000  # less than a window
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await torn_range(log, LogState(LIMITS), SALT, LIMITS)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert turns > 10
