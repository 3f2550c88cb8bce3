"""The group commit by itself: one flush for everything that came while the last one ran, and due times kept."""

from __future__ import annotations

import trio
from alone import alone

from mqcore.errors import StorageError
from mqcore.guarantees import NoFlush
from mqcore.protocol import Code
from mqcore.testing import run_simulation


def test_everything_that_came_while_a_flush_ran_shares_the_next() -> None:
    async def main() -> None:
        async with alone() as setup:
            partitions = [await setup.partition(f"lines-{number}") for number in range(5)]
            setup.disk.stall_next("flush", 5.0)
            await partitions[0].append([setup.send(0)])
            await trio.sleep(1)
            for _ in range(3):
                for partition in partitions:
                    await partition.append([setup.send(1)])
            assert setup.group_commit.flushes == 1
            await trio.sleep(10)
            assert (setup.group_commit.flushes, setup.group_commit.logs_flushed) == (2, 6)
            assert len(setup.sink.answers) == 16

    run_simulation(main, seed=1)


def test_replies_of_one_flush_are_sent_once_for_each_connection_and_at_once() -> None:
    async def main() -> None:
        async with alone() as setup:
            partitions = [await setup.partition(f"lines-{number}") for number in range(5)]
            setup.disk.stall_next("flush", 5.0)
            await partitions[0].append([setup.send(0)])
            await trio.sleep(1)
            for partition in partitions:
                await partition.append([setup.send(1), setup.send(2)])
            await trio.sleep(10)
            assert (setup.group_commit.flushes, len(setup.sink.answers)) == (2, 11)
            assert setup.sink.sends == [True, True]

    run_simulation(main, seed=1)


def test_a_log_is_flushed_when_it_is_due_and_an_earlier_wish_stands() -> None:
    async def main() -> None:
        async with alone() as setup:
            first, second, later = [await setup.partition(f"lines-{n}", flush=NoFlush()) for n in range(3)]
            for partition in (first, second, later):
                await partition.append([setup.send(1)])
            now_us = setup.ports.clock.monotonic_us()
            setup.group_commit.flush_by(later, now_us + 30_000_000)
            setup.group_commit.flush_by(first, now_us + 2_000_000)
            setup.group_commit.flush_by(first, now_us + 9_000_000)
            setup.group_commit.flush_by(second, now_us + 9_000_000)
            setup.group_commit.flush_by(second, now_us + 4_000_000)
            for passed_s, flushed in ((1, 0), (2, 1), (2, 2), (20, 2), (10, 3)):
                await trio.sleep(passed_s)
                durable = [partition.log.durable_offset for partition in (first, second, later)]
                assert durable == [1] * flushed + [0] * (3 - flushed)
            assert setup.group_commit.flushes == 3

    run_simulation(main, seed=1)


def test_a_partition_that_goes_away_takes_its_wishes_with_it() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition(flush=NoFlush())
            await partition.append([setup.send(1)])
            setup.group_commit.flush_by(partition, setup.ports.clock.monotonic_us() + 1_000_000)
            setup.group_commit.flush_soon(partition)
            setup.group_commit.forget(partition)
            await trio.sleep(5)
            assert setup.group_commit.flushes == 0

    run_simulation(main, seed=1)


def test_g11_a_failed_flush_stops_the_partitions_that_it_was_for_and_they_are_flushed_no_more() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            setup.disk.fail_next_flush()
            await partition.append([setup.send(1)])
            await trio.sleep(1)
            assert partition.failure is not None
            setup.group_commit.flush_soon(partition)
            await trio.sleep(1)
            assert setup.group_commit.flushes == 1

    run_simulation(main, seed=1)


def test_g11_a_log_that_was_left_out_because_it_failed_stops_its_partition_and_is_not_flushed_again_at_once() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            setup.disk.stall_next("flush", 5.0)
            await partition.append([setup.send(1)])
            partition.log.flush_failed(StorageError("found by a read", kind="flush"), frozenset({"lines-0"}))
            partition.flushed()
            assert setup.sink.answers == [(1, Code.FLUSH_FAILED)]
            await trio.sleep(10)
            assert setup.group_commit.flushes <= 1

    run_simulation(main, seed=1)
