"""Verifying a storage finds what is there and what is wrong with it, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from shelf_storage import LIMITS, TOPIC_ID, Shelf, ShelfStorage, batch, start

from mqcore.abc import StorageContext
from mqcore.log import LogFinding, partition_log_name, partition_salt, verify_storage
from mqcore.ports import system_ports
from mqcore.registry import create_storage

NAME = partition_log_name(TOPIC_ID, 3)
SALT = partition_salt(TOPIC_ID, 3)


async def written(shelf: Shelf) -> None:
    broker = await start(shelf)
    log = await broker.log(NAME, SALT)
    await log.append([batch(b"a", producer_id=4), batch(b"b", b"c")])
    await log.append([batch(b"d")])
    await log.trim(0)
    await broker.store.aclose()


async def verify(shelf: Shelf) -> dict[str, LogFinding]:
    before = {name: bytes(stored.data) for name, stored in shelf.logs.items()}
    found = {finding.name: finding async for finding in verify_storage(ShelfStorage(shelf))}
    assert {name: bytes(stored.data) for name, stored in shelf.logs.items()} == before
    assert next(iter(found)) == "identity"
    for finding in found.values():
        json.dumps(finding.as_json())
    return found


def test_a_whole_storage_is_found_whole_with_its_counts() -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        found = await verify(shelf)
        assert {finding.state for finding in found.values()} == {"whole"}
        kinds = ["identity", "identity", "metadata", "partition", "clean-ends"]
        assert [finding.kind for finding in found.values()] == kinds
        finding = found[NAME]
        assert (finding.batches, finding.messages, finding.start_offset, finding.end_offset) == (4, 4, 0, 4)
        assert (finding.producers, len(finding.reigns)) == (1, 1)
        assert finding.bytes_total == shelf.logs[NAME].end
        assert found["identity"].facts["node_name"] == "node-1"

    trio.run(main)


def test_g12_damage_is_found_with_its_range() -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        end = shelf.logs[NAME].end
        size = batch(b"d").header.size
        shelf.logs[NAME].data[-1] ^= 1
        finding = (await verify(shelf))[NAME]
        assert (finding.state, finding.is_sound, finding.messages) == ("damaged", False, 3)
        (damage,) = finding.damages
        assert damage[:4] == (end - size, end, 3, 4)

    trio.run(main)


def test_a_torn_tail_is_no_damage() -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        shelf.logs[NAME].data += b"torn"
        finding = (await verify(shelf))[NAME]
        assert (finding.state, finding.is_sound, finding.messages) == ("torn", True, 4)

    trio.run(main)


@pytest.mark.parametrize("copies", [1, 2])
def test_g12_a_damaged_identity_is_found(copies: int) -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        for name in ("identity", "identity-copy")[:copies]:
            shelf.logs[name].data[-50] ^= 1
        finding = (await verify(shelf))["identity"]
        assert finding.state == ("whole" if copies == 1 else "damaged")
        assert "damaged" in finding.text

    trio.run(main)


@pytest.mark.parametrize("gone", ["identity", "identity-copy"])
def test_g12_a_copy_of_the_identity_that_is_gone_is_damage_and_the_rest_is_verified(gone: str) -> None:
    async def main() -> None:
        shelf = Shelf()
        await written(shelf)
        del shelf.logs[gone]
        found = {finding.name: finding async for finding in verify_storage(ShelfStorage(shelf))}
        assert (found[gone].state, found[gone].is_sound) == ("damaged", False)
        assert {name for name, finding in found.items() if finding.state != "whole"} == {gone}

    trio.run(main)


def test_a_stopped_mmap_storage_is_verified(tmp_path: Path) -> None:
    async def main() -> None:
        def backend():  # type: ignore[no-untyped-def]
            return create_storage(f"mmap://{tmp_path}/s", StorageContext(ports=system_ports(), limits=LIMITS))

        broker = await start(backend())
        log = await broker.log(NAME, SALT)
        await log.append([batch(b"x" * 2_000)] * 1_000)
        await broker.store.aclose()
        found = [finding async for finding in verify_storage(backend(), name=NAME)]
        states = {finding.kind: (finding.state, finding.messages, finding.facts) for finding in found}
        assert states == {
            "partition": ("whole", 1_000, {}),
            "sidecar": ("whole", 0, {"checkpoints": 1, "checkpoints_damaged": 0}),
        }

    trio.run(main)
