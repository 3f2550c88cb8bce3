"""Batches on a storage backend's logs of bytes, once for every backend: offsets, epochs, recovery, identity."""

from mqcore.log._history import divergence_of_histories
from mqcore.log._inspect import LogFinding, StorageInspection, verify_storage
from mqcore.log._metadata import MetadataLog
from mqcore.log._names import partition_log_name, partition_salt
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
    LogPoint,
    ReadResult,
    StoredBatches,
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
    "LogFinding",
    "LogPoint",
    "LogStore",
    "MetadataLog",
    "PartitionLog",
    "ProducerTable",
    "ReadResult",
    "StorageInspection",
    "StoredBatches",
    "TableFull",
    "TooOld",
    "Verdict",
    "divergence_of_histories",
    "partition_log_name",
    "partition_salt",
    "verify_storage",
]
