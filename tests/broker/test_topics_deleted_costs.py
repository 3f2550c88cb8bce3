"""What the deletion of a topic costs: how far its logs came is forgotten by one flush, not by one each."""

from __future__ import annotations

from typing import Any

from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded


def test_a_topic_of_many_partitions_forgets_the_ends_of_its_logs_at_once(open_setup: Any) -> None:
    spent: dict[int, int] = {}

    async def main() -> None:
        for partitions in (1, 40):
            disk = ModelDisk(seeded(1, "disk"))
            async with open_setup("mmap:///data", ports=model_ports(1, disk), flush="sync") as setup:
                async with setup.client() as client:
                    topic = await client.create("t", partitions=partitions)
                    for partition in [*range(partitions)] * 2:
                        await client.produce(topic, [b"x"], partition=partition)
                    before = disk.counts["flush"]
                    await client.call("topic.delete", name="t")
                    spent[partitions] = disk.counts["flush"] - before

    run_simulation(main, seed=1)
    assert spent[40] - spent[1] < 10
