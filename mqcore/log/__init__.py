"""Batches on a storage backend's logs of bytes, once for every backend: offsets, epochs, recovery, identity."""

from mqcore.log._based import LogStart
from mqcore.log._control import ProducerEnd, encode_record, pack_cursors_batch, unpack_cursors_batch
from mqcore.log._folder import BackupFolder
from mqcore.log._history import UNKNOWN_REIGN, divergence_of_histories
from mqcore.log._inspect import LogFinding, StorageInspection, verify_storage
from mqcore.log._mending import Answers, CopyThere, Mended, MendTry
from mqcore.log._metadata import MetadataLog, SnapshotAt
from mqcore.log._names import METADATA_NAME, QUARANTINE_MARK, partition_log_name, partition_salt, salt_of_name
from mqcore.log._partition_log import PartitionLog
from mqcore.log._pass_through import PassThroughLog
from mqcore.log._producers import ProducerTable
from mqcore.log._quarantine import PARTED
from mqcore.log._recovery import damage_notice
from mqcore.log._side_file import SideFile, read_side_file, side_file_batches
from mqcore.log._store import LogStore
from mqcore.log._transfer import CopiedLog, Transfer, backup_identity, moved_identity, restored_identity
from mqcore.log._types import (
    NOWHERE,
    BelowStartError,
    Damage,
    DamagedRangeError,
    EpochEntry,
    IncomingBatch,
    LogPoint,
    ReadResult,
    StoredBatches,
)
from mqcore.log._verdicts import (
    ACCEPT,
    Accept,
    Conflict,
    Duplicate,
    Fenced,
    Forgotten,
    Gap,
    GivenUp,
    SentBefore,
    TableFull,
    TooOld,
    Verdict,
)

__all__ = [
    "ACCEPT",
    "METADATA_NAME",
    "Accept",
    "Answers",
    "BackupFolder",
    "BelowStartError",
    "Conflict",
    "CopyThere",
    "CopiedLog",
    "Damage",
    "DamagedRangeError",
    "Duplicate",
    "EpochEntry",
    "Fenced",
    "Forgotten",
    "Gap",
    "GivenUp",
    "IncomingBatch",
    "NOWHERE",
    "LogFinding",
    "LogPoint",
    "LogStart",
    "LogStore",
    "MendTry",
    "Mended",
    "MetadataLog",
    "PARTED",
    "PartitionLog",
    "PassThroughLog",
    "ProducerEnd",
    "ProducerTable",
    "QUARANTINE_MARK",
    "ReadResult",
    "SideFile",
    "SnapshotAt",
    "StorageInspection",
    "StoredBatches",
    "TableFull",
    "SentBefore",
    "TooOld",
    "UNKNOWN_REIGN",
    "Transfer",
    "Verdict",
    "backup_identity",
    "damage_notice",
    "divergence_of_histories",
    "encode_record",
    "moved_identity",
    "pack_cursors_batch",
    "partition_log_name",
    "partition_salt",
    "read_side_file",
    "restored_identity",
    "side_file_batches",
    "unpack_cursors_batch",
    "salt_of_name",
    "verify_storage",
]
