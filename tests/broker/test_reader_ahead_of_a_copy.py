"""A reader of replicas that has read more than a copy has, or of a later reign, has left no history: it waits (G06)."""

from __future__ import annotations

from pathlib import Path

from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._copy import PartitionCopy
from mqcore.broker._fetch_answer import answer_fetch
from mqcore.protocol import Code, Failed, Fetch, Fetched

AHEAD = 5


async def copy_on(nodes: SetOfNodes, name: str, topic: str) -> PartitionCopy:
    """The copy of the topic's one partition on a node that follows, once it has all that is committed."""
    roles, key = nodes.node(name).roles, (bytes.fromhex(topic), 0)
    assert roles is not None

    def has_all() -> bool:
        follower = roles.follower
        return follower is not None and key in follower.copies and follower.copies[key].is_current

    await nodes.until(has_all)
    assert roles.follower is not None
    return roles.follower.copies[key]


async def asked(copy: PartitionCopy, epoch: int) -> Fetched | Failed:
    return await answer_fetch(copy, Fetch(7, bytes(16), 0, AHEAD, epoch, 1 << 20, 0), 1 << 20)


@in_virtual_time
async def test_a_copy_judges_no_reader_of_a_later_reign_nor_before_it_has_what_is_committed(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="ahead", flush="sync", replication="sync") as nodes:
        await nodes.start()
        await nodes.init("a")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                await producer.send(b"1")
            topic = (await client.admin.resolve_topic("orders")).id
        await copy_on(nodes, "b", topic)
        await nodes.call("a", "set.switchover", to="b")
        copy = await copy_on(nodes, "a", topic)
        followed = copy.log.term.epoch
        assert (copy.log.end_offset, copy.log.epoch_up_to(followed) < followed) == (1, True)

        for epoch in (followed, followed + 1):  # of the first, more may be on its primary than it says yet
            waits = await asked(copy, epoch)
            assert isinstance(waits, Fetched)
            assert (waits.next_offset, waits.batches) == (AHEAD, ())

        async with nodes.client("b") as client, client.producer("orders") as producer:
            await producer.send(b"2")
        await nodes.until(lambda: copy.is_current and copy.log.end_offset == 2)
        for epoch in (1, followed - 1):
            told = await asked(copy, epoch)
            assert isinstance(told, Failed)
            assert (told.code, told.facts["offset"]) == (Code.DIVERGED, 1), "a later reign wrote there"

        copy.outdated()
        behind = await asked(copy, followed - 1)
        assert isinstance(behind, Fetched)
        assert (behind.next_offset, behind.batches) == (AHEAD, ())
