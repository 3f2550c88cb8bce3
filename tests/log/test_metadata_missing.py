"""G12: a metadata log that is gone is never answered by starting empty."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from mqcore.broker import open_broker
from mqcore.config import make_config
from mqcore.errors import CorruptionError


def run_broker(path: Path, *, topic: bool = True) -> None:
    async def main() -> None:
        topics = {"lines": {}} if topic else {}
        config = make_config(storage=f"mmap://{path}", flush="sync", topics=topics)
        with trio.fail_after(30):
            async with open_broker(config) as broker:
                for found in broker.topics.by_id.values():
                    partition = await broker.open_partition(found.id, 0)
                    await partition.log.open_reign()

    trio.run(main)


def remove_metadata(path: Path) -> None:
    for segment in (path / "segments").glob("metadata@*"):
        segment.unlink()


@pytest.mark.parametrize("topic", [True, False])
def test_g12_a_metadata_log_that_is_gone_stops_the_start(tmp_path: Path, topic: bool) -> None:
    storage = tmp_path / "s"
    run_broker(storage, topic=topic)
    remove_metadata(storage)
    with pytest.raises(CorruptionError, match="metadata log is missing"):
        run_broker(storage, topic=topic)
    with pytest.raises(CorruptionError, match="metadata log is missing"):
        run_broker(storage, topic=topic)


def test_a_storage_starts_again_as_often_as_it_likes(tmp_path: Path) -> None:
    for _ in range(4):
        run_broker(tmp_path / "s")
