"""The log of cursors: made short by snapshots, read again after a kill, loud where it is damaged."""

from __future__ import annotations

import trio

import mqcore
from mqcore.broker import _cursor_log as cursor_log
from mqcore.broker import open_broker
from mqcore.groups import pack_cursors
from mqcore.testing import ModelDisk, model_ports, run_simulation


async def put(broker, topic, count, partitions, group="g1"):
    """Write ``count`` commits of all ``partitions``; each has the next offset."""
    room = broker.reign.groups
    key = (group, bytes.fromhex(topic.id))
    for number in range(count):
        await room.put(pack_cursors(*key, [(partition, number, 1) for partition in range(partitions)]), key)


def test_it_is_made_short_and_read_again_after_a_kill(monkeypatch):
    monkeypatch.setattr(cursor_log, "_COMPACT_BYTES_MIN", 64 * 1024)
    disk = ModelDisk()
    sizes = []

    async def life(number):
        ports = model_ports(number, disk=disk)
        settings = {"storage": "mmap:///data", "listen": [f"inproc://cursors{number}"], "ports": ports}
        async with open_broker(**settings) as broker, mqcore.connect(broker.urls[0]) as client:
            if not number:
                await client.admin.create_topic("lines", partitions=100)
            topic = await client.admin.resolve_topic("lines")
            with trio.fail_after(1000):
                while not broker.reign.groups.cursors.is_ready:  # noqa: ASYNC110 - virtual time
                    await trio.sleep(0.01)
            if number:
                found = broker.reign.groups.positions("g1", bytes.fromhex(topic.id), range(100))
                assert found == {partition: (99, 1) for partition in range(100)}
            await put(broker, topic, 100, 100)
            log = broker.reign.groups.cursors.partition.log
            sizes.append(log.end_position - log.start_position)
            assert log.start_position > 0

    for number in range(3):
        run_simulation(life, number, seed=number)
    assert max(sizes) < 2 * 64 * 1024 + 3 * 100 * 20
