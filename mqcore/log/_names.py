"""Names and salts of logs: what belongs to a partition, what the store keeps for itself. Pure."""

from __future__ import annotations

import re

from crc32c import crc32c

__all__ = [
    "ENDS_NAME",
    "IDENTITY_NAME",
    "IDENTITY_NAMES",
    "METADATA_NAME",
    "QUARANTINE_MARK",
    "SIDECAR_SUFFIX",
    "TRANSFER_NAME",
    "is_partition_name",
    "metadata_salt",
    "partition_log_name",
    "partition_salt",
    "salt_of_name",
]

IDENTITY_NAME = "identity"
IDENTITY_NAMES = (IDENTITY_NAME, "identity-copy")
METADATA_NAME = "metadata"
ENDS_NAME = "clean-ends"
SIDECAR_SUFFIX = ".state"
TRANSFER_NAME = "transfer"
"""Stands in a storage that is being filled from another one, until everything is there."""
QUARANTINE_MARK = ".quarantine-"
"""Between a log's name and the epoch and position at which a recovery set bytes aside."""

# A topic's id, not its name: a topic that is deleted and made anew must not meet the logs of the old one.
_PARTITION = re.compile(r"([0-9a-f]{32})-([0-9]{1,9})\Z")


def is_partition_name(name: str) -> bool:
    """Whether ``name`` is that of a partition log, not of one that the store keeps for itself."""
    return "." not in name and name not in (*IDENTITY_NAMES, METADATA_NAME, ENDS_NAME, TRANSFER_NAME)


def partition_log_name(topic_id: bytes, partition: int) -> str:
    """Name of the log of one partition; ``topic_id``: 16 bytes."""
    return f"{topic_id.hex()}-{partition}"


def partition_salt(topic_id: bytes, partition: int) -> int:
    """The 32 bits that seed the header checksums of one partition's log.

    From ids that all members share, never from a node: the copies are the same bytes.
    """
    return crc32c(topic_id + partition.to_bytes(4, "little"))


def metadata_salt(set_id: bytes) -> int:
    """Salt of the metadata log that the nodes of the set ``set_id`` share: of no node, or replicas would differ."""
    return crc32c(set_id)


def salt_of_name(name: str) -> int | None:
    """Salt of the partition log called ``name``; None when the name is not one of ``partition_log_name``."""
    match = _PARTITION.match(name)
    return partition_salt(bytes.fromhex(match[1]), int(match[2])) if match else None
