"""``on_degraded=require-sync-replication`` in a replica set: what other nodes hold goes on (0020)."""

from __future__ import annotations

from pathlib import Path

import pytest
from sets import set_of_nodes

from mqcore.errors import RejectedError
from mqcore.guarantees import Level

ARRAY = "raid://{dir}/one,{dir}/two?level=1&on_degraded=require-sync-replication&first_extent_bytes=65536"
HELD = {"replication": "sync(copies=2, level=disk)"}


@pytest.mark.trio
async def test_only_what_synchronous_replication_covers_is_acknowledged_while_a_member_is_missing(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).mkdir()
    async with set_of_nodes(tmp_path, "ab", prefix="degraded", storage=ARRAY, flush="sync") as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            await client.admin.create_topic("held", config=HELD)
            await client.admin.create_topic("alone")
            await nodes.node("a").operate("raid", "eject", {"member": "1"})
            async with client.producer("held") as producer:
                levels = [copy.level for copy in (await producer.send(b"on two nodes")).copies]
                assert sorted(levels) == [Level.DISK, Level.MIRROR]
            async with client.producer("alone", delivery_timeout_ms=200) as producer:
                with pytest.raises(RejectedError, match="degraded"):
                    await producer.send(b"on one disk")
