"""Striped logs: where each byte lies, and what a crash leaves of logs whose units lie on several groups."""

from __future__ import annotations

import errno
import random

import pytest
from array_parts import Bench, put, read_all, states
from hypothesis import given
from hypothesis import strategies as st

from mqcore.errors import MqcoreError, StorageError
from mqcore.guarantees import Level
from mqcore_raid._stripes import SEAL_BYTES, Stripes

STRIPED = "level=0&stripe_bytes=4096"
BOTH = "level=10&stripe_bytes=4096"
shapes = st.builds(Stripes, st.just(4096), st.integers(1, 4), st.integers(0, 3)).map(
    lambda shape: Stripes(shape.stripe_bytes, shape.groups, shape.first % shape.groups)
)
positions = st.integers(0, 20 * 4096)


def ends_at(shape: Stripes, end: int) -> list[int]:
    """What each group holds of a log of ``end`` bytes, without the seals of its last units."""
    ends = [0] * shape.groups
    for unit, offset, size in shape.pieces(0, end):
        ends[shape.group_of(unit)] = shape.begin(unit) + offset + size
    return ends


@given(shape=shapes, end=positions)
def test_ends_of_the_groups_give_the_end_of_the_log(shape, end):
    ends = ends_at(shape, end)
    assert shape.reach(ends) == end
    assert shape.whole_below(ends) >= end
    sealed = [end + SEAL_BYTES if end and end % (4096 + SEAL_BYTES) == 4096 else end for end in ends]
    assert shape.reach(sealed) == end


@given(shape=shapes, end=positions, lost=st.integers(0, 5000), data=st.data())
def test_a_group_that_holds_less_leaves_less_of_the_log_whole(shape, end, lost, data):
    ends = ends_at(shape, end)
    group = data.draw(st.integers(0, shape.groups - 1))
    ends[group] = max(0, ends[group] - lost)
    whole = shape.whole_below(ends)
    for unit, offset, size in shape.pieces(0, min(whole, end)):
        assert shape.begin(unit) + offset + size <= ends[shape.group_of(unit)]


@given(shape=shapes, end=positions, position=positions)
def test_what_a_cut_leaves_on_each_group_is_what_a_log_of_that_length_holds(shape, end, position):
    position = min(position, end)
    cut = [min(there, shape.local(group, position)) for group, there in enumerate(ends_at(shape, end))]
    wanted = ends_at(shape, position)
    sealed = [each + SEAL_BYTES if each and each % (4096 + SEAL_BYTES) == 4096 else each for each in wanted]
    assert all(one in pair for one, pair in zip(cut, zip(wanted, sealed, strict=True), strict=True))


def test_one_log_lies_on_every_group():
    bench = Bench("abcd", options=BOTH)

    async def main():
        async with bench.opened() as storage:
            await put(storage, bytes(range(256)) * 100)

    bench.run(main)
    for member in bench.members:
        segments = [path for path in bench.disk.paths() if path.startswith(f"{member}/storage/segments/log@")]
        assert sum(bytes(range(256)) in bench.disk.content(path) for path in segments) > 0


def test_the_level_of_a_striped_log_is_that_of_its_worst_group():
    bench = Bench("abcd", options=BOTH)

    async def main():
        async with bench.opened() as storage:
            log = await put(storage, b"x" * 20_000)
            assert log.level is Level.MIRROR
            bench.take_away("/c")
            log = await put(storage, b"y" * 20_000)
            assert log.level is Level.DISK
            assert states(storage) == ["in-sync", "in-sync", "ejected", "in-sync"]
            assert await read_all(log) == b"x" * 20_000 + b"y" * 20_000

    bench.run(main)


def test_an_append_that_one_group_has_no_room_for_leaves_nothing_on_the_other():
    bench = Bench(options=STRIPED)

    async def main():
        async with bench.opened() as storage:
            log = await put(storage, b"x" * 4000)
            other = next(
                f"/{name}" for name in "ab" if "log@" not in " ".join(bench.disk.list(f"/{name}/storage/segments"))
            )
            bench.disk.fail_next("pwritev", errno.ENOSPC, path=f"{other}/storage/*")
            with pytest.raises(StorageError, match="No space") as caught:
                await log.append([b"y" * 20_000])
            assert (caught.value.kind, caught.value.appended, log.end) == ("full", False, 4000)
            assert await read_all(log) == b"x" * 4000
            assert await log.append([b"z" * 9000]) == 4000
            await storage.flush([log])
        async with bench.opened() as storage:
            assert await read_all(await storage.open_log("log")) == b"x" * 4000 + b"z" * 9000

    bench.run(main)


@pytest.mark.parametrize("options", [STRIPED, BOTH])
def test_g01_a_power_cut_at_any_call_takes_nothing_that_was_flushed(options):
    members = "ab" if options == STRIPED else "abcd"

    def bench_of(number: int | None) -> tuple[Bench, bytearray, list[int]]:
        bench = Bench(members, options=options)
        data, flushed = bytearray(), [0]
        if number is not None:
            bench.disk.kill_at(number, power_cut=True)

        async def main():
            rng = random.Random(3)
            try:
                async with bench.opened() as storage:
                    log = await storage.open_log("log")
                    for _ in range(8):
                        piece = bytes([rng.randrange(1, 256)]) * rng.choice((700, 3000, 9000))
                        data.extend(piece)
                        await log.append([piece])
                        if rng.random() < 0.6:
                            await storage.flush([log])
                            flushed.append(len(data))
            except (MqcoreError, OSError):
                assert not bench.disk.alive

        bench.run(main)
        return bench, data, flushed

    async def check(bench, data, flushed):
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            assert log.end >= flushed[-1]
            assert await read_all(log, flushed[-1]) == data[: flushed[-1]]
            assert log.durable_end >= (flushed[-2] if len(flushed) > 1 else 0), "at most one flush behind"
            await log.truncate(flushed[-1])
            await log.append([b"later" * 1000])
            await storage.flush([log])
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            assert await read_all(log) == data[: flushed[-1]] + b"later" * 1000

    whole, _, _ = bench_of(None)
    for number in range(1, whole.disk.call_count, 7):
        bench, data, flushed = bench_of(number)
        bench.crash()
        bench.run(check, bench, data, flushed)


@pytest.mark.parametrize("at", [0, 1, 4096, 5000, 8192, 12_000])
def test_a_striped_log_that_is_truncated_and_trimmed_goes_on_where_it_was_cut(at):
    bench = Bench("abcd", options=BOTH)
    content = random.Random(1).randbytes(30_000)

    async def main():
        async with bench.opened() as storage:
            log = await put(storage, content)
            await log.truncate(at)
            assert await log.append([b"new" * 4000]) == at
            await storage.flush([log])
            start = await log.trim(at)
            assert log.start == start <= at
        async with bench.opened() as storage:
            log = await storage.open_log("log")
            assert log.start == start
            assert await read_all(log) == (content[:at] + b"new" * 4000)[start:]

    bench.run(main)
