"""The batch: what producers build, brokers store and consumers split."""

from mqcore.batch._columns import HeaderPairs, MessageHeaders
from mqcore.batch._decode import CodecLookup, DecodedBatch, decode_batch
from mqcore.batch._encode import control_batch, encode_batch
from mqcore.batch._header import (
    ATTRIBUTE_CONTROL,
    ATTRIBUTE_HEADERS,
    ATTRIBUTE_KEYS,
    ATTRIBUTE_TAGS,
    ATTRIBUTE_TIMESTAMPS,
    ATTRIBUTES_KNOWN,
    BODY_COLUMNAR,
    BODY_CONTROL,
    HEADER_BYTES,
    MAGIC,
    PRODUCER_BYTES,
    VERSION,
    BatchHeader,
    body_checksum_of,
    pack_header,
    seal_body,
    stamp,
    unpack_header,
    verify_body,
)
from mqcore.batch._run import PlainBatch, PlainRun, plain_run, whole_batches
from mqcore.batch._tags import TagTable, pack_tag_table, read_tag_table, tags_in
from mqcore.batch._validate import PRIVATE_TAG_MIN, control_payload, validate_batch

__all__ = [
    "ATTRIBUTES_KNOWN",
    "ATTRIBUTE_CONTROL",
    "ATTRIBUTE_HEADERS",
    "ATTRIBUTE_KEYS",
    "ATTRIBUTE_TAGS",
    "ATTRIBUTE_TIMESTAMPS",
    "BODY_COLUMNAR",
    "BODY_CONTROL",
    "HEADER_BYTES",
    "MAGIC",
    "PRIVATE_TAG_MIN",
    "PRODUCER_BYTES",
    "VERSION",
    "BatchHeader",
    "CodecLookup",
    "DecodedBatch",
    "HeaderPairs",
    "MessageHeaders",
    "PlainBatch",
    "PlainRun",
    "TagTable",
    "body_checksum_of",
    "control_batch",
    "control_payload",
    "decode_batch",
    "encode_batch",
    "pack_header",
    "pack_tag_table",
    "plain_run",
    "read_tag_table",
    "seal_body",
    "stamp",
    "tags_in",
    "unpack_header",
    "validate_batch",
    "verify_body",
    "whole_batches",
]
