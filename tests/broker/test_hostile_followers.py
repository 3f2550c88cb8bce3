"""Streams of peers that pass for replicas, or do not say what they are: what they cost is bounded (G20)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from alone import alone
from sets import SetOfNodes, set_of_nodes
from virtual_time import in_virtual_time

from mqcore.abc import ByteStream
from mqcore.broker._fed_log import FedLog
from mqcore.broker._follow_session import FollowSession
from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import Level, NoFlush
from mqcore.limits import Limits
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Code,
    Follow,
    Followed,
    FollowMessage,
    FollowRole,
    FollowStream,
    Heartbeat,
    LogBegins,
    LogNamed,
    LogPositions,
    Positions,
)
from mqcore.testing import run_simulation


async def stream_to(nodes: SetOfNodes, name: str) -> ByteStream:
    roles = nodes.node(name).roles
    assert roles is not None
    return await (await roles.connect((nodes.url(name),))).open_stream()


async def begun(nodes: SetOfNodes) -> None:
    await nodes.start("a", "b")
    await nodes.init("a")
    await nodes.until_in_sync("a")


async def next_of(stream: ByteStream, machine: FollowStream) -> FollowMessage:
    while (message := machine.next_message()) is None:
        machine.received(await stream.receive_into(machine.receive_buffer()))
    return message


async def greeted(nodes: SetOfNodes, name: str = "b") -> tuple[ByteStream, FollowStream]:
    """A stream to the primary ``a`` in the name of a node that was cut off."""
    node_id = nodes.node(name).store.node_id
    await nodes.cut_off(name)
    return await greeted_as(nodes, name, node_id)


async def greeted_as(nodes: SetOfNodes, name: str, node_id: bytes) -> tuple[ByteStream, FollowStream]:
    store = nodes.node("a").store
    stream = await stream_to(nodes, "a")
    machine = FollowStream(
        FollowRole.FOLLOWER, set_id=store.set_id, epoch=store.epoch, logs_max=9, frame_bytes_max=1 << 20
    )
    versions, session = (VERSION_MIN, VERSION_MAX), bytes(16)
    follow = Follow(*versions, store.set_id, node_id, 99, session, store.epoch, Level.DISK, 9, 1 << 20, name)
    await stream.send_buffers(machine.send(follow))
    assert isinstance(await next_of(stream, machine), Followed)
    assert isinstance(await next_of(stream, machine), LogNamed)
    return stream, machine


@in_virtual_time
async def test_g20_streams_that_say_nothing_are_no_more_than_connections_and_a_few(tmp_path: Path) -> None:
    """A storage in want of descriptors cannot flush, and stops its logs."""
    async with set_of_nodes(tmp_path, prefix="g20-mute", flush="sync", limits={"connections_max": 4}) as nodes:
        await begun(nodes)
        streams = [await stream_to(nodes, "a") for _ in range(60)]
        with trio.fail_after(60):
            assert await streams[-1].receive_into(bytearray(10)) == 0
        assert nodes.node("a").reception._others <= 4 + 32


@in_virtual_time
async def test_g20_a_replica_that_reports_on_and_reads_no_answer_is_let_go(tmp_path: Path) -> None:
    async with set_of_nodes(tmp_path, prefix="g20-deaf", flush="sync") as nodes:
        await begun(nodes)
        stream, machine = await greeted(nodes)
        store = nodes.node("a").store
        lie = LogPositions(0, store.epoch - 1 or 1, b"?" * 16, 0, 77, 0, Level.DISK)
        with trio.fail_after(120):
            with suppress(trio.BrokenResourceError):  # let go while it was still sending
                while "follower-refused" not in nodes.kinds("a"):
                    await stream.send_buffers(machine.send(Positions((lie,))) * 100)
                    await trio.sleep(0.001)
            await nodes.until(lambda: "follower-refused" in nodes.kinds("a"))
        assert "is refused" in nodes.notice("follower-refused").text
        await nodes.start("b")
        await nodes.until_in_sync("a")  # the primary goes on, and an honest replica takes its place


@in_virtual_time
async def test_g20_a_replica_that_asks_and_breaks_a_rule_in_one_breath_ends_its_stream_and_no_more(
    tmp_path: Path,
) -> None:
    """What it asked for cannot be answered any more, and is not tried."""
    async with set_of_nodes(tmp_path, prefix="g20-breath", flush="sync") as nodes:
        await begun(nodes)
        stream, machine = await greeted(nodes)
        await stream.send_buffers([b"".join([*machine.send(Heartbeat(1)), bytes(64)])])
        await nodes.until(lambda: "follower-refused" in nodes.kinds("a"))
        assert "follower-failed" not in nodes.kinds("a"), "a defect, as the one who runs the broker is told"
        await nodes.start("b")
        await nodes.until_in_sync("a")


@in_virtual_time
async def test_g20_a_primary_whose_stream_is_cut_in_a_frame_while_something_is_reported_ends_no_replica(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, cut = FollowSession._take, []

    async def cut_once(session: FollowSession, message: FollowMessage) -> None:
        await take(session, message)
        if isinstance(message, Heartbeat) and not cut:
            cut.append(session)
            session.moved(next(iter(session._number_of)))
            session._machine._break(RemoteProtocolError("cut in a frame", code=Code.MALFORMED_FRAME))

    monkeypatch.setattr(FollowSession, "_take", cut_once)
    async with set_of_nodes(tmp_path, prefix="g20-cut", flush="sync") as nodes:
        await begun(nodes)
        await nodes.until(lambda: bool(cut))
        roles = nodes.node("b").roles
        assert roles is not None
        await nodes.until(lambda: roles.follower is not None and roles.follower.session not in (None, *cut))
        await nodes.until_in_sync("a")


def test_g20_a_replica_that_grants_credit_and_reports_nothing_costs_bounded_memory() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition(flush=NoFlush())
            await partition.append([setup.send(1)])
            fed = FedLog(0, partition)
            fed.position = 0
            for number in range(200_000):
                fed.sent(partition.log.end._replace(position=number))
            assert len(fed._sent) <= 65_536
            assert fed._sent[-1].position == 199_999

    run_simulation(main, seed=1)


@pytest.mark.parametrize(
    "begins",
    [
        LogBegins(0, 7, 900, 3, bytes(16), 800, 7),
        LogBegins(0, 7, 900, 2, bytes(16), 901, 7),
        LogBegins(0, 7, 900, 2, bytes(16), 800, 8),
        LogBegins(1, 7, 900, 2, bytes(16), 800, 7),
    ],
    ids=["later-reign", "reign-behind-it", "reign-offset-behind-it", "another-log"],
)
def test_g12_where_a_metadata_log_cannot_begin_is_refused_before_anything_is_given_up_for_it(begins: LogBegins) -> None:
    """A log that begins in a reign that its node has not seen would be taken for damage by every later start."""

    async def refused(*_: object) -> Any:
        raise AssertionError("nothing comes of it")

    async def main() -> None:
        async with alone() as setup:
            await setup.store.leave()
            await setup.store.follow(2, bytes(16))
            session = FollowSession(
                trio.testing.memory_stream_pair()[0],  # type: ignore[arg-type]
                setup.store,
                name="b",
                session=bytes(16),
                limits=Limits(),
                append_level=Level.DISK,
                open_copy=refused,
                committed=refused,
                begin_anew=refused,
                damaged=refused,
                report=setup.notices.append,
            )
            await session._take(LogBegins(0, 7, 900, 2, bytes(16), 800, 7))
            with pytest.raises(RemoteProtocolError, match="cannot be"):
                await session._take(begins)

    run_simulation(main, seed=1)


@in_virtual_time
async def test_r4_streams_of_one_node_that_replace_one_another_are_told_as_what_they_are(tmp_path: Path) -> None:
    """Two processes on copies of one storage: each ends the other's stream, several times a second."""
    async with set_of_nodes(tmp_path, prefix="r4-twice", flush="sync") as nodes:
        await begun(nodes)
        node_id = nodes.node("b").store.node_id
        await nodes.cut_off("b")
        for _ in range(8):
            await greeted_as(nodes, "b", node_id)
        told = nodes.notice("node-runs-twice").text
        assert f"as node b with the id {node_id.hex()}" in told
        assert "empty the storage of the copy" in told
        assert nodes.kinds("a").count("follower-replaced") == 2, "and not for ever"
