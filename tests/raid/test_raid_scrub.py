"""Scrubbing: copies are compared, the one that rotted is mended, and what nothing decides is reported (G12)."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
from array_parts import Bench, put, read_all, states
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mqcore.errors import CommandNotPossibleError
from mqcore_raid._scrub import decode_result
from mqcore_raid._sums import BLOCK_BYTES, BlockSums, decode_sums

CONTENT = random.Random(1).randbytes(300_000)


async def scrubbed(storage) -> dict:
    await storage.operate("scrub", {})
    with trio.fail_after(1000):
        while (found := storage.facts()["scrub"])["is_running"]:  # noqa: ASYNC110 - what an operator does
            await trio.sleep(0.05)
    return found


def rot(bench: Bench, member: str, position: int) -> None:
    mark = CONTENT[position : position + 24]
    for path in bench.disk.paths():
        at = bench.disk.content(path, durable=True).find(mark)
        if at >= 0 and path.startswith(f"{member}/storage/segments/"):
            bench.disk.rot(path, at)
            return
    raise AssertionError(f"{member} does not hold byte {position}")


async def copy_on(bench: Bench, member: str) -> bytes:
    """What one member alone holds."""
    fork = bench.fork()
    for other in bench.members:
        if other != member:
            fork.take_away(other)
    async with fork.opened() as storage:
        return await read_all(await storage.open_log("log"))


@pytest.mark.parametrize("again", [False, True], ids=["while in use", "after a clean stop"])
@pytest.mark.parametrize("member", ["/a", "/b"])
def test_a_flipped_byte_on_either_copy_is_found_mended_and_reported(member, again):
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await put(storage, CONTENT)
            if not again:
                rot(bench, member, 70_000)
                found = await scrubbed(storage)
        if again:
            rot(bench, member, 70_000)
            async with bench.opened() as storage:
                found = await scrubbed(storage)
        assert (found["blocks_mended"], found["blocks_undecided"], found["logs"]) == (1, 0, 1)
        assert found["bytes_compared"] == len(CONTENT)
        for each in bench.members:
            assert await copy_on(bench, each) == CONTENT

    bench.run(main)
    assert {"raid-copy-mended", "raid-scrubbed"} <= set(bench.kinds())


def test_a_scrub_of_what_is_whole_changes_nothing():
    bench = Bench("abcd", options="level=10&stripe_bytes=65536")

    async def main():
        async with bench.opened() as storage:
            await put(storage, CONTENT)
            await put(storage, b"small", "other")
            found = await scrubbed(storage)
            assert (found["blocks_mended"], found["blocks_undecided"]) == (0, 0)
            assert states(storage) == ["in-sync"] * 4

    bench.run(main)


def test_of_three_copies_two_decide_where_no_checksum_does():
    bench = Bench("abc")

    async def main():
        async with bench.opened() as storage:
            await put(storage, CONTENT)
            rot(bench, "/a", 299_000)  # in the last block, which has no checksum yet
            found = await scrubbed(storage)
            assert (found["blocks_mended"], found["blocks_undecided"]) == (1, 0)
        assert await copy_on(bench, "/a") == CONTENT

    bench.run(main)


def test_what_nothing_decides_is_reported_and_not_written():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            await put(storage, CONTENT)
            rot(bench, "/a", 299_000)
            found = await scrubbed(storage)
            assert (found["blocks_mended"], found["blocks_undecided"]) == (0, 1)
            assert "log log, bytes 262144 to 300000" in found["places"][0]
        assert await copy_on(bench, "/b") == CONTENT
        assert await copy_on(bench, "/a") != CONTENT

    bench.run(main)
    assert "raid-copies-differ" in bench.kinds()


def test_damage_on_stripes_is_reported():
    bench = Bench(options="level=0&stripe_bytes=262144")

    async def main():
        async with bench.opened() as storage:
            await put(storage, CONTENT)
            holder = "/a" if any("log@" in path for path in bench.disk.list("/a/storage/segments")) else "/b"
            try:
                rot(bench, holder, 10_000)
            except AssertionError:
                rot(bench, "/b", 10_000)
            found = await scrubbed(storage)
            assert (found["blocks_mended"], found["blocks_undecided"]) == (0, 1)

    bench.run(main)


def test_scrubs_come_by_themselves_and_one_at_a_time():
    bench = Bench(options="level=1&scrub_interval_ms=60000")

    async def main():
        async with bench.opened() as storage:
            await put(storage, CONTENT)
            assert "scrub" not in storage.facts()
            rot(bench, "/b", 1000)
            await trio.sleep(70)
            assert storage.facts()["scrub"]["blocks_mended"] == 1
            await storage.operate("scrub", {"rate_bytes": 1000})
            with pytest.raises(CommandNotPossibleError, match="runs already"):
                await storage.operate("scrub", {})

    bench.run(main)


def test_the_last_result_and_the_time_of_the_next_scrub_outlive_the_broker():
    bench = Bench(options="level=1&scrub_interval_ms=60000")

    async def main():
        async with bench.opened() as storage:
            await put(storage, CONTENT)
            rot(bench, "/b", 1000)
            await trio.sleep(61)
            done = storage.facts()["scrub"]
        assert (done["blocks_mended"], done["is_running"]) == (1, False)
        for _ in range(3):  # started more often than the interval is long
            async with bench.opened() as storage:
                await trio.sleep(19)
                assert storage.facts()["scrub"] == done
        async with bench.opened() as storage:
            await trio.sleep(10)
            later = storage.facts()["scrub"]
        assert later["finished_ms"] > done["finished_ms"]
        assert later["blocks_mended"] == 0

    bench.run(main)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"places": 1}', b'{"places": [], "logs": -1}', b"\xff", b"1" * 100_000]
)
def test_a_result_that_is_none_is_refused(data):
    with pytest.raises(ValueError, match=r".*"):
        decode_result(data)


# How long a busy machine takes to draw a list says nothing of the checksums.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 3 * BLOCK_BYTES), max_size=6), st.integers(0, 2**32))
def test_checksums_are_those_of_whole_blocks_however_they_were_appended(sizes, seed):

    sums, content = BlockSums(), bytearray()
    for size in sizes:
        piece = random.Random(seed).randbytes(size)
        sums.appended([piece[: size // 3], piece[size // 3 :]], len(content))
        content += piece
    kept = decode_sums(sums.take_fresh() + b"torn")
    for block in range(len(content) // BLOCK_BYTES):
        wanted = crc32c(bytes(content[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]))
        assert sums.get(block) == kept[block] == wanted
    assert len(kept) == len(content) // BLOCK_BYTES


def test_checksums_of_what_was_cut_are_forgotten():
    sums = BlockSums()
    sums.appended([bytes(2 * BLOCK_BYTES)], 0)
    sums.truncated(BLOCK_BYTES + 5)
    assert sums.get(0) is not None
    assert sums.get(1) is None
    sums.appended([b"x" * BLOCK_BYTES], BLOCK_BYTES + 5)
    assert sums.get(1) is None, "its beginning was not seen"


@pytest.mark.parametrize("power", [True, False], ids=["power cut", "kill"])
@pytest.mark.parametrize("member", ["/a", "/b"])
def test_g12_what_was_proved_is_scrubbed_after_a_crash_although_nothing_used_the_log_since(member, power):
    bench = Bench("abc")  # two of three decide where no checksum was kept

    async def before():
        storage = bench.create()
        await storage.open()
        log = await put(storage, CONTENT)
        await put(storage, b"proves the flush before")
        await log.append([b"of which no flush is proved"])

    async def after():
        async with bench.opened() as storage:
            found = await scrubbed(storage)
            assert (found["blocks_mended"], found["blocks_undecided"]) == (1, 0)
            assert found["bytes_compared"] == found["bytes_known"] >= len(CONTENT)
        assert (await copy_on(bench, member))[: len(CONTENT)] == CONTENT

    bench.run(before)
    bench.crash(power=power)
    rot(bench, member, 70_000)
    bench.run(after)


def rewritten(cut: str):
    """Blocks that are appended, given up, and appended anew with other bytes: by a truncation, or a crash."""

    async def first(bench):
        storage = bench.create()
        await storage.open()
        log = await put(storage, CONTENT[:70_000])
        await log.append([CONTENT[70_000:]])
        log.keep_sums() if hasattr(log, "keep_sums") else [part.keep_sums() for part in log.parts]
        await trio.sleep(0.1)
        if cut == "truncation":
            await log.truncate(70_000)
            await storage.aclose()

    async def second(bench):
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            await log.truncate(70_000)
            await put(storage, CONTENT[1000:200_000])

    return first, second


@pytest.mark.parametrize("cut", ["truncation", "crash"])
def test_checksums_of_blocks_that_were_written_anew_decide_nothing(cut):
    bench = Bench("ab", options="level=0&stripe_bytes=1048576")
    first, second = rewritten(cut)

    async def last():
        async with bench.opened() as storage:
            found = await scrubbed(storage)
            assert (found["blocks_mended"], found["blocks_undecided"]) == (0, 0), found

    bench.run(first, bench)
    if cut == "crash":
        bench.crash(power=False)
    bench.run(second, bench)
    bench.run(last)


@pytest.mark.parametrize("cut", ["truncation", "crash"])
def test_g01_a_copy_that_missed_a_write_is_not_taken_for_the_right_one(cut):
    """A disk that told a write and lost it shows what stood there before, which an old checksum would confirm."""
    bench = Bench()
    first, second = rewritten(cut)
    wanted = CONTENT[:70_000] + CONTENT[1000:200_000]

    async def last():
        async with bench.opened() as storage:
            copies = (await storage.open_log("log")).copies
            copy = next(copy for member, copy in copies.items() if member.path == "/b")
            await copy.overwrite(BLOCK_BYTES, CONTENT[BLOCK_BYTES : 2 * BLOCK_BYTES])
            await scrubbed(storage)
            assert await read_all(await storage.open_log("log")) == wanted
        assert await copy_on(bench, "/a") == wanted

    bench.run(first, bench)
    if cut == "crash":
        bench.crash(power=False)
    bench.run(second, bench)
    bench.run(last)


async def keep_durably(bench: Bench, log: Any) -> None:
    """Have the checksums of what was appended on the members' disks."""
    log.keep_sums()
    await trio.sleep(0.1)
    for path in bench.disk.paths():
        if "/sums/" in path:
            file = bench.disk.open(path)
            file.flush()
            file.close()
    for member in bench.members:
        bench.disk.flush_directory(f"{member}/sums")


