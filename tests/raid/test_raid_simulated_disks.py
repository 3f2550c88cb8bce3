"""What an array costs on disks that take their time: members are flushed side by side."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from array_parts import SMALL, Bench

from mqcore.testing import DiskCall

FLUSHES = 200


async def seconds_of_flushes(bench: Bench, url: str | None = None) -> float:
    async with bench.opened(url) as storage:
        log = await storage.open_log("log")
        await log.append([b"x" * 1000])
        await storage.flush([log])
        began = trio.current_time()
        for _ in range(FLUSHES):
            await log.append([b"x" * 1000])
            await storage.flush([log])
        return trio.current_time() - began


@pytest.mark.parametrize("flush_us", [1000, 5000])
def test_a_mirror_flushes_as_fast_as_one_disk(flush_us):
    one, two = Bench(), Bench()
    for bench in (one, two):
        bench.disk.latency_us.update({"flush": flush_us, "flush_many": flush_us})
    single = one.run(seconds_of_flushes, one, f"mmap:///single?{SMALL}")
    assert single >= FLUSHES * flush_us / 1e6
    assert two.run(seconds_of_flushes, two) <= 1.15 * single


def test_a_degraded_mirror_is_no_slower():
    whole, lame = Bench(), Bench()
    for bench in (whole, lame):
        bench.disk.latency_us.update({"flush": 1000, "flush_many": 1000})

    async def degraded() -> float:
        async with lame.opened() as storage:
            await storage.operate("eject", {"member": "1"})
        return await seconds_of_flushes(lame)

    assert lame.run(degraded) <= 1.1 * whole.run(seconds_of_flushes, whole)


# disks of a bandwidth: a flush takes time for every byte that was written to its disk since the last one

BASE_US, US_PER_KIB = 1_000, 50
LOGS, ROUNDS, PIECE = 16, 10, 16_384
BIG = f"segment_bytes={4 << 20}&first_extent_bytes={4 << 20}&extent_bytes_max={4 << 20}&journal_bytes={1 << 20}"


def give_bandwidth(bench: Bench) -> None:
    written: Counter[str] = Counter()

    def on_call(call: DiskCall) -> None:
        member = call.path[:2]
        if call.operation == "pwritev":
            written[member] += call.size
        elif call.operation in ("flush", "flush_many"):
            bench.disk.latency_us[call.operation] = BASE_US + written.pop(member, 0) * US_PER_KIB // 1024

    bench.disk.on_call = on_call


async def seconds_of_publishing(bench: Bench, logs: int, pieces: int) -> float:
    url = f"raid://{','.join(bench.members)}?{bench.options}&{BIG}"  # no new segments meanwhile
    async with bench.opened(url) as storage:
        opened = [await storage.open_log(f"log-{number}") for number in range(logs)]
        await storage.flush(opened)
        began = trio.current_time()
        for _ in range(ROUNDS):
            for log in opened:
                for _ in range(pieces):
                    await log.append([b"x" * PIECE])
            await storage.flush(opened)
        return trio.current_time() - began


@pytest.mark.parametrize(
    ("logs", "pieces", "options"),
    [(LOGS, 1, ""), (1, LOGS, f"&stripe_bytes={PIECE}")],
    ids=["many-logs", "one-log-over-many-stripes"],
)
def test_four_disks_in_level_10_carry_more_than_two_in_level_1(logs, pieces, options):
    two, four = Bench("ab", options="level=1"), Bench("abcd", options=f"level=10{options}")
    for bench in (two, four):
        give_bandwidth(bench)
    of_two, of_four = (bench.run(seconds_of_publishing, bench, logs, pieces) for bench in (two, four))
    assert of_two >= 1.6 * of_four, f"{of_two / of_four:.2f} times as much"
