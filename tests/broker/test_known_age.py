"""How old a replica says its knowledge is: that of the log that is read, not of the stream that is followed (G19)."""

from __future__ import annotations

from pathlib import Path

import pytest
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.broker._copy import PartitionCopy
from mqcore.broker._feeder import Feeder
from mqcore.broker._follow_session import FollowSession
from mqcore.broker._follower import Follower
from mqcore.errors import RemoteProtocolError
from mqcore.protocol import Code

OLD_MS = 300
"""Several heartbeats."""


async def followed(nodes: SetOfNodes) -> tuple[Follower, PartitionCopy]:
    """A set whose replica ``b`` has all of a log of the primary ``a``."""
    await nodes.start()
    await nodes.init("a")
    async with nodes.client("a") as client:
        await client.admin.create_topic("orders")
        async with client.producer("orders") as producer:
            await producer.send(b"1")
        topic = (await client.admin.resolve_topic("orders")).id
    roles = nodes.node("b").roles
    assert roles is not None
    await nodes.until(lambda: roles.follower is not None)
    follower, key = roles.follower, (bytes.fromhex(topic), 0)
    assert follower is not None
    await nodes.until(lambda: key in follower.copies and follower.copies[key].committed_offset == 1)
    copy = follower.copies[key]
    assert copy.known_age_ms <= follower.known_age_ms
    return follower, copy


async def until_older_than_the_stream(nodes: SetOfNodes, follower: Follower, copy: PartitionCopy) -> None:
    await nodes.until(lambda: follower.known_age_ms < OLD_MS and copy.known_age_ms > follower.known_age_ms + OLD_MS)


@in_virtual_time
async def test_a_copy_that_lacks_what_is_committed_grows_old_until_it_has_it(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="age-behind", flush="sync", replication="async") as nodes:
        follower, copy = await followed(nodes)
        copy.commit(copy.log.end_offset + 1)
        await until_older_than_the_stream(nodes, follower, copy)
        copy.commit(copy.log.end_offset)
        assert copy.known_age_ms <= follower.known_age_ms


@in_virtual_time
async def test_a_copy_that_has_heard_nothing_in_this_session_goes_on_growing_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with set_of_nodes(tmp_path, prefix="age-session", flush="sync", replication="async") as nodes:
        follower, copy = await followed(nodes)
        commit, first = FollowSession._commit, follower.session
        assert first is not None

        async def hears_nothing(session: FollowSession, each: PartitionCopy, offset: int) -> None:
            if each is not copy:
                await commit(session, each, offset)

        monkeypatch.setattr(FollowSession, "_commit", hears_nothing)
        first._machine._break(RemoteProtocolError("cut", code=Code.MALFORMED_FRAME))
        await nodes.until(lambda: follower.session not in (None, first))
        await until_older_than_the_stream(nodes, follower, copy)


@in_virtual_time
async def test_a_primary_says_what_is_committed_before_it_confirms_its_reign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of what it has still to send, such as without credit."""
    async with set_of_nodes(tmp_path, prefix="age-credit", flush="sync", replication="async") as nodes:
        follower, copy = await followed(nodes)

        async def sends_nothing(feeder: Feeder, buffers: list[object]) -> None:
            return None

        monkeypatch.setattr(Feeder, "_gather", sends_nothing)
        async with nodes.client("a") as client, client.producer("orders") as producer:
            await producer.send(b"2")
        await until_older_than_the_stream(nodes, follower, copy)
        assert copy.committed_offset == 1
