"""G11, G13: errors of the device beside the flush itself stop logs, not the broker, and never a connection."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from mqcore.errors import FlushFailedError
from mqcore.protocol import Failed, Fetched, Produced
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
@pytest.mark.parametrize("after", range(0, 6, 2))
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

    run_simulation(main, seed=1, seconds_max=1000)


def test_g11_a_failed_checkpoint_of_the_journal_leaves_what_is_durable_readable(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        keys = {"flush": "async(max_messages=1000000)"}
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            topics = [await client.create(f"t{number}") for number in range(3)]
            lazy = await client.create("lazy", **keys)
            assert isinstance(await client.produce(lazy, [b"d" * 30_000], policy=3), Produced)
            assert isinstance(await client.produce(lazy, [b"lazy"]), Produced)
            disk.fail_next_flush(path="*segments*", times=100)
            await fill(client, topics, 40)
            for offset in (0, 1):
                reply = await client.fetch(lazy, offset)
                assert isinstance(reply, Fetched | Failed), "the connection ended"

    with pytest.raises(FlushFailedError):  # what nobody was told of while the broker ran is told at its end
        run_simulation(main, seed=1, seconds_max=1000)
