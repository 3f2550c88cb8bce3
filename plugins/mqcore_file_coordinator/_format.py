"""One file: a line with the format's version and a checksum, then the pair as JSON, for an operator's eyes. Pure."""

from __future__ import annotations

import base64
import json

from crc32c import crc32c

from mqcore.abc import CellPair, CoordinatorCell
from mqcore.errors import CorruptionError

__all__ = ["decode_pair", "encode_pair"]

_HEAD = "mqcore-coordinator 1 "


def encode_pair(pair: CellPair) -> bytes:
    """Return the bytes of the file that holds ``pair``."""
    body = json.dumps({"record": _plain(pair.record), "lease": _plain(pair.lease)}).encode()
    return f"{_HEAD}{crc32c(body):08x}\n".encode() + body


def decode_pair(data: bytes, path: str) -> CellPair:
    """Return the pair in ``data``; ``CorruptionError`` names ``path`` and what is wrong, and nothing starts empty."""
    head, _, body = data.partition(b"\n")
    expected = f"{_HEAD}{crc32c(body):08x}"
    if head != expected.encode():
        raise CorruptionError("no file of a coordinator", where=path, expected=repr(expected), found=repr(head[:60]))
    fields = json.loads(body)
    return CellPair(_cell(fields["record"]), _cell(fields["lease"]))


def _plain(cell: CoordinatorCell) -> list[str] | None:
    return None if cell.value is None else [cell.write_id.hex(), base64.b64encode(cell.value).decode()]


def _cell(plain: list[str] | None) -> CoordinatorCell:
    return CoordinatorCell() if plain is None else CoordinatorCell(base64.b64decode(plain[1]), bytes.fromhex(plain[0]))
