"""G12: a metadata log that is gone is never answered by starting empty."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from mqcore.abc import StorageContext
from mqcore.batch import encode_batch, validate_batch
from mqcore.broker import open_broker
from mqcore.config import make_config
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log import IncomingBatch, verify_storage
from mqcore.ports import system_ports
from mqcore.registry import create_storage


def run_broker(path: Path, *, topic: bool = True, fill: bool = False) -> None:
    async def main() -> None:
        topics = {"lines": {}} if topic else {}
        config = make_config(storage=f"mmap://{path}", flush="sync", topics=topics)
        with trio.fail_after(30):
            async with open_broker(config) as broker:
                for found in broker.reign.topics.by_id.values():
                    partition = await broker.open_partition(found.id, 0)
                    await partition.log.open_reign()
                    for _ in range(3 if fill else 0):
                        batch = memoryview(encode_batch([b"x" * 1_000_000], created_ms=0, limits=Limits()))
                        await partition.log.append([IncomingBatch(validate_batch(batch, Limits()), batch)])

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


def findings_of(path: Path) -> dict[str, str]:
    async def main() -> dict[str, str]:
        backend = create_storage(f"mmap://{path}", StorageContext(ports=system_ports()))
        return {finding.name: finding.state async for finding in verify_storage(backend)}

    return trio.run(main)


def test_g12_an_inspection_names_a_metadata_log_that_is_gone(tmp_path: Path) -> None:
    storage = tmp_path / "s"
    run_broker(storage)
    assert findings_of(storage)["metadata"] == "whole"
    remove_metadata(storage)
    assert findings_of(storage)["metadata"] == "damaged"


def test_g12_a_partition_that_is_gone_beside_its_checkpoints_is_not_begun_anew(tmp_path: Path) -> None:
    storage = tmp_path / "s"
    run_broker(storage, fill=True)
    (sidecar,) = (storage / "segments").glob("*.state@*")
    name = sidecar.name.partition(".state@")[0]
    for segment in (storage / "segments").glob(f"{name}@*"):
        segment.unlink()
    assert findings_of(storage)[name] == "damaged"
    with pytest.raises(CorruptionError, match="the log is missing although it held messages"):
        run_broker(storage)


def test_g12_a_small_partition_that_is_gone_after_a_clean_stop_is_not_begun_anew(tmp_path: Path) -> None:
    storage = tmp_path / "s"
    run_broker(storage)
    (segment,) = (path for path in (storage / "segments").glob("*-0@*"))
    name = segment.name.partition("@")[0]
    segment.unlink()
    assert findings_of(storage)[name] == "damaged"
    for _ in range(2):
        with pytest.raises(CorruptionError, match="the log is missing although it held messages"):
            run_broker(storage)


def test_a_storage_starts_again_as_often_as_it_likes(tmp_path: Path) -> None:
    for _ in range(4):
        run_broker(tmp_path / "s")
