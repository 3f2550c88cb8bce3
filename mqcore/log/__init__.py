"""Batches on a storage backend's logs of bytes, once for every backend: offsets, epochs, recovery, identity."""

from mqcore.log._metadata import MetadataLog
from mqcore.log._partition_log import PartitionLog
from mqcore.log._producers import (
    ACCEPT,
    Accept,
    Conflict,
    Duplicate,
    Fenced,
    Forgotten,
    Gap,
    ProducerTable,
    TableFull,
    TooOld,
    Verdict,
)
from mqcore.log._store import LogStore
from mqcore.log._types import (
    BelowStartError,
    Damage,
    DamagedRangeError,
    EpochEntry,
    IncomingBatch,
    ReadResult,
    RetentionFacts,
)

__all__ = [
    "ACCEPT",
    "Accept",
    "BelowStartError",
    "Conflict",
    "Damage",
    "DamagedRangeError",
    "Duplicate",
    "EpochEntry",
    "Fenced",
    "Forgotten",
    "Gap",
    "IncomingBatch",
    "LogStore",
    "MetadataLog",
    "PartitionLog",
    "ProducerTable",
    "ReadResult",
    "RetentionFacts",
    "TableFull",
    "TooOld",
    "Verdict",
]
