"""R12: of two processes of one producer's name the later one alone is served, and told where the other had come."""

from __future__ import annotations

from typing import Any

import pytest
import trio

import mqcore
from mqcore.errors import (
    CommandNotPossibleError,
    FlushFailedError,
    OutcomeUnknownError,
    ProducerFencedError,
    RejectedError,
)
from mqcore.groups import NamedProducer
from mqcore.protocol import Code, Failed, Produced
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

URL = "inproc://broker"


def test_r12_the_second_process_of_a_name_fences_the_first_and_goes_on_where_it_was(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw, mqcore.connect(URL) as client:
            topic = await raw.create("t", partitions=3)
            async with mqcore.connect(URL) as other:
                async with client.producer("t", name="billing") as first:
                    assert (first.name, first.epoch, dict(first.last)) == ("billing", 1, {})
                    for number in range(3):
                        await first.send(b"%d" % number, partition=0)
                    await first.send(b"x", partition=1)
                    async with other.producer("t", name="billing") as second:
                        assert (second.epoch, dict(second.last), second.forgotten) == (2, {0: 2, 1: 0}, frozenset())
                        assert second.producer_id == first.producer_id
                        for partition in (0, 2):
                            with pytest.raises(ProducerFencedError, match=r"'billing'.*epoch 2.*epoch 1") as caught:
                                await first.send(b"late", partition=partition)
                            assert (caught.value.producer_name, caught.value.epoch) == ("billing", 2)
                        await first.send_one_way(b"late", partition=0)
                        receipt = await second.send(b"3", partition=0)
                        assert (receipt.offset, receipt.duplicate) == (3, False)
                        assert (await second.send(b"y", partition=2)).offset == 0
            assert await raw.read_all(topic) == [(at, b"%d" % at) for at in range(4)], "of partition 0"

    run_virtual(main)


def test_r12_names_of_other_topics_and_producers_without_one_are_not_fenced(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw, mqcore.connect(URL) as client:
            await raw.create("t")
            await raw.create("u")
            async with (
                client.producer("t", name="n") as first,
                client.producer("t") as nameless,
                client.producer("u", name="n") as of_another_topic,
                client.producer("t", name="N") as of_another_name,
            ):
                offsets = [
                    (await each.send(b"x")).offset for each in (first, nameless, of_another_topic, of_another_name)
                ]
                assert offsets == [0, 1, 0, 2]
                assert [each.epoch for each in (first, nameless, of_another_topic, of_another_name)] == [1, 0, 1, 1]

    run_virtual(main)


def test_r12_a_batch_under_the_id_of_a_name_needs_its_claim(open_setup: Any, run_virtual: Any) -> None:
    """Consumers see ids: with one alone nobody sends as a name that was not given to them."""

    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw, mqcore.connect(URL) as client:
            topic = await raw.create("t", partitions=2)
            async with client.producer("t", name="n") as producer:
                await producer.send(b"x", partition=0)
                forged = raw.produce_message(topic, [b"forged"], producer_id=producer.producer_id, first_sequence=1)
                claim = producer._state.claimed.claim
                for message in (
                    forged,
                    forged._replace(claim=bytes(16)),
                    forged._replace(claim=claim[:8] + bytes(8)),
                    raw.produce_message(topic, [b"forged"], producer_id=99)._replace(claim=claim),
                ):
                    message = message._replace(request_id=raw.id())
                    await raw.send(message)
                    reply = await raw.receive()
                    assert (type(reply), reply.code) == (Failed, Code.PRODUCER_FENCED)
                await raw.send(forged._replace(request_id=raw.id(), claim=claim))
                assert isinstance(await raw.receive(), Produced)
                ended = await raw.call(
                    "producer.end", topic_id=topic.hex(), producer_id=producer.producer_id, partitions=[[0, 0, 2]]
                )
                assert ended.value == {"partitions": 0}, "else the next process would not learn what was sent"

    run_virtual(main)


def test_r12_while_names_are_not_known_yet_no_producer_is_forgotten(open_setup: Any, run_virtual: Any) -> None:
    """After a failover its id may be that of a name: whose next process would be told that nothing was stored."""

    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw:
            topic = await raw.create("t")
            await raw.produce(topic, [b"x"], producer_id=7)
            end = {"topic_id": topic.hex(), "producer_id": 7, "partitions": [[0, 0, 1]]}
            for is_read in (False, True):
                setup.broker.reign.groups.cursors.is_read = is_read
                assert (await raw.call("producer.end", **end)).value == {"partitions": int(is_read)}

    run_virtual(main)


def test_g20_an_end_in_a_topic_that_is_not_there_leaves_nothing_behind(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw:
            topic = await raw.create("t")
            before = len(setup.broker.reign.groups.cursors.table.names._topics)
            for number in range(100):
                end = {"topic_id": f"{number:032x}", "producer_id": 7, "partitions": [[0, 0, 1]]}
                assert (await raw.call("producer.end", **end)).value == {"partitions": 0}
            assert len(setup.broker.reign.groups.cursors.table.names._topics) == before
            await raw.produce(topic, [b"x"])

    run_virtual(main)


def test_r12_names_outlive_a_restart_and_so_does_what_was_sent_under_them(open_setup: Any) -> None:
    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        claims: list[bytes] = []
        for start in range(3):
            ports = model_ports(start, disk)
            async with open_setup("mmap:///data", ports=ports, flush="sync") as setup, setup.client() as raw:
                topic = b"" if start else await raw.create("t", partitions=2)
                async with mqcore.connect(URL, ports=ports) as client, client.producer("t", name="n") as producer:
                    topic = producer._topic_id
                    assert (producer.epoch, dict(producer.last)) == (start + 1, {0: start - 1} if start else {})
                    await producer.send(b"x", partition=0)
                    claims.append(producer._state.claimed.claim)
                    for claim in claims[:-1]:
                        late = raw.produce_message(topic, [b"late"], producer_id=producer.producer_id)
                        await raw.send(late._replace(claim=claim))
                        reply = await raw.receive()
                        assert (type(reply), reply.code) == (Failed, Code.PRODUCER_FENCED)

    run_simulation(main, seed=1)


def test_r12_what_is_told_to_the_next_process_is_committed(open_setup: Any, run_virtual: Any) -> None:
    """Else it would go on after a message that a failover takes: neither has sent it again, and it is lost."""

    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw, mqcore.connect(URL) as client:
            topic = await raw.create("t")
            async with client.producer("t", name="n") as first:
                await first.send(b"x")
                partition = setup.broker.reign.partitions[topic, 0]
                waits: list[int] = []
                original = partition.answer_when_committed

                def answer(end_offset: int, policy: int, reply: Any) -> None:
                    waits.append(end_offset)
                    original(end_offset, policy, reply)

                partition.answer_when_committed = answer
                await client.producers.describe("n", "t")
                assert waits == [], "who only looks does not wait"
                async with client.producer("t", name="n") as second:
                    assert dict(second.last) == {0: 0}
                    assert waits == [1]

    run_virtual(main)


def test_r12_names_are_listed_described_and_deleted(open_setup: Any, run_virtual: Any) -> None:
    async def main() -> None:
        async with (
            open_setup(limits={"producer_names_max": 3}) as setup,
            setup.client() as raw,
            mqcore.connect(URL) as client,
        ):
            await raw.create("t", partitions=2)
            await raw.create("u")
            for topic, name in (("t", "b"), ("t", "a"), ("u", "a"), ("t", "a")):
                async with client.producer(topic, name=name) as producer:
                    await producer.send(b"x", partition=0)
            listed = await client.producers.list_names()
            assert [(each.name, each.topic, each.epoch) for each in listed] == [
                ("a", "t", 2),
                ("a", "u", 1),
                ("b", "t", 1),
            ]
            page = await raw.call("producer.list", after=["a", "t"], limit=1)
            assert [(each["name"], each["topic"]) for each in page.value] == [("a", "u")]
            described = await client.producers.describe("a", "t")
            states = [(each.partition, each.status, each.last_offset) for each in described.partitions]
            assert (described.epoch, states) == (2, [(0, "stored", 2), (1, "none", None)])
            with pytest.raises(RejectedError, match=r"3 names.*producer_names_max.*mqcore producer delete"):
                async with client.producer("u", name="new"):
                    pass
            async with client.producer("t", name="a") as fenced:
                assert await client.producers.delete("a", "t") == 3
                with pytest.raises(ProducerFencedError, match=r"no such name.*open the producer again"):
                    await fenced.send(b"y")
                async with client.producer("t", name="a") as begun:
                    assert (begun.epoch, dict(begun.last)) == (1, {}), "as a new one"
                    assert begun.producer_id != fenced.producer_id
            for request in (client.producers.delete, client.producers.describe):
                with pytest.raises(RejectedError, match="no producer 'z' of topic 't' here") as caught:
                    await request("z", "t")
                assert caught.value.name == "unknown-producer"
            await client.admin.delete_topic("t")
            assert [each.topic for each in await client.producers.list_names()] == ["u"]

    run_virtual(main)


@pytest.mark.parametrize("size", [0, 1, 200, 201])
def test_r12_a_name_has_1_to_200_bytes(open_setup: Any, run_virtual: Any, size: int) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw, mqcore.connect(URL) as client:
            await raw.create("t")
            reply = await raw.call("producer.claim", name="n" * size, topic="t")
            if size in (1, 200):
                assert reply.value["epoch"] == 1
                async with client.producer("t", name="n" * size) as producer:
                    assert producer.epoch == 2
                return
            assert (type(reply), reply.code) == (Failed, Code.INVALID_REQUEST)
            with pytest.raises(mqcore.errors.ConfigurationError, match="producer name"):
                async with client.producer("t", name="n" * size):
                    pass

    run_virtual(main)


def test_r12_of_processes_that_claim_at_once_the_last_has_the_name_and_the_others_are_told(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw, mqcore.connect(URL) as client:
            topic = await raw.create("t")
            outcomes: dict[int, int] = {}
            fenced: list[int] = []

            async def one(number: int) -> None:
                try:
                    async with client.producer("t", name="n") as producer:
                        outcomes[producer.epoch] = number
                        await producer.send(b"%d" % number)
                except ProducerFencedError:
                    fenced.append(number)

            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(one, number)
            assert len(outcomes) >= 1
            assert len(await raw.read_all(topic)) + len(fenced) == 6
            last = (await client.producers.describe("n", "t")).epoch
            assert last == 6
            assert outcomes[6] not in fenced

    run_virtual(main)


def test_r12_the_outcome_of_what_a_fenced_process_has_sent_without_an_answer_stays_unknown(
    open_setup: Any, run_virtual: Any
) -> None:
    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw, mqcore.connect(URL) as client:
            await raw.create("t")
            async with client.producer("t", name="n") as first, mqcore.connect(URL) as other:
                queue = first._accumulator.queue(0)
                delivery = first.post(b"x")
                batch = queue.gathered[0] if queue.gathered else queue.unacked[0]
                batch.in_doubt = True
                async with other.producer("t", name="n"):
                    pass
                late = first.post(b"y")
                batch_of_late = [*queue.unacked, *queue.gathered][-1]
                batch_of_late.in_doubt = True
                with pytest.raises(OutcomeUnknownError, match="refused"):
                    await late.wait()
                await delivery.wait()

    run_virtual(main)


async def refused_of(names: Any, topic: Any, *claims: NamedProducer) -> list[str]:
    """Names that are refused of ``claims`` which another set is said to have given, all at once."""
    refused: list[str] = []

    async def take_over(claim: NamedProducer) -> None:
        try:
            await names.take_over(topic, claim)
        except RejectedError as error:
            assert error.code == Code.INVALID_REQUEST
            refused.append(claim.name)

    async with trio.open_nursery() as nursery:
        for claim in claims:
            nursery.start_soon(take_over, claim)
    return sorted(refused)


def test_r12_claims_of_two_names_by_one_id_leave_a_log_of_cursors_that_can_be_read(open_setup: Any) -> None:
    """What another set is said to have given comes from a peer: were both written, no group were served after that."""

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        kept = ""
        for start in range(2):
            ports = model_ports(start, disk)
            async with open_setup("mmap:///data", ports=ports, flush="sync") as setup, setup.client() as raw:
                names = setup.broker.reign.names
                if not start:
                    await raw.create("t")
                    topic = setup.broker.reign.topics.get("t")
                    no_ids = [NamedProducer(f"id {number}", number, 5, 1) for number in (0, -1, 2**64)]
                    assert len(await refused_of(names, topic, *no_ids)) == 3
                    refused = await refused_of(names, topic, *(NamedProducer(name, 7, 5, 1) for name in "abc"))
                    (kept,) = {*"abc"} - {*refused}
                    # An id that a name is about to have is taken, and one that it is about to leave is not free yet.
                    for identity in (8, 9):
                        claims = [NamedProducer(name, identity, identity, 1) for name in (kept, refused[0])]
                        leaves = NamedProducer(refused[1], identity - 1, identity, 1)
                        await refused_of(names, topic, *claims, leaves)
                    # One whose caller is gone is written all the same.
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(names.take_over, topic, NamedProducer("gone", 5, 5, 1))
                        await trio.lowlevel.cancel_shielded_checkpoint()
                        nursery.cancel_scope.cancel()
                    await refused_of(names, topic, NamedProducer("late", 5, 5, 1))
                assert setup.broker.reign.groups.cursors.failure is None
                known = [named for _, named in names.named()]
                assert len({named.producer_id for named in known}) == len(known) >= 1
                for named in known:
                    reply = await raw.call("producer.claim", name=named.name, topic="t")
                    assert reply.value["epoch"] == named.epoch + 1

    run_simulation(main, seed=1)


@pytest.mark.parametrize("is_over", [False, True])
def test_g15_of_a_log_that_has_stopped_the_next_process_is_not_told_that_nothing_was_sent(
    open_setup: Any, run_virtual: Any, is_over: bool
) -> None:
    """It would send everything again, and what is on the disk would be there twice after the restart."""

    async def main() -> None:
        async with open_setup() as setup, setup.client() as raw, mqcore.connect(URL) as client:
            topic = await raw.create("t")
            async with client.producer("t", name="n") as first:
                await first.send(b"x")
            partition = setup.broker.reign.partitions[topic, 0]
            if is_over:
                partition.close(Code.NOT_PRIMARY, CommandNotPossibleError("the reign is over"))
            else:
                partition.stop(FlushFailedError("a flush failed", logs=[partition.log.name]))
            described = await raw.call("producer.describe", topic="t", name="n")
            assert isinstance(described, Failed)
            assert described.code == (Code.NOT_PRIMARY if is_over else Code.STORAGE_STOPPED)

    run_virtual(main)
