"""Writes the test vectors beside this file: ``python tests/batch/make_vectors.py``.

Run by hand when the format gains something, never by a test: committed vectors do not change, so that every version
reads what earlier ones wrote. Each vector is a pair: ``NAME.bin``, the bytes, and ``NAME.json``, what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mqcore.abc import Codec
from mqcore.batch import control_batch, encode_batch, stamp, unpack_header
from mqcore.limits import Limits
from mqcore.registry import find_codec

FOLDER = Path(__file__).with_name("vectors")
CREATED_MS = 1_700_000_000_000
TEXT = b"the quick brown fox jumps over the lazy dog, "


def write(
    name: str,
    what: str,
    values: Sequence[bytes],
    *,
    keys: list[bytes | None] | None = None,
    headers: list[list[tuple[str, bytes]]] | None = None,
    timestamps_ms: list[int] | None = None,
    tags: list[str | None] | None = None,
    codec: Codec | None = None,
    producer: tuple[int, int, int] = (0, 0, 0),
    stamped: dict[str, int] | None = None,
) -> None:
    batch = encode_batch(
        values,
        keys=keys,
        headers=headers,
        timestamps_ms=timestamps_ms,
        tags=tags,
        created_ms=CREATED_MS,
        producer_id=producer[0],
        producer_epoch=producer[1],
        first_sequence=producer[2],
        codec=codec,
        limits=Limits(),
    )
    if stamped is not None:
        stamp(batch, **stamped)
    save(
        name,
        batch,
        {
            "what": what,
            "values": [value.hex() for value in values],
            "keys": keys and [None if key is None else key.hex() for key in keys],
            "headers": headers and [[[key, value.hex()] for key, value in pairs] for pairs in headers],
            "timestamps_ms": timestamps_ms,
            **({"tags": tags} if tags else {}),
            "created_ms": CREATED_MS,
            "stamped": stamped,
        },
    )


def save(name: str, batch: bytearray, meaning: dict[str, object]) -> None:
    meaning["header"] = unpack_header(batch)._asdict()
    (FOLDER / f"{name}.bin").write_bytes(batch)
    (FOLDER / f"{name}.json").write_text(json.dumps(meaning, indent=1) + "\n")


def main() -> None:
    write("one-message", "one message, nothing else", [b"hello"])
    write("one-empty-message", "one message without a byte", [b""])
    write("equal-lengths", "messages of one length", [bytes([n]) * 16 for n in range(20)])
    write("lengths-0-to-40", "messages of 0 to 40 bytes", [bytes(range(n)) for n in range(41)])
    write("keys", "no key, an empty key, keys", [b"a", b"b", b"c", b"d"], keys=[None, b"", b"k", b"a longer key"])
    write(
        "headers",
        "no headers, one, a name twice, an empty value, a name in UTF-8",
        [b"a", b"b", b"c"],
        headers=[[], [("content-type", b"text/plain")], [("tag", b"1"), ("tag", b""), ("größe", b"\x00\xff")]],
    )
    unsorted = [CREATED_MS + 9, CREATED_MS, CREATED_MS + 4]
    write("timestamps", "times that are not sorted", [b"a", b"b", b"c"], timestamps_ms=unsorted)
    write(
        "everything",
        "all columns, a producer, and the broker's part stamped with the salt of a log",
        [TEXT * n for n in (1, 0, 3)],
        keys=[b"fox", None, b""],
        headers=[[("n", b"1")], [], [("n", b"3")]],
        timestamps_ms=[CREATED_MS, CREATED_MS + 1, CREATED_MS + 4_294_967_295],
        producer=(0xFEDCBA9876543210, 7, 1_000_000_000_000),
        stamped={"base_offset": 1 << 40, "epoch": 3, "appended_ms": CREATED_MS + 20, "salt": 0xDEADBEEF},
    )
    write("tags", "no tag, one twice, one in UTF-8", [b"a", b"b", b"c", b"d"], tags=["paid", None, "größe", "paid"])
    write(
        "tags-and-everything",
        "all columns, tags among them",
        [TEXT * n for n in (1, 0, 3)],
        keys=[b"fox", None, b""],
        headers=[[("n", b"1")], [], [("n", b"3")]],
        timestamps_ms=[CREATED_MS, CREATED_MS + 1, CREATED_MS + 2],
        tags=[None, "b", "a"],
    )
    for codec in ("zlib", "zstandard", "lz4"):
        write(codec, f"payload compressed with {codec}", [TEXT * 4] * 8, codec=find_codec(codec))
    control = control_batch(b"opaque to everybody but the broker", created_ms=CREATED_MS)
    save("control", control, {"what": "a batch of the broker's own, which takes no offset"})


if __name__ == "__main__":
    main()
