"""Retention by age and by size, on the primary alone, beside publishers (R15)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mqcore.abc import Notice
from mqcore.broker import Node, open_broker
from mqcore.broker._retention import Retention, _stands_at
from mqcore.client import Client, connect
from mqcore.errors import CommandNotPossibleError, MessagesMissingError, MqcoreError, StorageError
from mqcore.log import QUARANTINE_MARK, LogStart, PartitionLog
from mqcore.ports import ClockStep, system_ports
from mqcore.testing import ModelDisk, model_ports, run_beside_broker, seeded

HOUR_MS = 3_600_000
VALUE = b"v" * 1000


class Clocks:
    """A wall clock that is set by the test, and one since boot."""

    def __init__(self, node: Node) -> None:
        self._real = node.reign.retention._clock  # type: ignore[union-attr]
        self.set_by_ms = 0
        self.passed_ms = 0

    def wall_ms(self) -> int:
        return self._real.wall_ms() + self.set_by_ms + self.passed_ms

    def boottime_us(self) -> int:
        return self._real.boottime_us() + self.passed_ms * 1000


def retention_of(node: Node) -> tuple[Retention, Clocks]:
    assert node.reign is not None
    retention, clocks = node.reign.retention, Clocks(node)
    retention._clock = clocks  # type: ignore[assignment]
    retention.step = ClockStep(clocks, 60_000)  # type: ignore[arg-type]
    return retention, clocks


async def send(client: Client, topic: str, count: int, value: bytes = VALUE, **options: Any) -> None:
    async with client.producer(topic, **options) as producer:
        for _ in range(count):
            await producer.send(value)


async def log_of(node: Node, client: Client, topic: str) -> PartitionLog:
    assert node.reign is not None
    found = node.reign.topics.get(topic)
    return (await node.reign.open_partition(found.id, 0)).log


def with_topics(test: Any, **topics: Any) -> None:
    async def run(node: Node) -> None:
        async with connect(node.urls[0]) as client:
            await test(node, client)

    run_beside_broker(run, topics=topics)


def test_r15_a_log_that_holds_more_than_its_bound_gives_up_its_oldest_messages_and_no_more() -> None:
    async def test(node: Node, client: Client) -> None:
        retention, _ = retention_of(node)
        await send(client, "bounded", 100)
        await send(client, "kept", 100)
        bounded, kept = await log_of(node, client, "bounded"), await log_of(node, client, "kept")
        await retention.look()
        assert 40_000 <= bounded.bytes_total <= 40_000 + 3 * 4096
        assert kept.start_offset == 0
        before = bounded.start_offset, bounded.end_position
        await retention.look()
        assert (bounded.start_offset, bounded.end_position) == before, "nothing more is beyond the bound"

    with_topics(test, bounded={"retention_bytes": 40_000}, kept={})


def test_r15_messages_that_are_older_go_and_the_newest_batch_stays() -> None:
    async def test(node: Node, client: Client) -> None:
        retention, clocks = retention_of(node)
        await send(client, "hourly", 20)
        log = await log_of(node, client, "hourly")
        clocks.passed_ms = HOUR_MS // 2
        await retention.look()
        assert log.start_offset == 0
        clocks.passed_ms = 2 * HOUR_MS
        await retention.look()
        assert log.start_offset == 19
        assert [each.number for each in log.history] == [node.store.epoch]
        await send(client, "hourly", 1, b"goes on")
        assert log.end_offset == 21

    with_topics(test, hourly={"retention_ms": HOUR_MS})


def test_r15_a_wall_clock_that_was_set_stops_trimming_by_age_until_it_agrees_or_is_confirmed() -> None:
    async def test(node: Node, client: Client) -> None:
        retention, clocks = retention_of(node)
        await send(client, "hourly", 20)
        log = await log_of(node, client, "hourly")
        clocks.set_by_ms = 10 * HOUR_MS
        await retention.look()
        assert log.start_offset == 0
        clocks.set_by_ms = 0
        await retention.look()
        assert log.start_offset == 0
        clocks.set_by_ms = 10 * HOUR_MS
        await retention.look()
        assert log.start_offset == 0
        await client._router.call("retention.confirm", {}, is_repeatable=False)
        await retention.look()
        assert log.start_offset == 19

    with_topics(test, hourly={"retention_ms": HOUR_MS})


def test_r15_a_wall_clock_that_was_set_while_the_broker_was_down_stops_trimming_by_age_too(tmp_path: Path) -> None:
    real = system_ports()
    ahead_ms = 0

    class SetClock:
        def __getattr__(self, name: str) -> Any:
            return getattr(real.clock, name)

        def wall_ms(self) -> int:
            return real.clock.wall_ms() + ahead_ms

    ports = attrs.evolve(real, clock=SetClock())
    settings: dict[str, Any] = {"storage": f"mmap://{tmp_path}", "listen": ["inproc://clock-set"], "ports": ports}

    async def starts_after(*acts: str) -> list[int]:
        found = []
        async with open_broker(**settings, topics={"hourly": {"retention_ms": HOUR_MS}}) as broker:
            async with connect(broker.urls[0]) as client:
                for act in acts:
                    if act == "send":
                        await send(client, "hourly", 20)
                    elif act == "confirm":
                        await client.admin.confirm_clock()
                    assert broker.reign is not None
                    await broker.reign.retention.look()
                    found.append((await log_of(broker, client, "hourly")).start_offset)
        return found

    async def main() -> None:
        nonlocal ahead_ms
        assert await starts_after("send") == [0]
        ahead_ms = 10 * HOUR_MS
        assert await starts_after("look", "confirm", "send") == [0, 19, 20]
        assert await starts_after("look") == [20]
        ahead_ms = 20 * HOUR_MS
        assert await starts_after("look") == [20], "the stop before has kept what was confirmed, and no more"

    trio.run(main)


def test_r15_all_logs_together_are_bounded_and_the_oldest_messages_go_first() -> None:
    async def test(node: Node, client: Client) -> None:
        retention, clocks = retention_of(node)
        await send(client, "older", 50)
        await send(client, "newer", 50)
        older, newer = await log_of(node, client, "older"), await log_of(node, client, "newer")
        first = {older.name: (0, clocks.wall_ms() - HOUR_MS)}
        retention._first_ms.update(first)
        await retention.look()
        assert older.bytes_total + newer.bytes_total <= 60_000 + 4096
        assert older.start_offset > 0

    async def run(node: Node) -> None:
        async with connect(node.urls[0]) as client:
            await test(node, client)

    run_beside_broker(run, topics={"older": {}, "newer": {}}, retention={"total_bytes": "60 KB"})


@pytest.mark.parametrize("policy", ["error", "earliest", "latest"])
def test_g06_a_reader_below_the_start_is_told_where_the_start_is_or_goes_where_it_chose(policy: str) -> None:
    async def test(node: Node, client: Client) -> None:
        retention, _ = retention_of(node)
        await send(client, "bounded", 100)
        await retention.look()
        log = await log_of(node, client, "bounded")
        assert log.start_offset > 0
        async with client.consumer("bounded", start=0, on_trimmed=policy) as consumer:
            if policy == "error":
                with pytest.raises(MessagesMissingError, match="were trimmed") as caught:
                    await anext(consumer)
                assert caught.value.position == log.start_offset
            if policy == "latest":
                with trio.move_on_after(1) as waited:
                    await anext(consumer)
                assert waited.cancelled_caught, "there is nothing new yet"
                await send(client, "bounded", 1, b"new")
            message = await anext(consumer)
            assert message.offset == (100 if policy == "latest" else log.start_offset)

    with_topics(test, bounded={"retention_bytes": 40_000})


def test_r15_a_trim_that_was_told_and_not_done_is_done_when_the_log_is_opened_again() -> None:
    async def test(node: Node, client: Client) -> None:
        reign = node.reign
        assert reign is not None
        await send(client, "bounded", 50)
        log = await log_of(node, client, "bounded")
        later, earlier = await log.start_at(30), await log.start_at(10)
        assert later is not None
        assert earlier is not None
        await reign.topics.write_starts({log.name: later})
        assert log.start_offset == 0
        key = (reign.topics.get("bounded").id, 0)
        await reign.retire_partitions(key[0], 0, CommandNotPossibleError("opened anew"))
        del reign.store._logs[log.name]
        again = await reign.open_partition(*key)
        assert again.log.start_offset == 30
        assert reign.topics.starts == {log.name: later}
        await reign.topics.write_starts({log.name: earlier})
        assert reign.topics.starts == {log.name: later}, "a log's start never goes back"

    with_topics(test, bounded={})


def test_r15_a_log_that_lost_more_than_was_trimmed_goes_on_at_its_start_and_keeps_what_is_sent_then() -> None:
    async def test(node: Node, client: Client) -> None:
        reign = node.reign
        assert reign is not None
        await send(client, "bounded", 50)
        log = await log_of(node, client, "bounded")
        found = await log.start_at(40)
        assert found is not None
        begins = LogStart(found.offset, found.position)  # of an earlier reign than the one that goes on there
        await log.truncate(30)  # as a power cut leaves a log that was not flushed
        await reign.topics.write_starts({log.name: begins})
        key = (reign.topics.get("bounded").id, 0)
        await reign.retire_partitions(key[0], 0, CommandNotPossibleError("opened anew"))
        del reign.store._logs[log.name]
        await send(client, "bounded", 5, b"later")
        await reign.retention.look()
        again = await log_of(node, client, "bounded")
        assert (again.start_offset, again.start_position, again.end_offset) == (40, begins.position, 45)
        async with client.consumer("bounded", start="start") as consumer:
            assert [(await anext(consumer)).offset for _ in range(5)] == list(range(40, 45))

    with_topics(test, bounded={})


def test_r15_a_log_that_has_other_batches_where_it_is_to_begin_begins_there_empty_and_they_are_kept() -> None:
    async def test(node: Node, client: Client) -> None:
        reign = node.reign
        assert reign is not None
        await send(client, "bounded", 50)
        log = await log_of(node, client, "bounded")
        found = await log.start_at(40)
        assert found is not None
        assert await _stands_at(log, found)
        assert await _stands_at(log, LogStart(found.offset, found.position)), "which reign wrote it is not known"
        assert not await _stands_at(log, found._replace(reign_id=b"of another reign"))
        begins = LogStart(found.offset, found.position - 1)  # of an earlier reign than the one that goes on there
        await reign.topics.write_starts({log.name: begins})
        key = (reign.topics.get("bounded").id, 0)
        await reign.retire_partitions(key[0], 0, CommandNotPossibleError("opened anew"))
        del reign.store._logs[log.name]
        await send(client, "bounded", 5, b"later")
        again = await log_of(node, client, "bounded")
        assert (again.start_offset, again.start_position, again.end_offset) == (40, begins.position, 45)
        aside = [each for each in await reign.store.backend.list_logs() if each.startswith(log.name + QUARANTINE_MARK)]
        assert len(aside) == 1

    with_topics(test, bounded={})


def test_r15_a_log_whose_first_batch_rotted_is_trimmed_to_it_and_not_begun_anew() -> None:
    async def test(node: Node, client: Client) -> None:
        reign = node.reign
        assert reign is not None
        await send(client, "bounded", 50)
        log = await log_of(node, client, "bounded")
        begins = await log.start_at(40)
        assert begins is not None
        (header,) = (await log.read_stored(begins.position, 1, log.end_position)).chunks
        await log._log.overwrite(begins.position, bytes([header[0] ^ 0xFF]))
        await reign.topics.write_starts({log.name: begins})
        key = (reign.topics.get("bounded").id, 0)
        await reign.retire_partitions(key[0], 0, CommandNotPossibleError("opened anew"))
        again = (await reign.open_partition(*key)).log
        assert (again.start_offset, again.start_position, again.end_offset) == (40, begins.position, 50)

    async def run(node: Node) -> None:
        async with connect(node.urls[0]) as client:
            await test(node, client)

    disk = ModelDisk(seeded(0, "disk"))
    run_beside_broker(run, topics={"bounded": {}}, storage="mmap:///data", ports=model_ports(0, disk))


@pytest.mark.parametrize("seed", [0])
def test_r15_a_disk_that_is_full_is_freed_by_retention_and_takes_messages_again(seed: int) -> None:
    disk = ModelDisk(seeded(seed, "disk"))
    segment = 256 * 1024
    keys = {"storage": f"mmap:///data?segment_bytes={segment}", "ports": model_ports(seed, disk)}

    async def run(node: Node) -> None:
        retention, _ = retention_of(node)
        async with connect(node.urls[0]) as client:
            await send(client, "kept", 1, b"kept")
            await send(client, "bounded", 50)
            await retention.look()
            await send(client, "bounded", 650)
            disk.bytes_max = disk.used_bytes + 10_000 * seed
            with pytest.raises(MqcoreError):
                await send(client, "bounded", 100_000, delivery_timeout_ms=1000)
            for _ in range(3):
                with contextlib.suppress(MqcoreError):
                    await retention.look()
            await send(client, "bounded", 20)
            async with client.consumer("kept", start="start") as consumer:
                assert (await anext(consumer)).value == b"kept"

    topics: dict[str, Any] = {"bounded": {"retention_bytes": segment}, "kept": {}}
    run_beside_broker(run, seed=seed, topics=topics, flush="sync", **keys)


@pytest.mark.parametrize("bounds", [{}, {"total_bytes": 60_000}])
def test_r15_a_log_that_cannot_be_read_or_trimmed_holds_up_no_other(bounds: dict[str, int]) -> None:
    """A sector of one log that cannot be read: the disk would fill with all the others."""

    async def test(node: Node, client: Client) -> None:
        retention, _ = retention_of(node)
        retention.table = attrs.evolve(retention.table, **bounds)
        notices: list[Notice] = []
        retention._report = notices.append
        for topic in ("a", "b", "c"):
            await send(client, topic, 100)
        unreadable, untrimmed, sound = [await log_of(node, client, topic) for topic in ("a", "b", "c")]

        async def fail(*_: Any, **__: Any) -> Any:
            raise StorageError("a sector cannot be read", kind="io")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PartitionLog, "start_at", _but_for(unreadable, fail, PartitionLog.start_at))
            patch.setattr(PartitionLog, "batch_at", _but_for(unreadable, fail, PartitionLog.batch_at))
            patch.setattr(PartitionLog, "trim", _but_for(untrimmed, fail, PartitionLog.trim))
            for _ in range(2):
                await retention.look()
        assert sound.bytes_total <= 40_000 + 3 * 4096
        assert {notice.facts["log"] for notice in notices} == {unreadable.name, untrimmed.name}
        assert len(notices) == 2, "each is told of once"
        await retention.look()
        assert max(unreadable.bytes_total, untrimmed.bytes_total) <= 40_000 + 3 * 4096

    config = {"retention_bytes": 40_000}
    with_topics(test, a=config, b=config, c=config)


def _but_for(log: PartitionLog, act: Any, otherwise: Any) -> Any:
    async def call(self: PartitionLog, *args: Any, **options: Any) -> Any:
        return await (act if self is log else otherwise)(self, *args, **options)

    return call
