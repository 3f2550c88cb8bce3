"""A quiet topic beside a busy one: what a log may take of a flush that others wait for."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

import pytest
import trio
import trio.testing
from alone import Alone, alone

import mqcore
from mqcore.broker import Node
from mqcore.broker._flush_share import FlushShare
from mqcore.broker._partition import Partition
from mqcore.errors import CommandNotPossibleError
from mqcore.guarantees import NoFlush
from mqcore.protocol import Code
from mqcore.testing import ModelDisk, model_ports, run_beside_broker, run_simulation, seeded

MIB = 1024 * 1024
DISK_BYTES_PER_S = 60 * MIB
FLUSH_S = 0.01


def test_a_log_that_is_flushed_alone_may_have_any_number_of_bytes_unflushed() -> None:
    share = FlushShare()
    for _ in range(100):
        share.flushed(500_000, is_shared=False, is_little=False, held=False)
    assert share.bytes_max == math.inf


def test_flushes_that_others_wait_for_get_shorter_until_they_take_what_the_fastest_does() -> None:
    share, held = FlushShare(), False
    share.flushed(1_000, is_shared=False, is_little=True, held=False)
    for _ in range(200):
        flushed = min(64 * MIB, share.bytes_max)
        held = share.bytes_max < 64 * MIB
        share.flushed(int(1_000 + flushed / 300), is_shared=True, is_little=False, held=held)  # 1 ms, and 300 MB/s
    assert held
    assert 1_000 + share.bytes_max / 300 < 2_500


@pytest.mark.parametrize("fastest_us", [100, 5_000, 40_000])
def test_a_share_never_ends_and_a_slow_device_is_not_taken_for_a_long_flush(fastest_us: int) -> None:
    share = FlushShare()
    share.flushed(fastest_us, is_shared=False, is_little=True, held=False)
    share.flushed(int(fastest_us * 1.4), is_shared=True, is_little=False, held=True)
    before = share.bytes_max
    share.flushed(int(fastest_us * 1.4), is_shared=True, is_little=False, held=True)
    assert share.bytes_max > before
    for _ in range(200):
        share.flushed(fastest_us * 100, is_shared=True, is_little=False, held=True)
    assert share.bytes_max > 100_000


def test_a_share_is_over_when_nobody_was_there_beside_the_log_for_long() -> None:
    share = FlushShare()
    share.flushed(50_000, is_shared=True, is_little=False, held=False)
    assert share.bytes_max < math.inf
    for _ in range(100):
        share.flushed(50_000, is_shared=False, is_little=False, held=False)
    assert share.bytes_max == math.inf


def test_a_short_flush_of_little_is_no_reason_for_a_larger_share() -> None:
    share = FlushShare()
    share.flushed(50_000, is_shared=True, is_little=False, held=False)
    before = share.bytes_max
    for _ in range(50):
        share.flushed(1_000, is_shared=True, is_little=False, held=False)
    assert share.bytes_max == before


def test_who_is_over_its_share_waits_for_the_flush_and_not_longer() -> None:
    async def main() -> None:
        async with alone() as setup:
            busy, quiet = [await setup.partition(f"lines-{number}") for number in range(2)]
            await busy.append([setup.send(0)])
            await quiet.append([setup.send(1)])
            await trio.sleep(1)
            setup.group_commit.share.bytes_max = 1_000
            setup.disk.stall_next("flush", 5.0)
            begun = trio.current_time()
            await busy.append([setup.send(2, [bytes(2_000)])])
            assert [each.unflushed_bytes > 1_000 for each in (busy, quiet)] == [True, False]
            await busy.room()
            assert 5 <= trio.current_time() - begun < 6
            assert busy.unflushed_bytes == 0

    run_simulation(main, seed=1)


def test_who_waits_for_room_is_let_go_when_the_log_stops_or_its_flusher_ends() -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery, alone() as setup:
            stopping, left = [await setup.partition(f"lines-{number}") for number in range(2)]
            setup.group_commit.share.bytes_max = 1_000
            setup.disk.fail_next_flush()
            await stopping.append([setup.send(0, [bytes(2_000)])])
            await stopping.room()
            assert stopping.failure is not None
            setup.disk.stall_next("flush", 5.0)
            await left.append([setup.send(1, [bytes(2_000)])])
            nursery.start_soon(left.room)
            await trio.testing.wait_all_tasks_blocked()

    run_simulation(main, seed=1)


def test_a_log_that_nobody_wants_flushed_is_never_waited_for() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition(flush=NoFlush())
            setup.group_commit.share.bytes_max = 1_000
            await partition.append([setup.send(0, [bytes(2_000)])])
            assert partition.unflushed_bytes > 1_000
            with trio.fail_after(1):
                await partition.room()

    run_simulation(main, seed=1)


def test_a_quiet_topic_waits_for_a_flush_or_two_beside_a_flood_and_the_flood_goes_on() -> None:
    """On a disk of 60 MiB/s a flood of 4 MiB in flight made every flush take 80 ms, for everybody."""

    async def quiet(producer: mqcore.Producer) -> float:
        waited = []
        for _ in range(40):
            sent = trio.current_time()
            await producer.send(b"quiet")
            waited.append(trio.current_time() - sent)
            await trio.sleep(0.02)
        return statistics.quantiles(waited, n=20)[18]

    async def flood(client: mqcore.Client, counted: list[int]) -> None:
        values = [bytes(256)] * 256
        async with client.producer("busy", batches_in_flight_max=64, batch_messages=256, batch_bytes=MIB) as producer:
            deliveries: deque[mqcore.Delivery] = deque()
            while True:
                deliveries += producer.post_many(values)
                if len(deliveries) >= 64:
                    await deliveries.popleft().wait()
                    counted[0] += 256 * 256

    async def test(node: Node) -> None:
        _as_slow_as_a_disk(node)
        async with mqcore.connect(node.urls[0]) as client, mqcore.connect(node.urls[0]) as other:
            for topic in ("quiet", "busy"):
                await client.admin.create_topic(topic)
            async with client.producer("quiet") as producer, trio.open_nursery() as nursery:
                alone_s = await quiet(producer)
                counted = [0]
                nursery.start_soon(flood, other, counted)
                await quiet(producer)  # until the share has settled
                begun, before = trio.current_time(), counted[0]
                beside_s = await quiet(producer)
                rate = (counted[0] - before) / (trio.current_time() - begun)
                nursery.cancel_scope.cancel()
        assert alone_s < 2 * FLUSH_S
        assert beside_s < 4 * FLUSH_S, f"{beside_s * 1e3:.1f} ms beside a flood, {alone_s * 1e3:.1f} ms alone"
        assert rate > 0.25 * DISK_BYTES_PER_S

    disk = ModelDisk(seeded(1, "disk"))
    run_beside_broker(test, storage="mmap:///data", flush="sync", ports=model_ports(1, disk))


def _as_slow_as_a_disk(node: Node) -> None:
    """Have a flush take a time of its own, and that of its bytes."""
    assert node.reign is not None
    store: Any = node.reign.group_commit._store
    flush = store.flush

    async def slow_flush(logs: Any) -> None:
        before = sum(log.durable_position for log in logs)
        size = sum(log.end_position for log in logs) - before
        await trio.sleep(FLUSH_S + size / DISK_BYTES_PER_S)
        await flush(logs)
        later = sum(log.durable_position for log in logs) - before - size  # appended meanwhile, and covered with it
        await trio.sleep(later / DISK_BYTES_PER_S)

    store.flush = slow_flush


def test_g13_who_waits_for_room_of_a_log_that_stops_before_its_flush_began_is_let_go() -> None:
    """Nobody else has anything to flush: no later flush would ever end, and wake it."""

    async def main(forgotten: bool) -> None:
        async with trio.open_nursery() as nursery, alone() as setup:
            partition = await setup.partition()
            setup.group_commit.share.bytes_max = 1_000
            await partition.append([setup.send(0, [bytes(2_000)])])
            assert partition.is_over_share
            with trio.fail_after(1):
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(partition.room)
                    waiting.start_soon(end, setup, partition, forgotten)
            nursery.cancel_scope.cancel()

    async def end(setup: Alone, partition: Partition, forgotten: bool) -> None:
        while setup.group_commit._flushed is None:  # until it waits
            await trio.lowlevel.checkpoint()
        assert partition.is_over_share
        partition.close(Code.NOT_PRIMARY, CommandNotPossibleError("the reign is over"))
        if forgotten:
            setup.group_commit.forget(partition)

    for forgotten in (False, True):
        run_simulation(main, forgotten, seed=1)
