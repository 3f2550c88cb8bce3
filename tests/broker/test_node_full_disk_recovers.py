"""A disk that is full: what is sent is rejected before it is stored, and all is well again when something is freed."""

from __future__ import annotations

import itertools

import pytest
import trio

from mqcore.abc import Log, Notice, StorageContext
from mqcore.broker import open_broker
from mqcore.client import Client, connect
from mqcore.errors import RejectedError, StorageError
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation

SIZES = "segment_bytes=256KiB&first_extent_bytes=32KiB&extent_bytes_max=64KiB&journal_bytes=64KiB"
STORAGES = {
    "mmap": (f"mmap:///data?{SIZES}", 2 << 20),
    "mirror": (f"raid:///a,/b?{SIZES}", 4 << 20),
    "level 10": (f"raid:///a,/b,/c,/d?level=10&stripe_bytes=65536&{SIZES}", 5 << 20),
}
HOUR_MS = 3_600_000
VALUE = b"v" * 30_000
SMALL = b"v" * 2_000


async def fill(client: Client, *topics: str) -> int:
    """Send until a topic takes no more; return how many were acknowledged."""
    for sent, topic in enumerate(itertools.cycle(topics)):
        try:
            async with client.producer(topic, delivery_timeout_ms=3000) as producer:
                await producer.send(VALUE)
        except RejectedError as error:
            assert error.name == "storage-full"
            return sent
    raise AssertionError("a cycle has no end")


async def count(client: Client, topic: str) -> int:
    ends = [(await client.admin.look_up_offset(topic, 0, at)).offset for at in ("start", "end")]
    return ends[1] - ends[0]


@pytest.mark.parametrize(
    ("freed", "flush"),
    [("one topic", "sync"), ("many topics", "none"), ("a bound set later", "sync"), ("an age", "none")],
)
@pytest.mark.parametrize("storage", STORAGES)
def test_sends_go_on_in_every_topic_when_space_was_freed(storage: str, flush: str, freed: str) -> None:
    url, bytes_max = STORAGES[storage]
    notices: list[Notice] = []

    async def main() -> None:
        disk = ModelDisk(1, bytes_max=bytes_max)
        keys = {"listen": ["inproc://here"], "flush": flush, "ports": model_ports(1, disk), "report": notices.append}
        async with open_broker(storage=url, retention={"check_interval_ms": 60_000}, **keys) as broker:
            async with connect(broker.urls[0]) as client:
                big = [f"t{number}" for number in range(12 if freed == "many topics" else 1)]
                for topic in ["small", *big]:
                    await client.admin.create_topic(
                        topic, config={"retention_ms": HOUR_MS} if freed == "an age" else {}
                    )
                sent = await fill(client, *big)
                assert sent > 20
                if freed in ("one topic", "many topics"):
                    for topic in big:
                        await client.admin.delete_topic(topic)
                elif freed == "an age":
                    await trio.sleep(2 * HOUR_MS / 1000)
                else:
                    await client.admin.alter_topic(big[0], config={"retention_bytes": 300_000})
                    await trio.sleep(180)
                await client.admin.create_topic("new")
                after = ["small", "new"] if "topic" in freed else ["small", "new", *big]
                for topic in after:
                    async with client.producer(topic) as producer:
                        for _ in range(20):
                            await producer.send(SMALL)
                    assert await count(client, topic) >= 20

    run_simulation(main, seconds_max=20_000)
    assert not [each for each in notices if each.kind in ("logs-stopped", "retention-failed")]


async def _append_for_ever(log: Log) -> None:
    while True:
        await log.append([VALUE])


@pytest.mark.parametrize("storage", STORAGES)
def test_what_a_deleted_log_held_is_there_for_logs_that_are_small(storage: str) -> None:
    url, bytes_max = STORAGES[storage]

    async def main() -> None:
        disk = ModelDisk(1, bytes_max=bytes_max)
        backend = create_storage(url, StorageContext(ports=model_ports(1, disk)))
        await backend.open()
        log = await backend.open_log("big")
        with pytest.raises(StorageError) as caught:
            await _append_for_ever(log)
        assert (caught.value.kind, caught.value.appended) == ("full", False)
        held = log.end
        await backend.delete_log("big")
        # Each is given room for as much again and more. Members keep some files ready, each for itself: on four disks
        # that is no matter, here they are one.
        for number in range(held // ((8 if storage == "level 10" else 4) * len(VALUE))):
            other = await backend.open_log(f"small-{number}")
            await other.append([VALUE])
        await backend.aclose()

    run_simulation(main)
