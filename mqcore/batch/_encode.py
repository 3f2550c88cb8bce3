"""Builds batches: columns, payload, checksum, into one buffer with one copy of each message.

Must not know of plug-ins (a codec is handed in), logs or sockets. Layout: docs/format.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.abc import Codec
from mqcore.batch._columns import ABSENT, U32_MAX, MessageHeaders, column_of, pack_headers
from mqcore.batch._header import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_HEADERS,
    ATTRIBUTE_KEYS,
    ATTRIBUTE_TIMESTAMPS,
    BODY_COLUMNAR,
    BODY_CONTROL,
    HEADER_BYTES,
    BatchHeader,
    pack_header,
    seal_body,
)
from mqcore.errors import RejectedError
from mqcore.limits import Limits
from mqcore.ports import Buffer

__all__ = ["control_batch", "encode_batch"]

_HEADER_SPACE = bytes(HEADER_BYTES)


def encode_batch(
    values: Sequence[Buffer],
    *,
    keys: Sequence[Buffer | None] | None = None,
    headers: Sequence[MessageHeaders] | None = None,
    timestamps_ms: Sequence[int] | None = None,
    created_ms: int,
    producer_id: int = 0,
    producer_epoch: int = 0,
    first_sequence: int = 0,
    codec: Codec | None = None,
    limits: Limits,
) -> bytearray:
    """Return one batch of ``values``: producer's header, body and body checksum; the broker's part is zero.

    ``keys``, ``headers`` and ``timestamps_ms`` hold one item per message when given; a column that says nothing (no
    key, no header) is left out. Without ``timestamps_ms`` each message was created at ``created_ms`` (ms since 1970
    UTC). ``codec`` compresses the payload when that makes it smaller. Raises ``RejectedError`` (``batch-too-large``,
    ``message-too-large``, ``malformed-batch``) for what breaks ``limits`` or does not fit the format, ``ValueError``
    for columns of different lengths.
    """
    count = len(values)
    for name, column in (("keys", keys), ("headers", headers), ("timestamps_ms", timestamps_ms)):
        if column is not None and len(column) != count:
            raise ValueError(f"{name} has {len(column)} items for {count} values")
    if not 0 < count <= limits.batch_messages_max:
        name = "batch-too-large" if count else "malformed-batch"
        raise _rejected(name, f"batch of {count} messages", 1, limits.batch_messages_max)
    lengths = list(map(len, values))
    uncompressed = sum(lengths)
    if uncompressed > limits.message_bytes_max:
        _check_each(lengths, limits.message_bytes_max, "message")
    if uncompressed > limits.batch_uncompressed_bytes_max:
        raise _rejected("batch-too-large", f"payload of {uncompressed} bytes", 0, limits.batch_uncompressed_bytes_max)
    attributes = 0
    columns: list[Buffer] = [_HEADER_SPACE, column_of(lengths)]
    variable: list[Buffer] = []
    if keys is not None and any(key is not None for key in keys):
        attributes |= ATTRIBUTE_KEYS
        columns.append(_add_keys(keys, variable, limits))
    if headers is not None and any(headers):
        attributes |= ATTRIBUTE_HEADERS
        columns.append(_add_headers(headers, variable, limits))
    created_last_ms = created_ms
    if timestamps_ms is not None:
        attributes |= ATTRIBUTE_TIMESTAMPS
        created_ms, created_last_ms = min(timestamps_ms), max(timestamps_ms)
        columns.append(_delta_column(timestamps_ms, created_ms, created_last_ms))
    columns += variable
    tag, stored = 0, uncompressed
    compressed = codec.compress(b"".join(values)) if codec is not None and uncompressed else None
    if codec is not None and compressed is not None and len(compressed) < uncompressed:
        tag, stored = codec.tag, len(compressed)
        columns.append(compressed)
    else:
        columns += values
    batch = bytearray().join(columns)
    size = len(batch)
    if size > min(limits.batch_bytes_max, U32_MAX):
        raise _rejected("batch-too-large", f"batch of {size} bytes", 0, min(limits.batch_bytes_max, U32_MAX))
    header = BatchHeader(
        BODY_COLUMNAR, tag, attributes, size, count, producer_id, producer_epoch, first_sequence,
        created_ms, created_last_ms, stored, uncompressed, 0, 0, 0, 0, 0,
    )  # fmt: skip
    batch[:HEADER_BYTES] = pack_header(header)
    seal_body(batch)
    return batch


def control_batch(payload: Buffer, *, created_ms: int, count: int = 0) -> bytearray:
    """Return a batch of the broker's own around ``payload``, opaque bytes under the body checksum.

    ``count``: offsets that it takes (0 for an epoch batch). The broker stamps it like any other.
    """
    batch = bytearray().join((_HEADER_SPACE, payload))
    stored = len(batch) - HEADER_BYTES
    header = BatchHeader(
        BODY_CONTROL, 0, ATTRIBUTE_CONTROL, len(batch), count, 0, 0, 0,
        created_ms, created_ms, stored, stored, 0, 0, 0, 0, 0,
    )  # fmt: skip
    batch[:HEADER_BYTES] = pack_header(header)
    seal_body(batch)
    return batch


def _add_keys(keys: Sequence[Buffer | None], variable: list[Buffer], limits: Limits) -> bytes:
    lengths = [ABSENT if key is None else len(key) for key in keys]
    present = [key for key in keys if key is not None]
    if sum(map(len, present)) > limits.key_bytes_max:
        _check_each([0 if length == ABSENT else length for length in lengths], limits.key_bytes_max, "key of message")
    variable += present
    return column_of(lengths)


def _add_headers(headers: Sequence[MessageHeaders], variable: list[Buffer], limits: Limits) -> bytes:
    encoded = list(map(pack_headers, headers))
    lengths = list(map(len, encoded))
    if sum(lengths) > limits.headers_bytes_max:
        _check_each(lengths, limits.headers_bytes_max, "headers of message")
    variable += encoded
    return column_of(lengths)


def _delta_column(timestamps_ms: Sequence[int], first_ms: int, last_ms: int) -> bytes:
    if last_ms - first_ms > U32_MAX:
        raise RejectedError(
            f"timestamps {first_ms} and {last_ms} are more than {U32_MAX} ms apart; send them in different batches",
            name="malformed-batch",
        )
    return column_of([timestamp - first_ms for timestamp in timestamps_ms])


def _check_each(lengths: Sequence[int], bytes_max: int, what: str) -> None:
    largest = max(lengths)
    if largest > bytes_max:
        raise _rejected("message-too-large", f"{what} {lengths.index(largest)} has {largest} bytes", 0, bytes_max)


def _rejected(name: str, found: str, minimum: int, maximum: int) -> RejectedError:
    return RejectedError(f"{found}; allowed are {minimum} to {maximum}", name=name)
