"""A rebuild and a scrub keep the disks busy: reading, writing and flushing go side by side, in large pieces."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from array_parts import Bench, put, read_all, states

from mqcore.testing import DiskCall
from mqcore_mmap._engine import Engine
from mqcore_raid import _behind, _rebuild, _scrub

PIECE = 16 * 1024
CONTENT = bytes(range(256)) * (64 * PIECE // 256)
BIG = f"segment_bytes={4 << 20}&first_extent_bytes={4 << 20}&extent_bytes_max={4 << 20}&journal_bytes={1 << 20}"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Sizes that a log of the model disk has many of."""
    monkeypatch.setattr(_rebuild, "COPY_BYTES", PIECE)
    monkeypatch.setattr(_rebuild, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(_rebuild, "LOOK_BYTES", PIECE // 4)
    monkeypatch.setattr(_behind, "FLUSH_BYTES", 8 * PIECE)
    monkeypatch.setattr(_scrub, "WINDOW_BYTES", 64 * 1024)
    # Appends of this size take a thread, as those of megabytes do on a disk.
    monkeypatch.setattr(Engine, "append_inline", property(lambda self: False, lambda self, value: None), raising=False)


async def ended(storage) -> None:
    with trio.fail_after(1000):
        while "rebuilding" in states(storage):  # noqa: ASYNC110 - what an operator does
            await trio.sleep(0.001)


async def filled(bench: Bench) -> str:
    """An array with one log, of which /b has left; the URL to open it with."""
    url = f"{bench.url.partition('?')[0]}?level=1&{BIG}"
    async with bench.opened(url) as storage:
        await put(storage, CONTENT)
        await storage.operate("eject", {"member": "1"})
    return url


def rebuild(bench: Bench, stalled: str = "", *, after: int = 0, rate_bytes: int | None = None) -> list[str]:
    """Rebuild into /c; return the calls on segments in order, as ``write c 16384``.

    From call number ``after`` of a kind on the next one like it is ``stalled``: ``begin`` and ``end`` are in the list.
    """
    seen: list[str] = []

    def on_call(call: DiskCall) -> None:
        if "/segments" not in call.path or (call.operation == "pwritev" and call.size < PIECE):
            return
        text = f"{call.operation} {call.path[1]}"
        if text == stalled and seen.count(text) == after:
            bench.disk.stall_next(call.operation, 5, path=f"/{call.path[1]}/storage/segments/*")
            seen.append("begin")
        if call.operation != "pwritev" or call.size == PIECE:  # zeros go in larger ones
            seen.append(text)

    async def main() -> None:
        url = await filled(bench)
        async with bench.opened(url) as storage:
            bench.disk.on_call = on_call
            await storage.operate("replace", {"member": "1", "path": "/c", "rate_bytes": rate_bytes})
            if stalled:
                with trio.fail_after(1000):
                    while "begin" not in seen:  # noqa: ASYNC110 - what an operator does
                        await trio.sleep(0.001)
                await trio.sleep(4.5)
                seen.append("end")
            await ended(storage)
            bench.disk.on_call = None
            assert states(storage) == ["in-sync", "in-sync"]
        bench.take_away("/a")
        async with bench.opened(url.replace("/b", "/c")) as storage:
            assert await read_all(await storage.open_log("log")) == CONTENT

    bench.run(main)
    return seen


def between(seen: list[str]) -> Counter[str]:
    return Counter(seen[seen.index("begin") + 1 : seen.index("end")])


def test_a_rebuild_makes_two_reads_one_write_and_an_eighth_of_a_flush_for_each_piece():
    seen = Counter(rebuild(Bench()))
    assert seen["pwritev c"] == 64
    assert seen["view a"] <= 4 * 64, "one to load and one to look, by what reads on and by what reads"
    assert seen["flush c"] <= 64 / 8 + 2


def test_the_next_piece_is_read_while_one_is_written():
    seen = between(rebuild(Bench(), "pwritev c", after=4))
    assert seen["pwritev c"] == 1, "the one that is stalled"
    assert seen["view a"] >= 1


def test_pieces_are_written_while_those_before_are_flushed_and_what_waits_is_bounded():
    seen = between(rebuild(Bench(), "flush c", after=1))
    assert seen["pwritev c"] == 8


def test_with_a_limit_pieces_are_those_that_it_is_kept_by(monkeypatch):
    monkeypatch.setattr(_rebuild, "COPY_BYTES", 4 * PIECE)
    seen = Counter(rebuild(Bench(), rate_bytes=10 * PIECE))
    assert seen["pwritev c"] == 64


def test_a_flush_that_fails_beside_the_copying_leaves_the_member_out():
    bench = Bench()

    async def main():
        url = await filled(bench)
        async with bench.opened(url) as storage:
            bench.disk.fail_next_flush(path="/c/storage/segments/*")
            await storage.operate("replace", {"member": "1", "path": "/c"})
            await ended(storage)
            assert states(storage) == ["in-sync", "ejected"]
            written = len(bench.disk.content(next(p for p in bench.disk.paths() if p.startswith("/c/storage/seg"))))
            assert written
            await storage.operate("rebuild", {"member": "1"})
            await ended(storage)
            assert states(storage) == ["in-sync", "in-sync"]

    bench.run(main)


def test_a_log_that_is_deleted_or_cut_beside_a_flush_of_its_copy_does_not_end_the_rebuild():
    bench = Bench()

    async def main():
        url = await filled(bench)
        async with bench.opened(url) as storage:
            other = await put(storage, CONTENT, "other")
            bench.disk.latency_us.update({"flush": 200_000})
            await storage.operate("replace", {"member": "1", "path": "/c"})
            await trio.sleep(0.5)
            await storage.delete_log("log")
            await trio.sleep(0.3)
            await other.truncate(5000)
            await ended(storage)
            bench.disk.latency_us.clear()
            assert states(storage) == ["in-sync", "in-sync"]
        bench.take_away("/a")
        async with bench.opened(url.replace("/b", "/c")) as storage:
            assert await storage.list_logs() == ["other"]
            assert await read_all(await storage.open_log("other")) == CONTENT[:5000]

    bench.run(main)


@pytest.mark.parametrize("seconds", [0.05, 0.11, 0.3])
def test_a_stop_beside_a_flush_ends_and_the_next_opening_goes_on(seconds):
    bench = Bench()

    async def main():
        url = await filled(bench)
        async with bench.opened(url) as storage:
            bench.disk.latency_us.update({"flush": 100_000})
            await storage.operate("replace", {"member": "1", "path": "/c"})
            await trio.sleep(seconds)
            assert states(storage) == ["in-sync", "rebuilding"]
        bench.disk.latency_us.clear()
        async with bench.opened(url.replace("/b", "/c")) as storage:
            await ended(storage)
            assert states(storage) == ["in-sync", "in-sync"]
        bench.take_away("/a")
        async with bench.opened(url.replace("/b", "/c")) as storage:
            assert await read_all(await storage.open_log("log")) == CONTENT

    bench.run(main)


def test_a_scrub_reads_each_window_of_each_copy_once_ahead_and_once():
    bench = Bench()
    seen: Counter[str] = Counter()

    def on_call(call: DiskCall) -> None:
        if call.operation == "view":
            seen[call.path[1]] += 1

    async def main():
        url = f"{bench.url.partition('?')[0]}?level=1&{BIG}"
        async with bench.opened(url) as storage:
            await put(storage, CONTENT)
            bench.disk.on_call = on_call
            await storage.operate("scrub", {})
            with trio.fail_after(1000):
                while (found := storage.facts()["scrub"])["is_running"]:  # noqa: ASYNC110 - what an operator does
                    await trio.sleep(0.01)
            assert found["bytes_compared"] == len(CONTENT)

    bench.run(main)
    windows = len(CONTENT) // _scrub.WINDOW_BYTES
    assert seen == {"a": 2 * windows, "b": 2 * windows}
