"""R13: what a change of a topic has made durable is acknowledged, whether the metadata log can be compacted or not."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from mqcore.abc import Notice
from mqcore.broker import _topics
from mqcore.protocol import Result
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

STORAGE = "mmap:///data?segment_bytes=64KiB"


def test_a_change_that_is_durable_is_acknowledged_though_the_compaction_after_it_has_no_room(
    open_setup: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_topics, "_COMPACT_RECORDS_MIN", 3)
    notices: list[Notice] = []

    async def main() -> None:
        disk = ModelDisk(seeded(1, "disk"))
        async with open_setup(STORAGE, ports=model_ports(1, disk), flush="sync", report=notices.append) as setup:
            async with setup.client() as client:
                await client.create("lines")
                for number in range(2, 12):
                    if number == 5:  # writes: its record, the mark of its flush, the snapshot
                        disk.fail_next("pwritev", errno.ENOSPC, path="*segments*", after=2)
                    altered = await client.call("topic.alter", name="lines", partitions=number)
                    assert isinstance(altered, Result)
                    assert setup.broker.reign.topics.get("lines").partitions == number
        assert "metadata-not-compacted" in [notice.kind for notice in notices]
        async with open_setup(STORAGE, ports=model_ports(2, disk), flush="sync") as setup, setup.client() as client:
            assert (await client.call("topic.resolve", name="lines")).value["partitions"] == 11

    run_simulation(main, seed=1)
