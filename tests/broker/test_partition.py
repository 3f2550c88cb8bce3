"""A partition by itself: what it appends, answers and wakes, with the log and the group commit of a broker."""

from __future__ import annotations

import pytest
import trio
from alone import IN_CACHE, ON_DISK, alone

from mqcore.errors import CommandNotPossibleError, FlushFailedError, OutcomeUnknownError, StorageError
from mqcore.guarantees import AsyncFlush, NoFlush
from mqcore.protocol import Code, SendPolicy
from mqcore.testing import run_simulation


def test_g14_a_reply_goes_after_the_flush_and_states_its_level() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            setup.disk.stall_next("flush", 5.0)
            await partition.append([setup.send(1, [b"a", b"b"]), setup.send(2)])
            assert (setup.sink.answers, partition.committed_offset) == ([], 0)
            await trio.sleep(6)
            assert setup.sink.answers == [(1, 0, ON_DISK, False), (2, 2, ON_DISK, False)]
            assert partition.committed_offset == 3

    run_simulation(main, seed=1)


def test_g08_a_weaker_send_is_answered_before_it_is_visible() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition(weakest_send=NoFlush())
            setup.disk.stall_next("flush", 5.0)
            await partition.append([setup.send(1, policy=SendPolicy.NONE)])
            assert setup.sink.answers == [(1, 0, IN_CACHE, False)]
            assert partition.committed_offset == 0
            await trio.sleep(6)
            assert partition.committed_offset == 1

    run_simulation(main, seed=1)


def test_r12_a_retry_waits_for_the_flush_of_the_original() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            setup.disk.stall_next("flush", 5.0)
            for request_id in (1, 2):
                await partition.append([setup.send(request_id, producer_id=7)])
            assert setup.sink.answers == []
            assert partition.log.end_offset == 1
            await trio.sleep(6)
            assert setup.sink.answers == [(1, 0, ON_DISK, False), (2, 0, ON_DISK, True)]
            await partition.append([setup.send(3, producer_id=7)])
            assert setup.sink.answers[2:] == [(3, 0, ON_DISK, True)]

    run_simulation(main, seed=1)


def test_g11_a_failed_flush_ends_what_waits_unknown_and_what_comes_later_rejected() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            await partition.append([setup.send(1)])
            await trio.sleep(1)
            setup.disk.fail_next_flush()
            await partition.append([setup.send(2)])
            await trio.sleep(1)
            await partition.append([setup.send(3)])
            assert setup.sink.answers[1:] == [(2, Code.FLUSH_FAILED), (3, Code.STORAGE_STOPPED)]
            assert partition.committed_offset == 1
            refusal = partition.refusal(SendPolicy.TOPIC)
            assert refusal is not None
            assert refusal[0] == Code.STORAGE_STOPPED

    run_simulation(main, seed=1)


def test_g03_a_topic_with_bounds_is_flushed_by_its_interval_without_further_sends() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition(flush=AsyncFlush(max_interval_ms=1_000))
            await partition.append([setup.send(1)])
            assert setup.sink.answers == [(1, 0, IN_CACHE, False)]
            await trio.sleep(0.4)
            assert partition.log.durable_offset == 0
            await trio.sleep(0.5)
            assert partition.log.durable_offset == 1

    run_simulation(main, seed=1)


def test_appends_of_one_partition_take_turns_in_the_order_of_their_calls() -> None:
    async def main() -> None:
        async with alone() as setup, trio.open_nursery() as nursery:
            partition = await setup.partition(flush=NoFlush())
            await partition.append([setup.send(0)])
            setup.disk.stall_next("pwritev", 5.0)
            for request_id in (1, 2, 3):
                nursery.start_soon(partition.append, [setup.send(request_id, [b"x" * 600_000])])
                await trio.sleep(0.1)
            await trio.sleep(20)
            assert [answer[:2] for answer in setup.sink.answers] == [(0, 0), (1, 1), (2, 2), (3, 3)]

    run_simulation(main, seed=1)


def test_a_send_that_leaves_while_it_waits_for_its_turn_holds_up_no_other() -> None:
    async def main() -> None:
        async with alone() as setup, trio.open_nursery() as nursery:
            partition = await setup.partition(flush=NoFlush())
            await partition.append([setup.send(0)])
            setup.disk.stall_next("pwritev", 5.0)
            nursery.start_soon(partition.append, [setup.send(1, [b"x" * 600_000])])
            await trio.sleep(0.1)
            with trio.move_on_after(1):
                await partition.append([setup.send(2)])
            await partition.append([setup.send(3)])
            assert [answer[:2] for answer in setup.sink.answers] == [(0, 0), (1, 1), (3, 2)]

    run_simulation(main, seed=1)


def test_a_commit_wakes_the_fetches_that_it_passed_and_no_others() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition(flush=NoFlush())
            for request_id, offset in ((1, 2), (2, 0), (3, 1), (4, 0)):
                partition.park(offset, setup.sink, request_id)
            partition.forget_parked(setup.sink, 4)
            await partition.append([setup.send(9, [b"a", b"b"])])
            assert setup.sink.woken == [2, 3]
            await partition.append([setup.send(9)])
            assert setup.sink.woken == [2, 3, 1]

    run_simulation(main, seed=1)


def test_r13_a_batch_of_the_brokers_own_is_returned_once_it_is_committed() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            setup.disk.stall_next("flush", 5.0)
            started = trio.current_time()
            assert await partition.commit(lambda: setup.send(0).batch) == 0
            assert 5 <= trio.current_time() - started < 6
            assert partition.committed_offset == 1
            setup.disk.fail_next_flush()
            with pytest.raises(FlushFailedError):
                await partition.commit(lambda: setup.send(0).batch)
            with pytest.raises(StorageError, match="takes no appends"):
                await partition.commit(lambda: setup.send(0).batch)

    run_simulation(main, seed=1)


def test_r13_a_batch_of_the_brokers_own_whose_reign_ends_first_ends_unknown() -> None:
    async def main() -> None:
        async with alone() as setup, trio.open_nursery() as nursery:
            partition = await setup.partition()
            setup.disk.stall_next("flush", 5.0)

            async def commit() -> None:
                with pytest.raises(OutcomeUnknownError, match="not committed"):
                    await partition.commit(lambda: setup.send(0).batch)

            nursery.start_soon(commit)
            await trio.sleep(1)
            partition.close(Code.NOT_PRIMARY, CommandNotPossibleError("the reign is over"))

    run_simulation(main, seed=1)
