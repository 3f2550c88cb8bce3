"""A mirror on the model disk, killed or cut off at any call, with or without a member that fails: whatever was
acknowledged is on every member that still counts (G01, G10, G17; guarantees sections 4 and 7)."""

from __future__ import annotations

import random

import attrs
import pytest
from array_parts import Bench, read_all, states

from mqcore.errors import MqcoreError
from mqcore.guarantees import Level

NAMES = ("a", "b")
STEPS = 12


@attrs.define
class Truth:
    """``data``: every byte that a log may have, ``flushed``: what was acknowledged after a flush, at ``level``."""

    data: dict[str, bytearray] = attrs.field(factory=lambda: {name: bytearray() for name in NAMES})
    flushed: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(NAMES, 0))
    mirrored: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(NAMES, 0))


async def work(bench: Bench, truth: Truth, rng: random.Random) -> None:
    async with bench.opened() as storage:
        logs = {name: await storage.open_log(name) for name in NAMES}
        for name, log in logs.items():
            await log.truncate(len(truth.data[name])) if log.end > len(truth.data[name]) else None
        for _ in range(STEPS):
            name = rng.choice(NAMES)
            if rng.random() < 0.6:
                piece = bytes([rng.randrange(1, 256)]) * rng.choice((1, 511, 700, 3000))
                truth.data[name] += piece
                assert await logs[name].append([piece]) == len(truth.data[name]) - len(piece)
            else:
                ends = {each: len(truth.data[each]) for each in NAMES}
                for each, reached in zip(NAMES, await storage.flush(list(logs.values())), strict=True):
                    assert reached.end == ends[each]
                    truth.flushed[each] = reached.end
                    if reached.level is Level.MIRROR:
                        truth.mirrored[each] = reached.end


async def check(bench: Bench, truth: Truth, wanted: dict[str, int]) -> list[str]:
    """Open and find what is ``wanted``; return the states of the members."""
    async with bench.opened() as storage:
        for name in NAMES:
            log = await storage.open_log(name)
            assert log.end >= wanted[name], f"{name} ends at {log.end}, {wanted[name]} was acknowledged"
            assert await read_all(log, wanted[name]) == truth.data[name][: wanted[name]]
            await log.truncate(wanted[name])
            await log.append([b"later"])
            assert [each.end for each in await storage.flush([log])] == [wanted[name] + 5]
        return list(states(storage))


def life(bench: Bench, truth: Truth, seed: int) -> None:
    async def main():
        try:
            await work(bench, truth, random.Random(f"{seed}/work"))
        except (MqcoreError, OSError):
            assert not bench.disk.alive or bench.disk.witnesses["flush-error"] > 1

    bench.run(main)


def calls_of(seed: int, trouble) -> int:
    bench = Bench(seed=seed)
    trouble(bench)
    life(bench, Truth(), seed)
    return bench.disk.call_count


def no_trouble(bench: Bench) -> None:
    pass


def flush_error(bench: Bench) -> None:
    bench.disk.fail_next_flush(path="/b/storage/segments/*")


def write_error(bench: Bench) -> None:
    bench.disk.fail_next("pwritev", path="/a/storage/segments/*", after=6)


@pytest.mark.parametrize("trouble", [no_trouble, flush_error, write_error])
@pytest.mark.parametrize("power", [True, False], ids=["power-cut", "kill"])
def test_what_was_acknowledged_is_on_every_member_after_a_crash_at_any_call(power, trouble):
    seed = 0
    for number in range(1, calls_of(seed, trouble) + 1, 5):
        bench, truth = Bench(seed=seed), Truth()
        trouble(bench)
        bench.disk.kill_at(number, power_cut=power)
        life(bench, truth, seed)
        bench.disk.heal()
        bench.crash(power=power)
        for lost in (None, *bench.members):
            fork = bench.fork()
            if lost is not None and lost[1:] in fork.disk.list("/"):
                fork.take_away(lost)
            try:
                fork.run(check, fork, truth, truth.flushed if lost is None else truth.mirrored)
            except AssertionError as error:
                raise AssertionError(f"call {number}, without {lost}: {error}") from None


def test_a_crash_at_any_call_of_an_ejection_leaves_the_failed_member_out_of_what_counts():
    def bench_with_trouble():
        bench = Bench(seed=5)
        bench.disk.fail_next_flush(path="/b/storage/segments/*")
        return bench

    async def first(bench, truth):
        async with bench.opened() as storage:
            log = await storage.open_log("a")
            truth.data["a"] += b"x" * 900
            await log.append([b"x" * 900])
            await storage.flush([log])
            truth.flushed["a"] = 900
            truth.data["a"] += b"y" * 900
            await log.append([b"y" * 900])
            await storage.flush([log])
            truth.flushed["a"] = 1800

    whole = bench_with_trouble()
    whole.run(first, whole, Truth())
    for number in range(1, whole.disk.call_count + 1):
        bench, truth = bench_with_trouble(), Truth()
        bench.disk.kill_at(number, power_cut=True)

        async def main(bench=bench, truth=truth):
            try:
                await first(bench, truth)
            except (MqcoreError, OSError):
                assert not bench.disk.alive

        bench.run(main)
        bench.disk.heal()
        bench.crash()
        bench.run(check, bench, truth, truth.flushed)
