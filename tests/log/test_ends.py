"""Where clean stops found the ends of logs: kept over any number of stops, in bounded space."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from crc32c import crc32c
from shelf_storage import Shelf, ShelfLog, ShelfStorage

from mqcore.abc import Log, Notice
from mqcore.errors import StorageError
from mqcore.log import LogPoint
from mqcore.log import _ends as ends_module
from mqcore.log._ends import CleanEnds
from mqcore.ports import Buffer

NAME = "clean-ends"


async def ends_on(shelf: Shelf, notices: list[Notice] | None = None) -> CleanEnds:
    storage = ShelfStorage(shelf)

    async def flush(logs: Sequence[Log]) -> None:
        await storage.flush(logs)

    ends = CleanEnds(ShelfLog(NAME, shelf), flush=flush, report=(notices if notices is not None else []).append)
    await ends.read()
    return ends


def test_what_was_kept_is_read_back_after_a_power_cut_and_what_was_forgotten_is_not() -> None:
    async def main() -> None:
        shelf = Shelf()
        ends = await ends_on(shelf)
        await ends.keep({"a": LogPoint(100, 1), "b": LogPoint(200, 2)})
        await ends.keep({"b": LogPoint(300, 3), "c": LogPoint(400, 4)})
        await ends.forget("a")
        await ends.forget("unknown")
        shelf.crash()
        ends = await ends_on(shelf)
        assert {name: ends.of(name) for name in ends} == {"b": (300, 3), "c": (400, 4)}
        assert ends.of("a") == (0, 0)

    trio.run(main)


def test_a_stop_that_changes_nothing_writes_nothing_and_many_take_bounded_space() -> None:
    async def main() -> None:
        shelf = Shelf()
        for number in range(300):
            ends = await ends_on(shelf)
            await ends.keep({"a" * 400: LogPoint(number, number), "b": LogPoint(7, 7)})
            before = len(shelf.operations)
            await ends.keep({"b": LogPoint(7, 7)})
            assert len(shelf.operations) == before
        assert shelf.logs[NAME].end <= 64 * 1024
        assert (await ends_on(shelf)).of("a" * 400) == (299, 299)

    trio.run(main)


def test_without_space_what_was_known_stays_and_is_told() -> None:
    async def main() -> None:
        shelf = Shelf()
        notices: list[Notice] = []
        ends = await ends_on(shelf, notices)
        await ends.keep({"a": LogPoint(100, 1)})
        shelf.fail_appends = [StorageError("full", kind="full")]
        await ends.keep({"a": LogPoint(200, 2)})
        assert [notice.kind for notice in notices] == ["clean-ends-not-written"]
        assert (await ends_on(shelf)).of("a") == (100, 1)

    trio.run(main)


def test_each_flipped_byte_is_told_and_proves_nothing_wrong() -> None:
    async def main() -> None:
        shelf = Shelf()
        ends = await ends_on(shelf)
        await ends.keep({"a": LogPoint(100, 1)})
        for at in range(shelf.logs[NAME].end):
            hurt = shelf.copy()
            hurt.logs[NAME].data[at] ^= 0x40
            notices: list[Notice] = []
            try:
                ends = await ends_on(hurt, notices)
            except StorageError as error:
                assert error.kind == "foreign"
                assert 4 <= at < 8, "only the version says so"
                continue
            assert ([notice.kind for notice in notices], list(ends)) == (["clean-ends-damaged"], [])

    trio.run(main)


def test_another_version_is_refused() -> None:
    async def main() -> None:
        payload = b"{}"
        head = struct.pack("<IIIIQ", 0x4543514D, 2, len(payload), crc32c(payload), 0)
        shelf = Shelf()
        await ShelfLog(NAME, shelf).append([head + payload])
        with pytest.raises(StorageError, match="format version 2, this mqcore reads version 1"):
            await ends_on(shelf)

    trio.run(main)


def test_g12_ends_that_are_forgotten_at_once_by_many_are_each_forgotten_for_good() -> None:
    class SlowLog(ShelfLog):
        under_way = 0

        async def append(self, chunks: Sequence[Buffer]) -> int:
            assert not self.under_way, "two records at one position"
            self.under_way += 1
            await trio.sleep(1)
            self.under_way -= 1
            return await super().append(chunks)

    async def main() -> None:
        shelf = Shelf()
        await (await ends_on(shelf)).keep({name: LogPoint(100, 1) for name in "abcd"})
        storage = ShelfStorage(shelf)
        ends = CleanEnds(SlowLog(NAME, shelf), flush=storage.flush, report=[].append)
        await ends.read()
        async with trio.open_nursery() as nursery:
            for names in ("a", "bc", "ax"):
                nursery.start_soon(ends.forget, *names)
        assert list(await ends_on(shelf)) == ["d"]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("restarted", [True, False])
def test_g12_nothing_is_written_behind_a_record_that_was_torn(restarted: bool) -> None:
    async def main() -> None:
        shelf = Shelf()
        ends = await ends_on(shelf)
        await ends.keep({"a": LogPoint(100, 1), "b": LogPoint(200, 2)})
        shelf.fail_appends = [StorageError("io", kind="io", appended=True)]
        with pytest.raises(StorageError):
            await ends.forget("a")
        if restarted:
            ends = await ends_on(shelf)
        await ends.forget("a")
        notices: list[Notice] = []
        assert list(await ends_on(shelf, notices)) == ["b"]
        assert not notices

    trio.run(main)


def test_g12_an_end_that_could_not_be_forgotten_is_forgotten_by_the_next_attempt() -> None:
    async def main() -> None:
        shelf = Shelf()
        ends = await ends_on(shelf)
        await ends.keep({"a": LogPoint(100, 1)})
        shelf.fail_appends = [StorageError("full", kind="full")]
        with pytest.raises(StorageError):
            await ends.forget("a")
        await ends.forget("a")
        assert not list(await ends_on(shelf))

    trio.run(main)


def test_what_was_noted_is_less_than_an_end_until_a_clean_stop_finds_one() -> None:
    async def main() -> None:
        shelf = Shelf()
        ends = await ends_on(shelf)
        await ends.keep({"a": LogPoint(100, 1)})
        for position in (200, 150, 300):
            await ends.note("a", LogPoint(position, position))
            await ends.note("b", LogPoint(position, position))
        again = await ends_on(shelf)
        assert {name: (again.of(name), again.is_exact(name)) for name in again} == {
            "a": ((300, 300), False),
            "b": ((300, 300), False),
        }
        await again.keep({"a": LogPoint(300, 300)})
        again = await ends_on(shelf)
        assert [(name, again.is_exact(name)) for name in again] == [("a", True), ("b", False)]
        await again.forget("b")
        await again.keep({"b": LogPoint(5, 5)})
        assert (await ends_on(shelf)).is_exact("b")

    trio.run(main)


def test_without_space_nothing_is_noted_and_nothing_is_raised_and_space_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ends_module, "NOTES_BYTES_MAX", 2_000)

    async def main() -> None:
        shelf = Shelf()
        ends = await ends_on(shelf)
        shelf.fail_appends = [StorageError("full", kind="full")]
        await ends.note("a", LogPoint(1, 1))
        assert not list(ends)
        for number in range(1, 100):
            await ends.note("a", LogPoint(number, number))
        assert shelf.logs[NAME].end < 2_100
        await ends.forget("unknown")
        await ends.note("b", LogPoint(7, 7))
        assert list(ends) == ["a"], "it is long"
        await ends.keep({"b": LogPoint(7, 7)})
        await ends.forget("b")
        assert shelf.logs[NAME].end < 200
        again = await ends_on(shelf)
        assert {name: again.of(name).position for name in again} == {"a": ends.of("a").position}
        assert not again.is_exact("a")
        await ends.keep({"a": LogPoint(500, 500)})
        assert (await ends_on(shelf)).of("a") == (500, 500)

    trio.run(main)
