"""docs/storage-format.md and the tables of docs/log.md, read at the offsets that they give, in bytes of the code."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
from crc32c import crc32c

import mqcore
from mqcore.broker._topics import RECORD_TYPES
from mqcore.limits import Limits
from mqcore.log import LogPoint, LogStore, MetadataLog
from mqcore.log._checkpoint import HEAD_BYTES, pack_checkpoint
from mqcore.log._ends import CleanEnds
from mqcore.log._identity import Identity, pack_identity
from mqcore.log._state import LogState
from mqcore.ports import system_ports
from mqcore.registry import create_storage
from mqcore_mmap import _header, _journal, _layout

PAGE = "storage-format.md"
STORAGE_ID, UID = bytes(range(16)), bytes(range(100, 116))
pytestmark = pytest.mark.needs("source-tree")


def table(text: str, marker: str) -> list[list[str]]:
    """Rows of the first table after ``marker``."""
    rows: list[list[str]] = []
    for line in text.split(marker, 1)[1].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def fields_of(text: str, name: str) -> dict[str, tuple[int, int, str]]:
    """Field: (offset, size, the value that the page states). Fields follow each other without gaps."""
    found: dict[str, tuple[int, int, str]] = {}
    at = 0
    for offset, size, field, value in table(text, f"<!-- layout: {name} -->"):
        assert int(offset) == at, field
        if size:
            found[field] = (at, int(size), value)
            at += int(size)
    return found


def check_block(text: str, name: str, data: bytes, values: dict[str, int | bytes]) -> int:
    """Read ``data`` by the page's table and compare with ``values`` and what the page states; return the size."""
    fields = fields_of(text, name)
    for field, (at, size, stated) in fields.items():
        raw = data[at : at + size]
        if field == "checksum":
            continue
        if field in values:
            value = values[field]
            assert raw == (value if isinstance(value, bytes) else value.to_bytes(size, "little")), field
        elif stated.startswith("`"):
            assert raw == stated.strip("`").encode(), field
        else:
            assert int.from_bytes(raw, "little") == int(stated.split()[0]), field
    return sum(size for _, size, _ in fields.values())


def checksum_at(data: bytes, at: int) -> bool:
    return bool(struct.unpack_from("<I", data, at)[0] == crc32c(data[:at]))


def storage_at(path: Path) -> str:
    """Make a storage with three topics, one of them deleted, and return its path."""

    async def make() -> None:
        async with mqcore.open_broker(storage=f"mmap://{path}", listen="inproc://format", flush="sync") as broker:
            async with mqcore.connect(*broker.urls) as client:
                for name in ("kept", "altered", "deleted"):
                    await client.admin.create_topic(name, 2)
                    async with client.producer(name) as producer:
                        await producer.send_many([b"some"] * 100)
                await client.admin.alter_topic("altered", 3, {"flush": "sync"})
                await client.admin.delete_topic("deleted")

    trio.run(make)
    return str(path)


def test_the_layout_file(pages: Any, tmp_path: Path) -> None:
    data = Path(storage_at(tmp_path / "s"), "mqcore-mmap.layout").read_bytes()
    text = pages.text(PAGE)
    at, size, _ = fields_of(text, "layout")["storage id"]
    storage_id = data[at : at + size]
    assert check_block(text, "layout", data, {"storage id": storage_id}) == len(data)
    assert checksum_at(data, len(data) - 4)
    journal = Path(tmp_path, "s", "journal-0").read_bytes()
    at, size, _ = fields_of(text, "journal")["storage id"]
    assert journal[at : at + size] == storage_id
    assert f"Layout version {_layout.VERSION}." in text


def test_a_segments_header_and_marks(pages: Any) -> None:
    text = pages.text(PAGE)
    identity = _header.SegmentIdentity(STORAGE_ID, UID, "some-log", 0x1122334455)
    block = _header.encode_static(identity, STORAGE_ID)
    values: dict[str, int | bytes] = {
        "storage id": STORAGE_ID, "log uid": UID, "base": 0x1122334455, "name length": 8,
    }  # fmt: skip
    end = check_block(text, "static", block, values)
    assert block[end : end + 8] == b"some-log"
    assert checksum_at(block, end + 8)
    assert len(block) == 4096 == _header.HEADER_BYTES
    used = _header.encode_static(_header.SegmentIdentity(STORAGE_ID, UID, "some-log", 7, was_used=True), STORAGE_ID)
    check_block(text, "static", used, {**values, "state": 2, "base": 7})
    expected = _header.SegmentIdentity(STORAGE_ID, UID, "some-log", 7, was_used=True)
    assert _header.decode_header(used, "").identity == expected
    free = _header.encode_static(None, STORAGE_ID)
    empty: dict[str, int | bytes] = {"log uid": bytes(16), "base": 0, "name length": 0}
    check_block(text, "static", free, {"state": 0, "storage id": STORAGE_ID, **empty})

    mark = _header.encode_mark(UID, 7, 0x0102030405, 0x03, closed_end=0x0A0B0C0D0E)
    values = {"log uid": UID, "base": 7, "durable end": 0x0102030405, "log start": 3}
    assert check_block(text, "mark", mark, {**values, "exact end": 0x0A0B0C0D0E, "how": 1}) == len(mark)
    continued = _header.encode_mark(UID, 7, 0x0102030405, 0x03, continued_at=0x0A)
    check_block(text, "mark", continued, {**values, "exact end": 0x0A, "how": 2})
    assert checksum_at(mark, len(mark) - 4)
    assert _header.SECTOR_BYTES == 512
    assert _header.CHECKPOINT_SLOT + 1 == 3


