"""Looking at an mmap storage while its broker has it: nothing is made, locked or changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from mqcore.abc import StorageBackend, StorageContext
from mqcore.batch import encode_batch, validate_batch
from mqcore.broker import open_broker
from mqcore.errors import CommandNotPossibleError, StorageError
from mqcore.limits import Limits
from mqcore.log import IncomingBatch, StorageInspection
from mqcore.ports import system_ports
from mqcore.registry import create_storage


def backend_at(path: Path) -> StorageBackend:
    return create_storage(f"mmap://{path}", StorageContext(ports=system_ports()))


def run(main: Any) -> None:
    async def bounded() -> None:
        with trio.fail_after(30):
            await main()

    trio.run(bounded)


def test_what_is_durable_is_read_beside_the_broker(tmp_path: Path) -> None:
    async def main() -> None:
        owner, visitor = backend_at(tmp_path / "s"), backend_at(tmp_path / "s")
        await owner.open()
        first = await owner.open_log("first")
        await first.append([b"x" * 100_000])
        await owner.flush([first])
        await first.append([b"not flushed"])
        assert await visitor.open_readonly()
        assert await visitor.list_logs() == ["first"]
        log = await visitor.open_log("first")
        assert log.durable_end == 100_000
        data = b""
        while len(data) < log.durable_end:
            data += bytes(await log.read(len(data), log.durable_end - len(data)))
        assert data == b"x" * 100_000
        for action in (log.append([b"y"]), log.truncate(0), log.trim(0)):
            with pytest.raises(CommandNotPossibleError, match="beside its broker"):
                await action
        await visitor.aclose()
        assert await first.append([b"goes on"]) == 100_011
        await owner.aclose()

    run(main)


def test_without_a_broker_nothing_is_opened(tmp_path: Path) -> None:
    async def main() -> None:
        owner = backend_at(tmp_path / "s")
        await owner.open()
        await owner.aclose()
        visitor = backend_at(tmp_path / "s")
        assert not await visitor.open_readonly()
        with pytest.raises(StorageError):
            await visitor.list_logs()

    run(main)


def test_what_is_no_storage_is_refused_and_not_made(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(StorageError, match="is not a storage of mqcore") as caught:
            await backend_at(tmp_path / "missing").open_readonly()
        assert caught.value.kind == "missing"
        assert not (tmp_path / "missing").exists()

    run(main)


def test_an_inspection_says_that_a_broker_is_running_and_finds_damage_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_broker(storage=f"mmap://{tmp_path}/s", flush="sync", topics={"lines": {}}) as broker:
            (topic,) = broker.reign.topics.by_id.values()
            partition = await broker.open_partition(topic.id, 0)
            for _ in range(3):
                batch = memoryview(encode_batch([b"v" * 5000], created_ms=0, limits=Limits()))
                await partition.log.append([IncomingBatch(validate_batch(batch, Limits()), batch)])
            await broker.store.flush([partition.log])
            name = partition.log.name
            segment = next(path for path in (tmp_path / "s" / "segments").iterdir() if path.name.startswith(name))
            with segment.open("r+b") as file:
                file.seek(4096 + 7000)
                file.write(b"rotten")
            async with StorageInspection(backend_at(tmp_path / "s"), Limits()) as inspection:
                assert inspection.beside_broker
                findings = {finding.name: finding async for finding in inspection.findings()}
            assert findings["identity"].is_sound
            assert findings[name].state == "damaged"
            (damage,) = findings[name].damages
            assert (damage.first_offset, damage.next_offset) == (1, 2)

    run(main)
