"""R12: producers that ended in order take no room in the broker's tables; retries of theirs are still no duplicates."""

from __future__ import annotations

from typing import Any

import mqcore
from mqcore.protocol import Code, Failed, Produced, Result
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

URL = "inproc://broker"
LIMITS = {"producers_max": 3}


async def end(client: Any, topic: bytes, producer: int, *entries: tuple[int, int, int]) -> Any:
    return await client.call("producer.end", topic_id=topic.hex(), producer_id=producer, partitions=list(entries))


def test_r12_one_shot_producers_of_a_client_never_fill_the_table_and_others_do(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup(limits=LIMITS) as setup, setup.client() as raw, mqcore.connect(URL) as client:
            topic = await raw.create("t", partitions=2)
            for number in range(20):
                async with client.producer("t") as producer:
                    for partition in range(2):
                        await producer.send(b"%d" % number, partition=partition)
            assert len(await raw.read_all(topic)) == 20
            kept = setup.broker.reign.partitions[topic, 0].log.producers
            assert len(kept) <= 3
            replies = [await raw.produce(topic, [b"x"], producer_id=number) for number in range(1, 5)]
            assert [type(reply) for reply in replies] == [Produced] * 3 + [Failed], "who says nothing is remembered"
            assert replies[-1].code == Code.TOO_MANY_PRODUCERS

    run_virtual(main)


def test_r12_a_late_retry_of_a_producer_that_ended_is_refused_and_not_appended_twice(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup(limits=LIMITS) as setup, setup.client() as client:
            topic = await client.create("t")
            for producer in range(1, 8):
                await client.produce(topic, [b"first"], producer_id=producer)
                await client.produce(topic, [b"second"], producer_id=producer, first_sequence=1)
                reply = await end(client, topic, producer, (0, 0, 2))
                assert isinstance(reply, Result)
                assert reply.value == {"partitions": 1}
            for sequence, value in enumerate([b"first", b"second"]):
                retry = await client.produce(topic, [value], producer_id=1, first_sequence=sequence)
                assert (type(retry), retry.code) == (Failed, Code.SEQUENCE_TOO_OLD)
            last = await client.produce(topic, [b"second"], producer_id=7, first_sequence=1)
            assert last.duplicate, "it is not forgotten before that is in the log"
            assert len(await client.read_all(topic)) == 14

    run_virtual(main)


def test_r12_an_end_that_is_not_where_the_producer_stands_is_not_taken(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup(limits=LIMITS) as setup, setup.client() as client:
            topic = await client.create("t", partitions=2)
            await client.produce(topic, [b"x"], producer_id=1)
            for entries in ([(0, 0, 2)], [(0, 1, 1)], [(1, 0, 1)], [(7, 0, 1)], []):
                assert (await end(client, topic, 1, *entries)).value == {"partitions": 0}
            assert (await end(client, bytes(16), 1, (0, 0, 1))).value == {"partitions": 0}
            wrong = await client.call("producer.end", topic_id="zz", producer_id=1, partitions=[])
            assert wrong.code == Code.INVALID_REQUEST
            assert "'topic_id' must be 32 hexadecimal digits, not 'zz'" in wrong.text
            odd = await client.call("producer.end", topic_id=topic.hex(), producer_id=1, partitions=[[0, 1]])
            assert odd.code == Code.INVALID_REQUEST

    run_virtual(main)


def test_r12_ends_cost_no_append_and_no_flush_of_their_own(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup("mmap:///data", ports=model_ports(1, disk), flush="sync") as setup:
            async with setup.client() as client:
                topic = await client.create("t")
                for producer in range(1, 71):
                    await client.produce(topic, [b"x"], producer_id=producer)
                    log = setup.broker.reign.partitions[topic, 0].log
                    before = log.end_position, setup.broker.status()["flushes"]
                    await end(client, topic, producer, (0, 0, 1))
                    assert (log.end_position, setup.broker.status()["flushes"]) == before
                assert len(log.producers) == 70 - 64, "many ends share one batch"

    run_simulation(main, seed=1)