async def wrongly_settled(bench: Bench, block: int, old: bytes) -> bytes:
    """Have /b show ``old`` again in ``block``, as if its disk had lost a write; return what /a holds after a scrub."""
    async with bench.opened() as storage:
        log = await storage.open_log("log")
        await log.append([b""])
        copy = next(copy for member, copy in log.copies.items() if member.path == "/b")
        await copy.overwrite(block * BLOCK_BYTES, old)
        await scrubbed(storage)
    return await copy_on(bench, "/a")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("given_up_by", ["truncation", "deletion", "a kill of a log that was never flushed"])
def test_g01_checksums_that_were_given_up_do_not_come_back_with_a_power_cut(given_up_by, seed):
    """Right after the flush of the bytes that stand there now, which no old checksum may be taken to deny."""
    bench = Bench(seed=seed)
    new = CONTENT[70_000:270_000]

    async def before():
        storage = bench.create()
        await storage.open()
        log = await storage.open_log("log")
        await log.append([CONTENT])
        if given_up_by != "a kill of a log that was never flushed":
            await storage.flush([log])
        await keep_durably(bench, log)

    async def anew():
        storage = bench.create()
        await storage.open()
        log = await storage.open_log("log")
        if given_up_by == "deletion":
            await storage.delete_log("log")
        elif log.end:
            await log.truncate(0)
        await put(storage, new)
        await put(storage, b"proves the flush before")

    bench.run(before)
    bench.crash(power=given_up_by == "a kill of a log that was never flushed")
    bench.run(anew)
    bench.crash()
    held = bench.run(wrongly_settled, bench, 1, CONTENT[BLOCK_BYTES : 2 * BLOCK_BYTES])
    assert held[: len(new)] == new


