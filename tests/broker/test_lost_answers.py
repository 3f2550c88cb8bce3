"""Nothing is acknowledged that has rotted and is whole nowhere: neither what waits, nor a retry (G01, G14, G15)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from alone import ON_DISK, Alone, alone
from rot import damage, log_of
from sets import set_of_nodes
from test_lost_to_rot import MESSAGES, SYNC, TIMES, VALUES, begin, read, send, until_same
from virtual_time import in_virtual_time

from mqcore.batch import unpack_header
from mqcore.broker._partition import Partition
from mqcore.errors import OutcomeUnknownError
from mqcore.log import Damage, IncomingBatch, pack_cursors_batch
from mqcore.protocol import Code
from mqcore.testing import run_simulation


@in_virtual_time
async def test_g01_a_send_that_waits_for_replicas_is_not_acknowledged_once_it_is_given_up(tmp_path: Path) -> None:
    """What stands for it is copied, and must not count as a copy of it."""
    async with set_of_nodes(tmp_path, prefix="lost-waiting", cluster=TIMES, **SYNC) as nodes:
        name = await begin(nodes)
        await send(nodes, VALUES[:20])
        await nodes.until_same("a", "b")
        await nodes.cut_off("b")
        outcomes: list[object] = []

        async def send_one() -> None:
            async with nodes.client("a") as client, client.producer("orders", delivery_timeout_ms=60_000) as producer:
                try:
                    outcomes.append(await producer.send(VALUES[20]))
                except OutcomeUnknownError as error:
                    outcomes.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_one)
            await nodes.until(lambda: log_of(nodes, "a", name).durable_offset == 21)
            await damage(nodes, "a", name, 20)
            await nodes.start("b")
            await nodes.until(lambda: "offsets-lost" in nodes.kinds("a"), 60)
            await nodes.until(lambda: outcomes, 60)
        assert [type(each) for each in outcomes] == [OutcomeUnknownError]
        await send(nodes, VALUES[21:])
        await until_same(nodes, name, "a", "b")
        for node in "ab":
            assert await read(nodes, node, MESSAGES - 1) == (VALUES[:20] + VALUES[21:], [(20, 21)])


async def sent(setup: Alone, partition: Partition, request_id: int, first_sequence: int) -> None:
    await partition.append([setup.send(request_id, producer_id=7, first_sequence=first_sequence)])
    await trio.sleep(1)


def rot(partition: Partition, offset: int, *, is_given_up: bool) -> None:
    """Have the log know that the batch at ``offset``, the last one, has rotted."""
    state, partition.log.may_be_damaged = partition.log._state, True
    state.note_damage(Damage(state.last_position, state.end_position, offset, offset + 1, "rotten", is_given_up))
    if is_given_up:
        state.producers.mark(offset, offset + 1, is_given_up=True)


@pytest.mark.parametrize("is_given_up", [False, True])
def test_g14_a_retry_of_what_has_rotted_is_unknown(is_given_up: bool) -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            await sent(setup, partition, 1, 0)
            rot(partition, 0, is_given_up=is_given_up)
            await sent(setup, partition, 2, 0)
            await sent(setup, partition, 3, 1)
            await sent(setup, partition, 4, 1)
            code = Code.SEQUENCE_TOO_OLD if is_given_up else Code.APPEND_FAILED
            assert setup.sink.answers == [
                (1, 0, ON_DISK, False),
                (2, code),
                (3, 1, ON_DISK, False),
                (4, 1, ON_DISK, True),
            ]

    run_simulation(main, seed=1)


def test_g14_what_has_rotted_before_it_could_be_answered_is_unknown() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            setup.disk.stall_next("flush", 5.0)
            await partition.append([setup.send(1, [b"a"])])
            rot(partition, 0, is_given_up=False)
            await partition.append([setup.send(2, [b"b"])])
            await trio.sleep(6)
            assert setup.sink.answers == [(1, Code.APPEND_FAILED), (2, 1, ON_DISK, False)]
            assert partition.committed_offset == 2, "readers are told of it, and go on"

    run_simulation(main, seed=1)


def test_g16_a_commit_of_the_brokers_own_that_has_rotted_is_unknown() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await setup.partition()
            setup.disk.stall_next("flush", 5.0)
            outcomes: list[str] = []
            batch = pack_cursors_batch(b"cursors")

            async def commit() -> None:
                try:
                    await partition.commit(lambda: IncomingBatch(unpack_header(batch), batch))
                except OutcomeUnknownError as error:
                    outcomes.append(str(error))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(commit)
                await trio.sleep(1)
                rot(partition, 0, is_given_up=True)
            (why,) = outcomes
            assert "rotted" in why

    run_simulation(main, seed=1)
