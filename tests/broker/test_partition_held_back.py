"""Sends that wait un-appended until the set has enough nodes: what is kept of them, and that each is answered."""

from __future__ import annotations

import trio
from alone import OWN, Alone, Sink, alone

from mqcore.broker._partition import Partition
from mqcore.errors import CommandNotPossibleError
from mqcore.guarantees import Level, SyncReplication
from mqcore.protocol import Code
from mqcore.replication import Member
from mqcore.testing import run_simulation

OTHER = Member(b"B" * 16, 1)
TWO_COPIES = SyncReplication(copies=2, level=Level.DISK)
MIB = b"x" * 900_000


async def set_of_one(setup: Alone) -> Partition:
    return await setup.partition(replication=TWO_COPIES)


def test_one_way_sends_are_not_held_back_as_no_credit_bounds_them() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await set_of_one(setup)
            for number in range(50):
                await partition.append([setup.send(0)._replace(sink=None), setup.send(number)])
            assert len(partition._held_back) == 50

    run_simulation(main, seed=1)


def test_what_clients_sent_that_are_gone_is_dropped_and_what_others_sent_is_kept_in_order() -> None:
    async def main() -> None:
        async with alone() as setup:
            partition = await set_of_one(setup)
            gone = Sink()
            gone.closed = True
            for number in range(50):
                await partition.append([setup.send(number), setup.send(0, [MIB])._replace(sink=gone)])
            assert sum(len(send.batch.data) for send in partition._held_back._sends) < 20 * len(MIB)
            kept = [send.request_id for send in partition._held_back._sends if send.sink is setup.sink]
            assert kept == list(range(50))

    run_simulation(main, seed=1)


def test_g11_a_send_that_was_held_back_is_answered_when_the_reign_ends_while_it_is_appended() -> None:
    """Its connection lives on, and would wait for ever: the append is a task of the reign."""

    async def main() -> None:
        async with alone() as setup:
            partition = await set_of_one(setup)
            await partition.append([setup.send(1)])
            partition.set_changed([OWN, OTHER], None)
            setup.disk.stall_next("pwritev", 5.0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partition.append_held_back)
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
            partition.close(Code.NOT_PRIMARY, CommandNotPossibleError("the reign is over"))
            assert setup.sink.answers == [(1, Code.FLUSH_FAILED)]

    run_simulation(main, seed=1)
