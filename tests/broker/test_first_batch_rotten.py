"""G15, R12: the first batch of a producer has rotted with its header, and nobody knows any more whose it was."""

from __future__ import annotations

from typing import Any

import mqcore
from mqcore.batch import HEADER_BYTES
from mqcore.protocol import Code, Produced
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=1MiB"


def test_a_retry_of_it_is_unknown_and_a_new_producer_is_served(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync") as setup, setup.client() as client:
            topic = await client.create("lines")
            for producer in (3, 5, 8):
                await client.produce(topic, [b"of %d" % producer], producer_id=producer)
            log = setup.broker.reign.partitions[topic, 0].log
            found = await log.batch_of(1)
            stored = await log.read_stored(found.position, 1, log.end_position)
            header = bytes(stored.chunks[0][:HEADER_BYTES])
        for name in disk.list("/data/segments"):
            path = f"/data/segments/{name}"
            if (at := disk.content(path).find(header)) >= 0:
                file = disk.open(path)
                file.pwritev([bytes([header[0] ^ 1])], at)
                file.flush()
        async with open_setup(STORAGE, ports=model_ports(2, disk), flush="sync") as setup, setup.client() as client:
            retry = await client.produce(topic, [b"of 5"], producer_id=5)
            assert retry.code == Code.SEQUENCE_TOO_OLD
            assert "rotted" in retry.text
            again = await client.produce(topic, [b"of 3"], producer_id=3)
            assert (type(again), again.base_offset, again.duplicate) == (Produced, 0, True)
            async with mqcore.connect("inproc://broker") as clients, clients.producer("lines") as producer:
                receipts = [await producer.send(b"new") for _ in range(3)]
            assert [each.offset for each in receipts] == [3, 4, 5]
            assert not any(each.duplicate for each in receipts)

    run_simulation(main, seed=1)
