"""G11, G13: errors of the device beside the flush itself stop logs, not the broker, and never a connection."""

from __future__ import annotations

import contextlib
import errno
from typing import Any

import pytest
import trio

from mqcore.abc import Notice
from mqcore.errors import FlushFailedError, StorageError
from mqcore.protocol import Code, Failed, Fetched, Produced, Result
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB&journal_bytes=64KiB"


async def fill(client: Any, topics: list[bytes], rounds: int) -> list[Any]:
    """Send to every topic at once, so that their flush shares the journal; return the last replies."""
    replies: list[Any] = []
    for _ in range(rounds):
        await client.send(*(client.produce_message(topic, [b"x" * 2_000]) for topic in topics))
        replies = [await client.receive() for _ in topics]
    return replies


@pytest.mark.parametrize("operation", ["pwritev", "flush", "link_count", "size"])
@pytest.mark.parametrize("after", range(0, 10, 2))
def test_an_error_of_the_journal_ends_no_broker(open_setup: Any, operation: str, after: int) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            topics = [await client.create(f"t{number}") for number in range(3)]
            disk.fail_next(operation, errno.EIO, path="*journal-*", after=after)
            replies = await fill(client, topics, 30)
            assert all(isinstance(reply, Produced | Failed) for reply in replies)
            for topic in topics:
                assert isinstance(await client.fetch(topic, 0), Fetched)

    with contextlib.suppress(StorageError):  # of the stop, which is not called clean
        run_simulation(main, seed=1, seconds_max=1000)


def test_g11_a_failed_checkpoint_of_the_journal_stops_every_log_at_once_and_leaves_what_is_durable(
    open_setup: Any,
) -> None:
    notices: list[Notice] = []

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        ports = model_ports(1, disk)
        async with open_setup(STORAGE, ports=ports, flush="sync", report=notices.append) as setup:
            async with setup.client() as client:
                topics = [await client.create(f"t{number}") for number in range(3)]
                lazy = await client.create("lazy", flush="async(max_messages=1000000)", weakest_send="none")
                assert isinstance(await client.produce(lazy, [b"durable"], policy=3), Produced)
                for _ in range(3):
                    assert isinstance(await client.produce(lazy, [b"lazy" * 500]), Produced)
                await fill(client, topics, 2)  # and with the second, what the first made durable is noted
                disk.fail_next_flush(path="*segments*", times=100)
                await fill(client, topics, 40)
                await trio.sleep(1)  # nothing was flushed since: whoever is idle has been told all the same
                told = [str(notice.facts["logs"]) for notice in notices if notice.kind == "logs-stopped"]
                assert "".join(told).count(f"{lazy.hex()}-0") == 1
                assert await client.read_all(lazy) == [(0, b"durable")]
                assert (await client.fetch(lazy, 1)).batches == ()
                assert (await client.fetch(lazy, 3)).batches == ()
                refused = await client.produce(lazy, [b"more"], policy=1)
                assert (refused.code, "checkpoint" in refused.text) == (Code.STORAGE_STOPPED, True)
                found = await client.call("offsets.lookup", topic="lazy", partition=0, at=2**50)
                assert isinstance(found, Result)

    with pytest.raises(FlushFailedError):  # and the stop is not called clean
        run_simulation(main, seed=1, seconds_max=1000)
