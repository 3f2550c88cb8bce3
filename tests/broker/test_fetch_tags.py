"""Fetches that name tags: what a broker passes over, how far it says that it looked, and how much it looks at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio
from alone import alone

from mqcore.batch import HEADER_BYTES, decode_batch, pack_header, seal_body, unpack_header
from mqcore.broker._fetch_answer import answer_fetch
from mqcore.guarantees import AsyncFlush
from mqcore.limits import Limits
from mqcore.log._collect import LOOKED_BYTES_MAX
from mqcore.protocol import Code, Failed, Fetch, Fetched
from mqcore.registry import find_codec
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

pytestmark = pytest.mark.quick


def values_in(reply: Any) -> list[tuple[int, bytes]]:
    """Offset and value of each message of an answer."""
    data, found = memoryview(b"".join(reply.batches)), []
    while data:
        header = unpack_header(data)
        found += enumerate(decode_batch(data[: header.size], Limits()).values, header.base_offset)
        data = data[header.size :]
    return found


async def fill(client: Any, topic: bytes) -> None:
    """Offsets 0 to 7, in five batches: x; x and none; nothing; y and x; y."""
    for values, tags in (
        ([b"0"], ["x"]),
        ([b"1", b"2"], ["x", None]),
        ([b"3", b"4"], None),
        ([b"5", b"6"], ["y", "x"]),
        ([b"7"], ["y"]),
    ):
        await client.produce(topic, values, tags=tags)


@pytest.mark.parametrize(
    ("tags", "offsets"),
    [
        (["x"], [0, 1, 2, 5, 6]),
        (["y"], [5, 6, 7]),
        (["y", "x"], [0, 1, 2, 5, 6, 7]),
        (["z", "y"], [5, 6, 7]),
        (["z"], []),
        ([], list(range(8))),
    ],
)
def test_a_batch_comes_whole_if_one_of_its_tags_is_named_and_is_passed_over_otherwise(
    open_setup: Any, run_virtual: Any, tags: list[str], offsets: list[int]
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            await fill(client, topic)
            reply = await client.fetch(topic, 0, tags=tags)
            assert values_in(reply) == [(offset, b"%d" % offset) for offset in offsets]
            assert (reply.next_offset, reply.committed_offset) == (8, 8)
            assert reply.next_epoch == (setup.broker.store.epoch if tags else None)

    run_virtual(main)


def test_a_compressed_batch_is_told_by_its_table_too(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            for tag in ("x", "y"):
                await client.produce(topic, [b"z" * 1000], tags=[tag], codec=find_codec("zlib"))
            assert values_in(await client.fetch(topic, 0, tags=["y"])) == [(1, b"z" * 1000)]

    run_virtual(main)


def test_what_a_private_body_has_cannot_be_told_so_it_is_not_passed_over(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines", private_tags=[200])
            message = client.produce_message(topic, [b"opaque"])
            batch = bytearray(message.batch)
            batch[:HEADER_BYTES] = pack_header(unpack_header(batch)._replace(body_encoding=200))
            seal_body(batch)
            await client.send(message._replace(batch=batch))
            await client.receive()
            await client.produce(topic, [b"plain"])
            reply = await client.fetch(topic, 0, tags=["x"])
            assert sum(map(len, reply.batches)) == len(batch)
            assert reply.next_offset == 2

    run_virtual(main)


def test_a_fetch_that_passes_over_much_is_answered_with_how_far_it_looked(open_setup: Any, run_virtual: Any) -> None:
    batch_bytes, batches = 1024 * 1024, 9

    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            for number in range(batches):
                await client.produce(topic, [bytes(batch_bytes)], tags=["y"] if number % 2 else None)
            await client.produce(topic, [b"last"], tags=["x"])
            offset, answers = 0, []
            while offset < batches + 1:
                reply = await client.fetch(topic, offset, tags=["x"], wait_ms=60_000, bytes_max=1)
                assert 0 < (reply.next_offset - offset) * batch_bytes <= LOOKED_BYTES_MAX + batch_bytes
                answers.append(reply)
                offset = reply.next_offset
            assert len(answers) == batches // (LOOKED_BYTES_MAX // batch_bytes - 1)  # a batch is more than its message
            assert [values_in(each) for each in answers if each.batches] == [[(batches, b"last")]]
            partition = setup.broker.reign.partitions[topic, 0]
            assert partition.passed_bytes > batches * batch_bytes

    run_virtual(main)


def test_other_requests_of_a_connection_are_answered_between_two_looks(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic, other = await client.create("lines"), await client.create("others")
            for _ in range(9):
                await client.produce(topic, [bytes(1024 * 1024)])
            await client.produce(other, [b"here"])
            await client.send(
                Fetch(client.id(), topic, 0, 0, 0, 1 << 20, 0, tags=(b"x",)),
                Fetch(client.id(), other, 0, 0, 0, 1 << 20, 0),
            )
            first, second = await client.receive(), await client.receive()
            assert first.next_offset < first.committed_offset
            assert values_in(second) == [(0, b"here")]

    run_virtual(main)


def test_a_long_poll_waits_over_what_does_not_match_and_is_answered_with_what_does(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as reader, setup.client() as writer:
            topic = await writer.create("lines")
            await writer.produce(topic, [b"before"], tags=["y"])
            partition = setup.broker.reign.partitions[topic, 0]
            reads: list[int] = []
            read = partition.log.read

            async def counted(offset: int, *arguments: Any, **options: Any) -> Any:
                reads.append(offset)
                return await read(offset, *arguments, **options)

            class Counted:
                def __getattr__(self, name: str) -> Any:
                    return counted if name == "read" else getattr(log, name)

            log, partition.log = partition.log, Counted()
            began = trio.current_time()
            await reader.send(Fetch(reader.id(), topic, 0, 0, 0, 1 << 20, 30_000, tags=(b"x",)))
            for _ in range(5):
                await trio.sleep(1)
                await writer.produce(topic, [b"not this"], tags=["y"])
            await trio.sleep(1)
            assert reads == [0, 1, 2, 3, 4, 5]  # each commit is looked at once, and nothing in between
            await writer.produce(topic, [b"this"], tags=["x"])
            reply = await reader.receive()
            assert trio.current_time() - began < 7
            assert values_in(reply) == [(6, b"this")]
            assert reply.next_offset == 7

    run_virtual(main)


@pytest.mark.parametrize("above", [-1, 0, 1])
def test_so_many_fetches_of_a_connection_wait_over_what_does_not_match(
    open_setup: Any, run_virtual: Any, above: int
) -> None:
    async def main() -> None:
        async with open_setup(limits=Limits(fetches_parked_max=4)) as setup, setup.client() as reader:
            topic = await reader.create("lines")
            await reader.produce(topic, [b"not this"])
            fetches = [Fetch(reader.id(), topic, 0, 0, 0, 1 << 20, 60_000, tags=(b"x",)) for _ in range(4 + above)]
            began = trio.current_time()
            await reader.send(*fetches)
            for _ in range(above):
                told = await reader.receive()
                assert (told.next_offset, trio.current_time() - began) == (1, 0)
            await trio.sleep(1)
            (connection,) = setup.broker.connections
            assert len(connection.outbox.parked) == min(4, 4 + above)

    run_virtual(main)


def test_a_long_poll_for_which_nothing_comes_tells_at_its_end_how_far_it_looked(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as reader, setup.client() as writer:
            topic = await writer.create("lines")
            began = trio.current_time()
            await reader.send(Fetch(reader.id(), topic, 0, 0, 0, 1 << 20, 10_000, tags=(b"x",)))
            for _ in range(3):
                await trio.sleep(1)
                await writer.produce(topic, [b"not this"])
            reply = await reader.receive()
            assert round(trio.current_time() - began, 3) == 10
            assert (reply.next_offset, list(reply.batches)) == (3, [])
            assert reply.next_epoch == setup.broker.store.epoch

    run_virtual(main)


def test_a_fetch_that_passes_over_everything_is_answered_when_the_broker_stops(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as reader:
            topic = await reader.create("lines")
            await reader.produce(topic, [b"not this"])
            await reader.send(Fetch(reader.id(), topic, 0, 0, 0, 1 << 20, 50_000, tags=(b"x",)))
            await trio.sleep(1)
            began = trio.current_time()
            (connection,) = setup.broker.connections
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.drain)
                reply = await reader.receive()
            assert isinstance(reply, Fetched)
            assert reply.next_offset == 1
            assert trio.current_time() == began

    run_virtual(main)


def test_g08_the_position_stays_below_what_is_not_committed_yet() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition(flush=AsyncFlush(max_messages=2))
            await partition.append([setup.send(1, [b"a", b"b"], tags=["y", "y"])])
            await partition.append([setup.send(2, [b"c", b"d"], tags=["y", "y"])])
            assert (partition.committed_offset, partition.log.end_offset) == (2, 4)
            fetch = Fetch(7, bytes(16), 0, 0, 0, 1 << 20, 0, tags=(b"x",))
            answer = await answer_fetch(partition, fetch, 1 << 20)
            assert isinstance(answer, Fetched)
            assert (answer.next_offset, answer.batches) == (2, [])

    run_simulation(main, seed=1)


def test_g06_an_answer_is_of_one_reign_and_says_of_which(open_setup: Any, run_virtual: Any) -> None:
    disk = ModelDisk(seeded(1, "disk"))

    async def main() -> None:
        epochs, topic = [], b""
        for number in range(3):
            keys = {"storage": "mmap:///data", "ports": model_ports(number, disk), "report": lambda notice: None}
            async with open_setup(**keys) as setup, setup.client() as client:
                topic = topic or await client.create("lines")
                epochs.append(setup.broker.store.epoch)
                await client.produce(topic, [b"a", b"b"], tags=["y", None])
                await client.produce(topic, [b"c"], tags=["x"] if number == 1 else None)
                if number < 2:
                    continue
                offset, epoch, found = 0, 0, []
                while offset < 9:
                    reply = await client.fetch(topic, offset, epoch=epoch, tags=["x"])
                    offset, epoch = reply.next_offset, reply.next_epoch
                    found.append((offset, epoch, values_in(reply)))
                assert found == [(3, epochs[0], []), (6, epochs[1], [(5, b"c")]), (9, epochs[2], [])]
                gone = await client.fetch(topic, 9, epoch=epochs[0], tags=["x"])
                assert isinstance(gone, Failed)
                assert (gone.code, gone.facts["offset"]) == (Code.DIVERGED, 3)

    run_virtual(main)


def test_what_retention_took_is_told_to_a_reader_by_tags_too(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as client:
            topic = await client.create("lines")
            for _ in range(3):
                await client.produce(topic, [b"a"], tags=["y"])
            partition = setup.broker.reign.partitions[topic, 0]
            await partition.trim(await partition.log.start_at(2))
            told = await client.fetch(topic, 1, tags=["x"])
            assert isinstance(told, Failed)
            assert (told.code, told.facts["start_offset"]) == (Code.BELOW_START, 2)
            assert (await client.fetch(topic, 2, tags=["x"])).next_offset == 3

    run_virtual(main)


def test_g12_damage_among_what_would_be_passed_over_is_told(open_setup: Any, run_virtual: Any) -> None:
    disk = ModelDisk(seeded(1, "disk"))

    async def main() -> None:
        keys = {"storage": "mmap:///data", "ports": model_ports(1, disk), "report": lambda notice: None}
        async with open_setup(**keys) as setup, setup.client() as client:
            topic = await client.create("lines")
            for number in range(3):
                await client.produce(topic, [b"line %d" % number], tags=["y"])
            (log,) = [each for name, each in setup.broker.store._logs.items() if name != "metadata"]
            found = await log.batch_of(1)
            stored = bytes((await log.read_stored(found.position, 1, log.end_position)).chunks[0])
            rotten = bytearray(stored)
            rotten[rotten.index(b"y", HEADER_BYTES)] = ord("x")  # its table says what the message never had
            await log._log.overwrite(found.position, rotten)
            before = await client.fetch(topic, 0, tags=["z"])
            assert (before.next_offset, list(before.batches)) == (1, [])
            told = await client.fetch(topic, 1, tags=["z"])
            assert isinstance(told, Failed)
            assert (told.code, told.facts) == (Code.DAMAGED, {"offset": 1, "next_offset": 2})
            assert (await client.fetch(topic, 2, tags=["z"])).next_offset == 3

    run_virtual(main)


@pytest.mark.parametrize("above", [-1, 0, 1])
@pytest.mark.parametrize("limit", ["fetch_tags_max", "tag_bytes_max"])
def test_a_fetch_names_at_most_so_many_tags_of_so_many_bytes(
    open_setup: Any, run_virtual: Any, limit: str, above: int
) -> None:
    async def main() -> None:
        async with open_setup(limits=Limits(**{limit: 7})) as setup, setup.client() as client:
            assert client.welcome.limits[limit] == 7
            topic = await client.create("lines")
            tags = [str(n) for n in range(7 + above)] if limit == "fetch_tags_max" else ["t" * (7 + above)]
            reply = await client.fetch(topic, 0, tags=tags)
            if above > 0:
                assert isinstance(reply, Failed)
                assert reply.code == Code.INVALID_REQUEST
                assert limit in reply.text
            else:
                assert isinstance(reply, Fetched)

    run_virtual(main)


def test_tags_are_kept_on_real_files_and_across_a_restart(open_setup: Any, run_real: Any, tmp_path: Path) -> None:
    storage = f"mmap://{os.fspath(tmp_path)}/data"

    async def main() -> None:
        async with open_setup(storage) as setup, setup.client() as client:
            topic = await client.create("lines")
            await fill(client, topic)
        async with open_setup(storage) as setup, setup.client() as client:
            reply = await client.fetch(topic, 0, tags=["y"])
            assert [offset for offset, _ in values_in(reply)] == [5, 6, 7]
            assert reply.next_offset == 8

    run_real(main)
