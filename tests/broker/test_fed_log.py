"""What a replica's reports of one log make of receipts: a level is what it is now, for old batches too (G14)."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from alone import OWN, alone

from mqcore.broker._fed_log import FedLog
from mqcore.guarantees import Level, SyncReplication
from mqcore.protocol import LogPositions
from mqcore.replication import Member

REPLICA = Member(b"r" * 16, 1)


@pytest.mark.trio
async def test_g14_a_replica_whose_array_lost_a_device_is_not_stated_at_mirror_any_more() -> None:
    async with alone() as setup:
        partition = await setup.partition(replication=SyncReplication(copies=2, level=Level.DISK))
        partition.set_changed([OWN, REPLICA], None)
        fed = FedLog(0, partition)
        empty = LogPositions(0, 0, bytes(16), 0, 0, 0, Level.MIRROR)
        assert await fed.judge(empty) is None
        fed.count(empty, REPLICA, Level.PAGE_CACHE, set())

        async def acknowledged(request_id: int, level: Level, sequence: int) -> dict[bytes, Level]:
            send = setup.send(request_id, producer_id=7, first_sequence=sequence)
            await partition.append([send])
            log = partition.log
            if fed.position != log.end_position:
                fed.sent(log.end)
            epoch, reign_id, position = log.last_batch
            end = log.end_position
            fed.count(LogPositions(0, epoch, reign_id, position, end, end, level), REPLICA, Level.PAGE_CACHE, set())
            await trio.testing.wait_all_tasks_blocked()  # the flush of this node's own copy
            (copies,) = [answer[2] for answer in setup.sink.answers if answer[0] == request_id]
            return {copy.node_id: copy.level for copy in copies}

        assert (await acknowledged(1, Level.MIRROR, 0))[REPLICA.node_id] is Level.MIRROR
        assert (await acknowledged(2, Level.DISK, 1))[REPLICA.node_id] is Level.DISK
        retried = await acknowledged(3, Level.DISK, 0)  # the batch that was at mirror when it was acknowledged
        assert retried[REPLICA.node_id] is Level.DISK
