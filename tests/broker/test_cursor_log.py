"""The log of cursors: made short by snapshots, read again after a kill at any call of the disk."""

from __future__ import annotations

import contextlib
import random

import pytest
import trio

import mqcore
from mqcore.broker import _cursor_log as cursor_log
from mqcore.broker import open_broker
from mqcore.groups import pack_cursors
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

PARTITIONS = 100
SHORT = 64 * 1024


class Commits:
    """Commits of all partitions at once, one after the other: which were asked for, and which are acknowledged."""

    def __init__(self):
        self.asked = self.acknowledged = -1

    async def go_on(self, broker, topic_id, disk):
        """Commit until the disk is dead; return how large the log was at most, and whether it was made short."""
        room, key = broker.reign.groups, ("g1", topic_id)
        size_max, was_short = 0, False
        with contextlib.suppress(mqcore.MqcoreError):
            while disk.alive:
                self.asked += 1
                record = pack_cursors(*key, [(partition, self.asked, 1) for partition in range(PARTITIONS)])
                await room.put({key: record})
                self.acknowledged = self.asked
                log = room.cursors.partition.log
                size_max = max(size_max, log.end_position - log.start_position)
                was_short = was_short or log.start_position > 0
        return size_max, was_short


async def ready(broker, client):
    with trio.fail_after(1000):
        while not broker.reign.groups.cursors.is_ready:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.01)
    return bytes.fromhex((await client.admin.resolve_topic("lines")).id)


def check(broker, topic_id, commits):
    """What was acknowledged is there, and what is there was asked for, each commit whole (G16)."""
    # Committed once, long ago: by now only snapshots have it.
    assert broker.reign.groups.positions("old", topic_id, range(PARTITIONS)) == {7: (3, 1)}
    found = broker.reign.groups.positions("g1", topic_id, range(PARTITIONS))
    if commits.acknowledged < 0 and not found:
        return
    assert len(found) == PARTITIONS
    ((offset, epoch),) = set(found.values())
    assert epoch == 1
    assert commits.acknowledged <= offset <= commits.asked


@pytest.mark.parametrize("power", [False, True], ids=["process killed", "power cut"])
@pytest.mark.parametrize("seed", range(5))
def test_g16_g17_it_is_made_short_and_read_again_after_a_kill(monkeypatch, seed, power):
    monkeypatch.setattr(cursor_log, "_COMPACT_BYTES_MIN", SHORT)
    chance = random.Random(seed)
    disk, commits = ModelDisk(seeded(seed, "disk")), Commits()
    seen = []

    async def life(number):
        ports = model_ports(number, disk=disk)
        settings = {"storage": "mmap:///data", "listen": [f"inproc://cursors{number}"], "ports": ports}
        # Whatever the broker says of a disk that is dead.
        with contextlib.suppress(mqcore.MqcoreError, ExceptionGroup), trio.CancelScope() as scope:
            async with open_broker(**settings) as broker, mqcore.connect(broker.urls[0]) as client:
                if not number:
                    await client.admin.create_topic("lines", partitions=PARTITIONS)
                topic_id = await ready(broker, client)
                if not number:
                    await broker.reign.groups.put({("old", topic_id): pack_cursors("old", topic_id, [(7, 3, 1)])})
                check(broker, topic_id, commits)
                disk.kill_at(disk.call_count + chance.randrange(20, 1_500), power_cut=power)
                seen.append(await commits.go_on(broker, topic_id, disk))
                scope.cancel()

    for number in range(5):
        run_simulation(life, number, seed=number)
        assert not disk.alive
        assert disk.witnesses["power-cut" if power else "process-kill"] > number
        disk = disk.restart()
    assert len(seen) == 5
    assert any(was_short for _, was_short in seen)
    assert max(size for size, _ in seen) < 2 * SHORT + 3 * PARTITIONS * 20
    assert commits.acknowledged > 0