def test_the_journal(pages: Any, tmp_path: Path) -> None:
    text = pages.text(PAGE)
    block = _journal.encode_journal_header(STORAGE_ID, 0x55)
    size = check_block(text, "journal", block, {"storage id": STORAGE_ID, "generation": 0x55})
    assert checksum_at(block, size - 4)
    (tmp_path / "journal").write_bytes(block)
    journal = _journal.JournalFile(system_ports().files.open(str(tmp_path / "journal")), STORAGE_ID)
    first, other = _journal.encode_place(UID, 11, "first-log"), _journal.encode_place(UID, 1, "x")
    journal.append([_journal.Range(first, 0x22, 5, [b"abc", b"de"])], 3)
    journal.append([_journal.Range(other, 2, 1, [b"z"])] * 2, 3)
    journal.file.close()
    data = (tmp_path / "journal").read_bytes()[4096:]
    head = check_block(
        text, "set", data,
        {"generation": 0x55, "number": 1, "sets before": 3, "table bytes": 37 + 9, "data bytes": 5, "ranges": 1},
    )  # fmt: skip
    values: dict[str, int | bytes] = {"log uid": UID, "base": 11, "name length": 9}
    name = head + check_block(text, "range", data[head:], values)
    end = name + 9 + 12
    assert data[name:end] == b"first-log" + struct.pack("<QI", 0x22, 5)
    assert data[end : end + 5] == b"abcde"
    checksum = crc32c(data[head : end + 5], crc32c(data[: head - 4]))
    assert struct.unpack_from("<I", data, head - 4)[0] == checksum
    second = data[4096:]
    check_block(
        text, "set", second,
        {"generation": 0x55, "number": 2, "sets before": 3, "table bytes": 2 * 38, "data bytes": 2, "ranges": 2},
    )  # fmt: skip


def test_every_file_of_a_used_storage_has_a_name_that_the_page_gives(pages: Any, tmp_path: Path) -> None:
    root = Path(storage_at(tmp_path / "s"))
    text = pages.text(PAGE)
    listing = text.split("## The directory")[1].split("## ")[0]
    assert {path.name for path in root.iterdir()} == {
        name.rstrip("/") for name in re.findall(r"(?m)^    ([\w./-]+)", listing) + re.findall(r", (journal-1)", listing)
    }
    shapes = {"LOG": r"[a-z0-9_-][a-z0-9._-]*", "BASE": r"\d{20}", "ID": r"[0-9a-f]{16}", "UID": r"[0-9a-f]{32}"}
    shapes |= {"LOW": shapes["ID"], "HIGH": shapes["ID"]}
    written = [name.strip("`").replace("+", r"\+") for name, _ in table(text, "<!-- names -->")]
    forms = [re.compile(re.sub("LOG|BASE|UID|ID|LOW|HIGH", lambda word: shapes[word[0]], form)) for form in written]
    names = [path.name for path in (root / "segments").iterdir()]
    assert names
    assert [name for name in names if not any(form.fullmatch(name) for form in forms)] == []
    gone = _layout.Names("/s").gone(_layout.Tombstone(UID, 1, 2)).rpartition("/")[2]
    assert forms[3].fullmatch(gone)
    assert forms[1].fullmatch(_layout.Names("/s").unnamed(7).rpartition("/")[2])


