"""Contracts of the parts. A plug-in imports these and the other public modules of the ground floor."""

from mqcore.abc._codec import Codec
from mqcore.abc._command import Command
from mqcore.abc._context import Notice, StorageContext, TransportContext, ignore_notice
from mqcore.abc._storage import (
    CONTRACT_VERSION,
    END_MARK_BYTES,
    Capabilities,
    FlushedLog,
    Log,
    StorageBackend,
    check_log_name,
)
from mqcore.abc._transport import ByteStream, Link, Listener, Peer, Transport, TransportCapabilities
from mqcore.ports import Buffer
from mqcore.url import Url

__all__ = [
    "CONTRACT_VERSION",
    "END_MARK_BYTES",
    "Buffer",
    "ByteStream",
    "Capabilities",
    "Codec",
    "Command",
    "FlushedLog",
    "Link",
    "Listener",
    "Log",
    "Notice",
    "Peer",
    "StorageBackend",
    "StorageContext",
    "Transport",
    "TransportCapabilities",
    "TransportContext",
    "Url",
    "check_log_name",
    "ignore_notice",
]