@pytest.mark.parametrize("seed", range(4))
def test_g01_checksums_of_what_a_crash_took_do_not_deny_what_the_next_start_kept(seed):
    """What was appended anew and not flushed before a power cut may be kept all the same, and is flushed then."""
    bench = Bench(seed=seed)
    new = CONTENT[70_000:270_000]

    async def before():
        async with bench.opened() as storage:
            await keep_durably(bench, await put(storage, CONTENT))

    async def anew():
        storage = bench.create()
        await storage.open()
        log = await storage.open_log("log")
        await log.truncate(0)
        await log.append([new])

    async def kept():
        storage = bench.create()
        await storage.open()
        log = await storage.open_log("log")
        await log.truncate(len(new))
        await storage.flush([log])
        await put(storage, b"proves the flush before")

    bench.run(before)
    bench.run(anew)
    bench.crash(power=False)
    bench.run(kept)
    bench.crash()
    held = bench.run(wrongly_settled, bench, 1, CONTENT[BLOCK_BYTES : 2 * BLOCK_BYTES])
    assert held[: len(new)] == new


def test_an_entry_that_a_full_disk_cut_off_does_not_garble_those_behind_it():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            log: Any = await put(storage, CONTENT[: 2 * BLOCK_BYTES])
            await keep_durably(bench, log)
            for member in bench.members:
                file = bench.disk.open(f"{member}/sums/log")
                file.pwritev([b"torn"], file.size())
                file.close()
            await put(storage, CONTENT[2 * BLOCK_BYTES :])
            log.keep_sums()
        rot(bench, "/a", 140_000)
        async with bench.opened() as storage:
            assert (await scrubbed(storage))["blocks_mended"] == 1

    bench.run(main)