def test_the_metadata_records_are_those_that_a_broker_writes(pages: Any, tmp_path: Path) -> None:
    root = storage_at(tmp_path / "s")
    ports = system_ports()

    async def records() -> list[dict[str, Any]]:
        from mqcore.abc import StorageContext

        store = LogStore(
            create_storage(f"mmap://{root}", StorageContext(ports=ports)),
            ports=ports, limits=Limits(), node_name="mqcore", report=lambda notice: None,
        )  # fmt: skip
        await store.open()
        try:
            return await MetadataLog(store).replay()
        finally:
            await store.aclose()

    told = {
        kind.strip("`"): {"type", *re.findall(r"`(\w+)`", keys)}
        for kind, keys, _ in table(pages.text(PAGE), "<!-- records -->")
    }
    found = {record["type"]: set(record) for record in trio.run(records)}
    assert tuple(told) == RECORD_TYPES
    assert told.pop("set-record") == {"type", "record"}  # of a set only, which this broker is in none of
    assert told.pop("topics-gone") == {"type", "ids"}  # likewise
    assert told.pop("log-starts") == {"type", "starts"}  # of retention only
    assert found == told


def ranges_of(text: str, after: str) -> list[tuple[int, int]]:
    """First byte and byte after the last, of each row of a table with ranges such as ``0-3``."""
    found = []
    for cells in table(text, after):
        first, _, last = cells[0].partition("-")
        found.append((int(first), int(last or first) + 1))
    return found


def test_the_identity_record_on_the_page_of_the_log(pages: Any) -> None:
    text = pages.text("log.md")
    rows = ranges_of(text, "## Identity")
    assert [first for first, _ in rows] == [0, *(end for _, end in rows[:-1])]
    identity = Identity(
        node_id=b"n" * 16, set_id=b"s" * 16, node_name="name", incarnation=3, reign_number=4, reign_id=b"r" * 16,
        highest_epoch=5, metadata_end=7, clean=True, flushed_only=True, boot_id="boot", instance="mount",
        clock_base_ms=8,
    )  # fmt: skip
    record = pack_identity(identity, sequence=6, copy=1, position=512)
    assert rows[-1][1] == len(record)
    expected: list[int | bytes] = [b"MQID", 2, 1, 1, 1, 0, 6, 512, b"n" * 16, b"s" * 16, 3, 4, b"r" * 16, 5, 7]
    expected += [b"boot".ljust(64, b"\0"), b"mount".ljust(64, b"\0"), b"name".ljust(128, b"\0"), 8, 0]
    for (first, end), value in zip(rows, expected, strict=False):
        assert record[first:end] == (value if isinstance(value, bytes) else value.to_bytes(end - first, "little"))
    assert len(rows) == len(expected) + 1
    assert checksum_at(record, rows[-1][0])


def test_the_checkpoint_head_on_the_page_of_the_log(pages: Any) -> None:
    rows = ranges_of(pages.text("log.md"), "## Sidecar")
    state = LogState(Limits())
    state.end_position, state.end_offset, state.epoch, state.last_position = 1000, 20, 3, 900
    record = pack_checkpoint(state, 8192, 0xABCD, 0x5EED)
    payload_bytes = int.from_bytes(record[8:12], "little")
    payload = record[HEAD_BYTES : HEAD_BYTES + payload_bytes]
    expected: list[int | bytes] = [b"MQSC", 2, 0, payload_bytes, crc32c(payload), 8192, 1000, 20, 3, 900, 0xABCD]
    for (first, end), value in zip(rows, expected, strict=False):
        assert record[first:end] == (value if isinstance(value, bytes) else value.to_bytes(end - first, "little"))
    assert (len(rows), rows[-1][1]) == (len(expected) + 1, HEAD_BYTES)
    assert struct.unpack_from("<I", record, rows[-1][0])[0] == crc32c(record[: rows[-1][0]], 0x5EED)
    assert len(record) % 4096 == 0


def test_the_record_of_clean_ends_on_the_page_of_the_log(pages: Any) -> None:
    rows = ranges_of(pages.text("log.md"), "## Clean ends")
    log = Recorded()

    async def flush(_: object) -> None:
        pass

    ends = CleanEnds(log, flush=flush, report=lambda _: None)  # type: ignore[arg-type]
    trio.run(ends.keep, {"some-log": LogPoint(1000, 20)})
    record = bytes(log.data)
    payload = record[rows[-1][1] :]
    assert json.loads(payload) == {"": None, "some-log": [1000, 20]}
    expected: list[int | bytes] = [b"MQCE", 1, len(payload), crc32c(payload), 0]
    for (first, end), value in zip(rows, expected, strict=True):
        assert record[first:end] == (value if isinstance(value, bytes) else value.to_bytes(end - first, "little"))


class Recorded:
    """As much of a log of bytes as a record is written to."""

    name = "clean-ends"
    start = 0

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def end(self) -> int:
        return len(self.data)

    async def append(self, chunks: Any) -> int:
        position = len(self.data)
        self.data += b"".join(chunks)
        return position
