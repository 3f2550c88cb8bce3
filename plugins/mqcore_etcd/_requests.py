"""Bodies of the requests to etcd's JSON gateway. Pure.

Built here and nowhere else, field by field: the gateway ignores a field that it does not know, and takes a comparison
without ``target`` for VERSION = 0, which a key that does not exist passes. A misspelt field would be a write without a
condition. Numbers of 64 bits travel as text, bytes as base64.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence

from mqcore.abc import WRITE_ID_BYTES

__all__ = [
    "Part",
    "authenticate_body",
    "compare_absent",
    "compare_id",
    "end_of_prefix",
    "get_key",
    "keys_body",
    "put_value",
    "split_value",
    "stored_value",
    "txn_body",
    "watch_body",
]

Part = Mapping[str, object]
_AFTER_ID = b"\0"
"""Between the write id and the value, so that what is stored is longer than the id."""


def stored_value(write_id: bytes, value: bytes) -> bytes:
    """Return what a key has after a write."""
    return write_id + _AFTER_ID + value


def split_value(stored: bytes) -> tuple[bytes, bytes]:
    """Return the write id and the value. Raises ``ValueError`` for what no write of ours put there."""
    if stored[WRITE_ID_BYTES : WRITE_ID_BYTES + 1] != _AFTER_ID:
        raise ValueError(f"a value of {len(stored)} bytes without a write id: is the prefix another program's?")
    return stored[:WRITE_ID_BYTES], stored[WRITE_ID_BYTES + 1 :]


def compare_id(key: bytes, write_id: bytes) -> list[Part]:
    """Return the conditions that ``key`` has what the write with this id put there.

    etcd compares whole values, by their order too: what begins with the id lies between these two, and nothing else.
    """
    above, below = write_id, write_id + bytes([_AFTER_ID[0] + 1])
    return [
        {"key": _text(key), "target": "VALUE", "result": "GREATER", "value": _text(above)},
        {"key": _text(key), "target": "VALUE", "result": "LESS", "value": _text(below)},
    ]


def compare_absent(key: bytes) -> Part:
    """Return the condition that ``key`` does not exist: what does not was created at revision 0."""
    return {"key": _text(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}


def put_value(key: bytes, value: bytes) -> Part:
    """Return the operation that puts ``value`` at ``key``."""
    return {"request_put": {"key": _text(key), "value": _text(value)}}


def get_key(key: bytes) -> Part:
    """Return the operation that reads ``key``, from a majority: a ``serializable`` read would ask one member only."""
    return {"request_range": {"key": _text(key)}}


def txn_body(conditions: Sequence[Part], operations: Sequence[Part]) -> bytes:
    """Return a transaction: all ``operations`` if all ``conditions`` hold, else nothing."""
    return _body({"compare": list(conditions), "success": list(operations)})


def keys_body(first: bytes, end: bytes, limit: int) -> bytes:
    """Return the request for at most ``limit`` keys from ``first`` to before ``end``, in order, without values."""
    return _body({"key": _text(first), "range_end": _text(end), "limit": str(limit), "keys_only": True})


def watch_body(first: bytes, end: bytes) -> bytes:
    """Return the request to be told of changes from now on to keys from ``first`` to before ``end``."""
    return _body({"create_request": {"key": _text(first), "range_end": _text(end)}})


def authenticate_body(user: str, password: str) -> bytes:
    """Return the request for a token."""
    return _body({"name": user, "password": password})


def end_of_prefix(prefix: bytes) -> bytes:
    """Return the least key after all that begin with ``prefix``, whose last byte is not 255."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _body(fields: Part) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()
