"""Builds batches: columns, payload, checksum, into one buffer with one copy of each message.

Must not know of plug-ins (a codec is handed in), logs or sockets. Layout: docs/format.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mqcore.abc import Codec
from mqcore.batch._columns import ABSENT, U32_MAX, MessageHeaders, column_of, pack_headers
from mqcore.batch._header import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_HEADERS,
    ATTRIBUTE_KEYS,
    ATTRIBUTE_TAGS,
    ATTRIBUTE_TIMESTAMPS,
    BODY_COLUMNAR,
    BODY_CONTROL,
    HEADER_BYTES,
    BatchHeader,
    seal,
)
from mqcore.batch._refusals import batch_too_large, check_each, malformed
from mqcore.batch._tags import pack_tags
from mqcore.limits import Limits
from mqcore.ports import Buffer

__all__ = ["control_batch", "encode_batch"]

_HEADER_SPACE = bytes(HEADER_BYTES)


def encode_batch(
    values: Sequence[Buffer],
    *,
    lengths: list[int] | None = None,
    keys: Sequence[Buffer | None] | None = None,
    headers: Sequence[MessageHeaders] | None = None,
    timestamps_ms: Sequence[int] | None = None,
    tags: Sequence[str | None] | None = None,
    created_ms: int,
    producer_id: int = 0,
    producer_epoch: int = 0,
    first_sequence: int = 0,
    codec: Codec | None = None,
    limits: Limits,
) -> bytearray:
    """Return one batch of ``values``: producer's header, body and body checksum; the broker's part is zero.

    ``keys``, ``headers``, ``timestamps_ms`` and ``tags`` hold one item per message when given; a column that says
    nothing (no key, no header, no tag) is left out. Without ``timestamps_ms`` each message was created at
    ``created_ms`` (ms since 1970 UTC). ``lengths`` are those of ``values``, where the caller has them. ``codec``
    compresses the payload when that makes it smaller. Raises ``RejectedError`` (``batch-too-large``,
    ``message-too-large``, ``malformed-batch``) for what breaks ``limits`` or does not fit the format, ``ValueError``
    for columns of different lengths, or an empty tag.
    """
    count = len(values)
    has_columns = keys is not None or headers is not None or timestamps_ms is not None or tags is not None
    if has_columns or not 0 < count <= limits.batch_messages_max:
        _check_counts(count, {"keys": keys, "headers": headers, "timestamps_ms": timestamps_ms, "tags": tags}, limits)
    if lengths is None:
        lengths = list(map(len, values))
    uncompressed = sum(lengths)
    if uncompressed > limits.message_bytes_max:
        check_each("message", lengths, limits.message_bytes_max)
    if uncompressed > limits.batch_uncompressed_bytes_max:
        raise batch_too_large(f"payload of {uncompressed} bytes", limits.batch_uncompressed_bytes_max)
    parts: list[Buffer] = [_HEADER_SPACE, column_of(lengths)]
    attributes, created_last_ms = 0, created_ms
    if has_columns:
        attributes = _add_columns(parts, keys, headers, timestamps_ms, tags, limits)
    if timestamps_ms is not None:
        created_ms, created_last_ms = min(timestamps_ms), max(timestamps_ms)
    columns_bytes = sum(map(len, parts))
    tag, stored = (0, uncompressed) if codec is None else _add_payload(parts, values, uncompressed, codec)
    if codec is None:
        parts += values
    batch = bytearray().join(parts)
    if len(batch) != columns_bytes + stored:
        raise ValueError("values and keys must be bytes; a memoryview of wider items has to be cast to bytes first")
    bytes_max = min(limits.batch_bytes_max, U32_MAX)
    if len(batch) > bytes_max:
        raise batch_too_large(f"batch of {len(batch)} bytes", bytes_max)
    return seal(
        batch,
        BatchHeader(
            BODY_COLUMNAR, tag, attributes, len(batch), count, producer_id, producer_epoch, first_sequence,
            created_ms, created_last_ms, stored, uncompressed, 0, 0, 0, 0, 0,
        ),
    )  # fmt: skip


def control_batch(payload: Buffer, *, created_ms: int, count: int = 0) -> bytearray:
    """Return a batch of the broker's own around ``payload``, opaque bytes under the body checksum.

    ``count``: offsets that it takes (0 for an epoch batch). The broker stamps it like any other.
    """
    batch = bytearray().join((_HEADER_SPACE, payload))
    stored = len(batch) - HEADER_BYTES
    return seal(
        batch,
        BatchHeader(
            BODY_CONTROL, 0, ATTRIBUTE_CONTROL, len(batch), count, 0, 0, 0,
            created_ms, created_ms, stored, stored, 0, 0, 0, 0, 0,
        ),
    )  # fmt: skip


def _check_counts(count: int, columns: Mapping[str, Sequence[object] | None], limits: Limits) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != count:
            raise ValueError(f"{name} has {len(column)} items for {count} values")
    if count == 0:
        raise malformed("batch without a message; a batch holds at least 1")
    if count > limits.batch_messages_max:
        raise batch_too_large(f"batch of {count} messages", limits.batch_messages_max)


def _add_columns(
    parts: list[Buffer],
    keys: Sequence[Buffer | None] | None,
    headers: Sequence[MessageHeaders] | None,
    timestamps_ms: Sequence[int] | None,
    tags: Sequence[str | None] | None,
    limits: Limits,
) -> int:
    """Append the columns that say something to ``parts``, and what two of them measure; return their attributes."""
    attributes = 0
    variable: list[Buffer] = []
    if keys is not None and any(key is not None for key in keys):
        attributes |= ATTRIBUTE_KEYS
        parts.append(_add_keys(keys, variable, limits))
    if headers is not None and any(headers):
        attributes |= ATTRIBUTE_HEADERS
        parts.append(_add_headers(headers, variable, limits))
    if timestamps_ms is not None:
        attributes |= ATTRIBUTE_TIMESTAMPS
        parts.append(_delta_column(timestamps_ms, min(timestamps_ms), max(timestamps_ms)))
    if tags is not None and (column := pack_tags(tags, limits)):
        attributes |= ATTRIBUTE_TAGS
        parts.append(column)
    parts += variable
    return attributes


def _add_payload(parts: list[Buffer], values: Sequence[Buffer], uncompressed: int, codec: Codec) -> tuple[int, int]:
    """Append the payload to ``parts``; return the codec's tag and the stored size."""
    if uncompressed:
        compressed = codec.compress(b"".join(values))
        if len(compressed) < uncompressed:
            parts.append(compressed)
            return codec.tag, len(compressed)
    parts += values
    return 0, uncompressed


def _add_keys(keys: Sequence[Buffer | None], variable: list[Buffer], limits: Limits) -> bytes:
    lengths = [ABSENT if key is None else len(key) for key in keys]
    present = [key for key in keys if key is not None]
    if sum(map(len, present)) > limits.key_bytes_max:
        check_each("key", [0 if length == ABSENT else length for length in lengths], limits.key_bytes_max)
    variable += present
    return column_of(lengths)


def _add_headers(headers: Sequence[MessageHeaders], variable: list[Buffer], limits: Limits) -> bytes:
    encoded = list(map(pack_headers, headers))
    lengths = list(map(len, encoded))
    if sum(lengths) > limits.headers_bytes_max:
        check_each("headers", lengths, limits.headers_bytes_max)
    variable += encoded
    return column_of(lengths)


def _delta_column(timestamps_ms: Sequence[int], first_ms: int, last_ms: int) -> bytes:
    if last_ms - first_ms > U32_MAX:
        raise malformed(
            f"timestamps {first_ms} and {last_ms} are more than {U32_MAX} ms apart; send them in different batches"
        )
    return column_of([timestamp - first_ms for timestamp in timestamps_ms])
