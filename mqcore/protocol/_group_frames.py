"""Frames of consumer groups, read and written: what a member says, what it is given, what it has done with.

Must not know of connections, credit or order, nor of what a group is.
"""

from __future__ import annotations

from mqcore.ports import Buffer
from mqcore.protocol._layout import (
    COMMIT,
    COMMITTED_ENTRY,
    FRESH,
    GRANT_ENTRY,
    HELD_ENTRY,
    LEAVES,
    NAME_BYTES_MAX,
    SYNC,
    SYNCED,
    UNCHANGED,
    frame,
    malformed,
    read_entries,
    read_fixed,
    read_text,
)
from mqcore.protocol._messages import Commit, Committed, Kind, Sync, Synced

__all__ = [
    "decode_commit",
    "decode_committed",
    "decode_sync",
    "decode_synced",
    "encode_commit",
    "encode_committed",
    "encode_sync",
    "encode_synced",
]


def encode_sync(message: Sync) -> list[Buffer]:
    """Return what a member says of itself."""
    member, group, assignor = message.member.encode(), message.group.encode(), message.assignor.encode()
    fixed = SYNC.pack(
        message.topic_id,
        message.token,
        message.sequence,
        message.seen,
        message.session_ms,
        message.rebalance_ms,
        message.wait_ms,
        len(member),
        len(group),
        len(assignor),
    )
    held = b"".join(HELD_ENTRY.pack(*entry) for entry in message.held)
    flags = (FRESH if message.is_fresh else 0) | (LEAVES if message.leaves else 0)
    return frame(Kind.SYNC, fixed + member + group + assignor + held, flags=flags, number=message.request_id)


def decode_sync(flags: int, code: int, request_id: int, payload: memoryview) -> Sync:
    """Return what a member says of itself."""
    topic_id, token, sequence, seen, session_ms, rebalance_ms, wait_ms, *sizes = read_fixed(SYNC, payload, "sync")
    (member, group, assignor), rest = _read_names(payload[SYNC.size :], sizes, "sync")
    held = read_entries(HELD_ENTRY, rest, "sync")
    return Sync(
        request_id, topic_id, group, member, token, sequence, bool(flags & FRESH), bool(flags & LEAVES), seen,
        session_ms, rebalance_ms, wait_ms, assignor, held,
    )  # fmt: skip


def _read_names(payload: memoryview, sizes: list[int], what: str) -> tuple[list[str], memoryview]:
    names: list[str] = []
    for size in sizes:
        if size > NAME_BYTES_MAX or size > len(payload):
            raise malformed(f"{what} frame with a name of {size} bytes where {len(payload)} are left")
        names.append(read_text(payload[:size], f"a name in a {what} frame"))
        payload = payload[size:]
    return names, payload


def encode_synced(message: Synced) -> list[Buffer]:
    """Return what a member is given."""
    granted = message.granted
    entries = b"" if granted is None else b"".join(GRANT_ENTRY.pack(*entry) for entry in granted)
    flags = UNCHANGED if granted is None else 0
    return frame(Kind.SYNCED, SYNCED.pack(message.generation) + entries, flags=flags, number=message.request_id)


def decode_synced(flags: int, code: int, request_id: int, payload: memoryview) -> Synced:
    """Return what a member is given."""
    (generation,) = read_fixed(SYNCED, payload, "synced")
    granted = read_entries(GRANT_ENTRY, payload[SYNCED.size :], "synced")
    if flags & UNCHANGED and granted:
        raise malformed("synced frame that says that nothing has changed, and what")
    return Synced(request_id, generation, None if flags & UNCHANGED else granted)


def encode_commit(message: Commit) -> list[Buffer]:
    """Return what a member has done with."""
    member, group = message.member.encode(), message.group.encode()
    fixed = COMMIT.pack(message.topic_id, message.token, len(member), len(group))
    entries = b"".join(GRANT_ENTRY.pack(*entry) for entry in message.entries)
    return frame(Kind.COMMIT, fixed + member + group + entries, number=message.request_id)


def decode_commit(flags: int, code: int, request_id: int, payload: memoryview) -> Commit:
    """Return what a member has done with."""
    topic_id, token, *sizes = read_fixed(COMMIT, payload, "commit")
    (member, group), rest = _read_names(payload[COMMIT.size :], sizes, "commit")
    entries = read_entries(GRANT_ENTRY, rest, "commit")
    return Commit(request_id, topic_id, group, member, token, entries)


def encode_committed(message: Committed) -> list[Buffer]:
    """Return the cursors that are in force."""
    entries = b"".join(COMMITTED_ENTRY.pack(*entry) for entry in message.cursors)
    return frame(Kind.COMMITTED, entries, number=message.request_id)


def decode_committed(flags: int, code: int, request_id: int, payload: memoryview) -> Committed:
    """Return the cursors that are in force."""
    return Committed(request_id, read_entries(COMMITTED_ENTRY, payload, "committed"))
