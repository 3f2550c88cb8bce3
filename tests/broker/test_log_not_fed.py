"""A log that its primary cannot read holds up no other log of the set (G12)."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from sets import set_of_nodes
from virtual_time import in_virtual_time

from mqcore.batch import BatchHeader
from mqcore.errors import StorageError
from mqcore.log import PartitionLog


@in_virtual_time
async def test_g12_a_log_that_cannot_be_judged_is_not_fed_and_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a replica comes back, the primary looks at the batch that the replica has last."""
    keys = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}
    async with set_of_nodes(tmp_path, prefix="not-fed", **keys) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            for topic in ("bad", "good"):
                await client.admin.create_topic(topic)
                async with client.producer(topic) as producer:
                    await producer.send(b"before")
            bad = (await client.admin.resolve_topic("bad")).id
            await nodes.cut_off("b")
            whole = PartitionLog.batch_at

            async def batch_at(log: PartitionLog, position: int) -> BatchHeader | None:
                if log.name.startswith(bad) and log.term.reign is not None:
                    raise StorageError("cannot be read", kind="io")
                return await whole(log, position)

            monkeypatch.setattr(PartitionLog, "batch_at", batch_at)
            await nodes.start("b")
            with trio.fail_after(120):
                async with client.producer("good") as producer:
                    await producer.send(b"after")
        assert "cannot be read" in nodes.notice("log-not-fed").text
