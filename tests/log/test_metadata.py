"""The metadata log (R13): records come back in order, all of them or none."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from shelf_storage import Shelf, start

from mqcore.errors import CorruptionError
from mqcore.log import MetadataLog
from mqcore.log._control import encode_record, iter_records, pack_snapshot_batch, unpack_records_batch


def test_r13_records_are_durable_when_append_returns_and_come_back_in_order() -> None:
    async def main() -> None:
        shelf = Shelf()
        metadata = MetadataLog((await start(shelf)).store)
        assert await metadata.append([{"kind": "topic", "name": "läufe"}]) == 0
        assert await metadata.append([{"n": 1}, {"n": 2}]) == 1
        shelf.crash()
        metadata = MetadataLog((await start(shelf)).store)
        assert await metadata.replay() == [{"kind": "topic", "name": "läufe"}, {"n": 1}, {"n": 2}]
        assert await metadata.append([{"n": 3}]) == 3

    trio.run(main)


def test_compaction_replaces_what_was_before_and_frees_it() -> None:
    async def main() -> None:
        shelf = Shelf(segment_bytes=1_000)
        store = (await start(shelf)).store
        metadata = MetadataLog(store)
        for number in range(100):
            await metadata.append([{"cursor": number}])
        await metadata.compact([{"cursor": 99}])
        await metadata.append([{"cursor": 100}])
        assert store.metadata.bytes_total < 1_000
        assert len(shelf.logs["metadata"].data) < 2_000
        for _ in range(2):
            assert await metadata.replay() == [{"cursor": 99}, {"cursor": 100}]
            shelf.crash()
            metadata = MetadataLog((await start(shelf)).store)

    trio.run(main)


def test_compacting_to_nothing_leaves_nothing() -> None:
    async def main() -> None:
        metadata = MetadataLog((await start(Shelf())).store)
        await metadata.append([{"a": 1}])
        await metadata.compact([])
        assert await metadata.replay() == []

    trio.run(main)


def test_g12_metadata_with_a_hole_is_refused() -> None:
    async def main() -> None:
        shelf = Shelf()
        metadata = MetadataLog((await start(shelf)).store)
        await metadata.append([{"a": 1}])
        shelf.logs["metadata"].data[-3] ^= 1
        metadata = MetadataLog((await start(shelf)).store)
        with pytest.raises(CorruptionError, match="metadata log is damaged"):
            await metadata.replay()

    trio.run(main)


def batch_of(payload: bytes) -> bytearray:
    batch = pack_snapshot_batch([b"{}"])
    return batch[: len(batch) - len(b"[{}]")] + payload


@pytest.mark.parametrize("records", [[], [{}], [{"a": "[]},"}, {"b": [{"c": 1}, 2]}, {"\u00e9": "\U0001f600"}]])
def test_records_are_the_same_one_by_one(records: list[dict[str, Any]]) -> None:
    batch = pack_snapshot_batch([encode_record(each) for each in records])
    assert [each for each, _ in iter_records(batch, "x")] == unpack_records_batch(batch, "x") == records


@pytest.mark.parametrize(
    "payload", [b"", b"[", b"]", b"{}", b"[{}", b"[{}x]", b"[{},]", b"[,{}]", b"[{}{}]", b"[1]", b"[{},2]", b"[\xff]"]
)
def test_g12_what_are_no_records_is_damage_one_by_one_too(payload: bytes) -> None:
    with pytest.raises(CorruptionError):
        unpack_records_batch(batch_of(payload), "x")
    with pytest.raises(CorruptionError):
        list(iter_records(batch_of(payload), "x"))
