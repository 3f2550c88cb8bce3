"""Logs of an array that begin above 0: what a rebuild and a migration make of a log that was trimmed."""

from __future__ import annotations

import pytest
from array_parts import Bench, read_all, remove_tree, states

from mqcore.errors import MqcoreError

START = 10**9 + 12_345
DATA = bytes(range(1, 252)) * 40
SHAPES = {"level=1": "ab", "level=0&stripe_bytes=4096": "ab", "level=10&stripe_bytes=4096": "abcd"}
STRIDE = 3


async def begin(bench: Bench, told: dict[str, int]) -> None:
    async with bench.opened() as storage:
        told["opened"] = bench.disk.call_count
        log = await storage.begin_log("log", START)
        for at in range(0, len(DATA), 3000):
            await log.append([DATA[at : at + 3000]])
            (reached,) = await storage.flush([log])
            told["flushed"] = reached.end - START


async def check(bench: Bench, flushed: int) -> None:
    async with bench.opened() as storage:
        log = await storage.open_log("log")
        if not flushed and not log.end:
            return
        if not flushed and "stripe" in bench.options:
            # The group with its first bytes may have lost them, the next one not: then it begins with that stripe.
            assert START - 4096 < log.start <= START
            return
        assert log.start == START
        assert log.end >= START + flushed
        assert await read_all(log, START + flushed) == DATA[:flushed]
        await log.truncate(START + flushed)
        await log.append([DATA[flushed:], b"later"])
        await storage.flush([log])
        assert await read_all(log) == DATA + b"later"
        assert set(states(storage)) == {"in-sync"}


@pytest.mark.parametrize("power", [True, False], ids=["power-cut", "kill"])
@pytest.mark.parametrize("options", SHAPES)
def test_g01_a_crash_at_any_call_leaves_a_log_that_begins_where_it_was_begun(options, power):
    whole, told = Bench(SHAPES[options], options=options), {}
    whole.run(begin, whole, told)
    for number in range(told["opened"] + 1, whole.disk.call_count, STRIDE):
        bench, told = Bench(SHAPES[options], options=options), {"flushed": 0}
        bench.disk.kill_at(number, power_cut=power)

        async def main(bench=bench, told=told):
            try:
                await begin(bench, told)
            except (MqcoreError, OSError):
                assert not bench.disk.alive

        bench.run(main)
        bench.crash(power=power)
        try:
            bench.run(check, bench, told["flushed"])
        except (AssertionError, MqcoreError) as error:
            raise AssertionError(f"call {number}: {error}") from error


def test_a_log_that_exists_cannot_be_begun_anew():
    bench = Bench()

    async def main():
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            await log.append([b"x"])
            with pytest.raises(ValueError, match="exists already"):
                await storage.begin_log("log", START)
            assert await read_all(log) == b"x"

    bench.run(main)


@pytest.mark.parametrize("options", ["level=1", "level=10&stripe_bytes=4096"])
def test_a_member_is_rebuilt_with_a_log_that_was_begun_above_zero(options):
    bench = Bench(SHAPES[options], options=options)

    async def main():
        async with bench.opened() as storage:
            log = await storage.begin_log("log", START)
            await log.append([DATA])
            await storage.flush([log])
            await storage.operate("eject", {"member": "/a"})
            await storage.operate("rebuild", {"member": "/a"})
            while set(states(storage)) != {"in-sync"}:
                await log.append([b"more"])
                await storage.flush([log])
            wanted = await read_all(log)
        remove_tree(bench.disk, "/b")
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            assert log.start == START
            assert await read_all(log) == wanted

    bench.run(main)
