"""The committed bytes: every version decodes them to the same meaning, and encodes that meaning to the same bytes."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c

from mqcore.abc import Buffer, Codec
from mqcore.batch import (
    HEADER_BYTES,
    BatchHeader,
    control_batch,
    control_payload,
    decode_batch,
    encode_batch,
    stamp,
    unpack_header,
    validate_batch,
)
from mqcore.limits import Limits

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"
FOLDER = Path(__file__).with_name("vectors")
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
MESSAGES = [name for name in NAMES if name != "control"]
LIBRARY_OF = {2: "zstandard", 3: "lz4"}


class RecordedBlock(Codec):
    """Gives back the block that the vector holds: from version to version a library compresses differently."""

    name = "recorded"

    def __init__(self, tag: int, block: bytes) -> None:
        self.tag = tag  # type: ignore[misc]
        self.block = block

    def compress(self, payload: Buffer) -> bytes:
        return self.block

    def decompress(self, payload: Buffer, size: int) -> bytes:
        raise NotImplementedError


def load(name: str) -> tuple[bytes, dict[str, Any]]:
    return (FOLDER / f"{name}.bin").read_bytes(), json.loads((FOLDER / f"{name}.json").read_text())


def test_there_are_vectors_for_every_column_and_codec():
    columns = {"one-message", "keys", "headers", "timestamps", "tags", "everything", "tags-and-everything", "control"}
    assert columns | {"zlib", "zstandard", "lz4"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_header_fields_are_where_they_were(name: str):
    batch, meaning = load(name)
    assert unpack_header(batch) == BatchHeader(**meaning["header"])


@pytest.mark.parametrize("name", MESSAGES)
def test_vector_decodes_to_its_meaning(name: str, needs):
    batch, meaning = load(name)
    if meaning["header"]["codec"] in LIBRARY_OF:
        needs(LIBRARY_OF[meaning["header"]["codec"]])
    decoded = decode_batch(memoryview(batch), Limits())
    assert [value.hex() for value in decoded.values] == meaning["values"]
    keys = decoded.keys
    assert (keys and [None if key is None else key.hex() for key in keys]) == meaning["keys"]
    headers = decoded.headers
    assert (headers and [[[key, value.hex()] for key, value in pairs] for pairs in headers]) == meaning["headers"]
    assert decoded.timestamps_ms == (meaning["timestamps_ms"] or [meaning["created_ms"]] * len(meaning["values"]))
    assert decoded.tags == meaning.get("tags")


@pytest.mark.parametrize("name", MESSAGES)
def test_meaning_encodes_to_the_vector(name: str):
    batch, meaning = load(name)
    header = validate_batch(batch, Limits())
    keys, headers = meaning["keys"], meaning["headers"]
    block = batch[header.size - header.payload_bytes :]
    encoded = encode_batch(
        [bytes.fromhex(value) for value in meaning["values"]],
        keys=keys and [None if key is None else bytes.fromhex(key) for key in keys],
        headers=headers and [[(key, bytes.fromhex(value)) for key, value in pairs] for pairs in headers],
        timestamps_ms=meaning["timestamps_ms"],
        tags=meaning.get("tags"),
        created_ms=meaning["created_ms"],
        producer_id=header.producer_id,
        producer_epoch=header.producer_epoch,
        first_sequence=header.first_sequence,
        codec=RecordedBlock(header.codec, block) if header.codec else None,
        limits=Limits(),
    )
    if meaning["stamped"]:
        stamp(encoded, **meaning["stamped"])
    assert encoded == batch


def header_rows() -> list[tuple[int, int, str, str]]:
    """Return offset, size, type and name of each header field, as the page on the format has them."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([ui]\d+) \| `(\w+)` \|", FORMAT_PAGE.read_text(), re.MULTILINE)
    return [(int(offset), int(size), kind, name) for offset, size, kind, name in rows]


@pytest.mark.needs("source-tree")
def test_the_page_on_the_format_accounts_for_every_byte_of_the_header():
    position = 0
    for offset, size, kind, _ in header_rows():
        assert (offset, size * 8) == (position, int(kind[1:]))
        position += size
    assert position == HEADER_BYTES


@pytest.mark.needs("source-tree")
@pytest.mark.parametrize("name", NAMES)
def test_header_read_by_the_page_on_the_format_is_the_header(name: str):
    batch, meaning = load(name)
    constants = {"magic": 0x31514D, "version": 1, "reserved_byte": 0, "reserved_word": 0}
    for offset, size, kind, field in header_rows():
        number = int.from_bytes(batch[offset : offset + size], "little", signed=kind[0] == "i")
        assert number == (constants | meaning["header"])[field], field


@pytest.mark.parametrize("name", [name for name in MESSAGES if name not in ("zlib", "zstandard", "lz4")])
def test_body_read_message_by_message_as_the_page_on_the_format_says(name: str):
    batch, meaning = load(name)
    header, count, position = meaning["header"], meaning["header"]["count"], HEADER_BYTES

    def numbers(kind: str, there: int) -> list[int]:
        nonlocal position
        if not there:
            return []
        position += 4 * count
        return list(struct.unpack(f"<{count}{kind}", batch[position - 4 * count : position]))

    def piece(length: int) -> str:
        nonlocal position
        position += length
        return batch[position - length : position].hex()

    lengths = numbers("I", True)
    key_lengths = numbers("i", header["attributes"] & 1)
    header_lengths = numbers("I", header["attributes"] & 2)
    deltas = numbers("I", header["attributes"] & 4)
    tags: list[str | None] = []
    if header["attributes"] & 16:
        chosen = struct.unpack(f"<{count}H", batch[position : position + 2 * count])
        position += 2 * count
        (different,) = struct.unpack("<H", batch[position : position + 2])
        tag_lengths = struct.unpack(f"<{different}H", batch[position + 2 : position + 2 + 2 * different])
        position += 2 + 2 * different
        table = [bytes.fromhex(piece(length)).decode() for length in tag_lengths]
        tags = [None if number == 65535 else table[number] for number in chosen]
    assert tags == meaning.get("tags", [])
    assert [None if length < 0 else piece(length) for length in key_lengths] == (meaning["keys"] or [])
    assert [bool(piece(length)) for length in header_lengths] == [bool(pairs) for pairs in meaning["headers"] or []]
    assert [header["created_first_ms"] + delta for delta in deltas] == (meaning["timestamps_ms"] or [])
    assert [piece(length) for length in lengths] == meaning["values"]
    assert position == len(batch)


def test_stamped_vector_belongs_to_its_log_only():
    batch, meaning = load("everything")
    salt = meaning["stamped"]["salt"]
    assert unpack_header(batch).header_checksum == crc32c(bytes(batch[:100]), salt)


def test_control_vector_is_the_opaque_payload_and_nothing_else():
    batch, meaning = load("control")
    payload = control_payload(batch)
    assert payload == batch[HEADER_BYTES:] == b"opaque to everybody but the broker"
    assert control_batch(payload, created_ms=meaning["header"]["created_first_ms"]) == batch
