"""The identity of a storage (rule R2): who it belongs to, its set, incarnation and reign, how it was stopped.

Records of 512 bytes in two logs. A record is written to one and flushed, then to the other and flushed, and counts
from then on: so a crash tears at most one copy, and damage to both is reported and never answered by a new identity. A
log that is full begins anew in the space that it has, while the other holds what counts: restarts must go on when the
disk is full, for ever. Layout: docs/log.md.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Sequence

import attrs
from crc32c import crc32c

from mqcore.abc import Log, Notice
from mqcore.errors import ConfigurationError, CorruptionError, StorageError
from mqcore.log._scan import WINDOW_BYTES, read_exactly

__all__ = ["Identity", "IdentityLog", "pack_identity", "unpack_identity"]

RECORD_BYTES = 512
LOG_BYTES_MAX = 8 * RECORD_BYTES
"""Most that one of the logs grows to: no more than the least that a storage takes for a log at once."""
NODE_NAME_BYTES_MAX = 128

MAGIC = 0x4449514D  # "MQID"
VERSION = 2

# magic, version, copy, clean, flushed only, sequence, own position, node id, set id, incarnation, reign number,
# reign id, highest epoch, metadata end, boot id, instance, node name, clock base
_LAYOUT = struct.Struct("<IHBBB7xQQ16s16sQQ16sQQ64s64s128sq")
_U32 = struct.Struct("<I")
_SEALED_BYTES = RECORD_BYTES - 4
assert _LAYOUT.size <= _SEALED_BYTES


@attrs.frozen(kw_only=True)
class Identity:
    """What the identity log says. Ids are 16 random bytes.

    ``set_id``: shared by the nodes that hold the same logs; the metadata log's salt comes from it. ``reign_number`` and
    ``reign_id``: this node's last reign, 0 before the first. ``highest_epoch``: highest number of any node's reign that
    was acted on here (R4). ``metadata_end``: end of the metadata log at a clean stop, 0 else. ``clean``: everything was
    flushed and nothing was appended since. ``flushed_only``: the node reports flushed positions only (R2 b).
    ``boot_id`` is the kernel's, ``instance`` names the mount as far as the backend knows. ``clock_base_ms``: how far
    the wall clock was ahead of the one since boot when it was last taken for right in this boot (R15); 0: not known.
    """

    node_id: bytes
    set_id: bytes
    node_name: str
    incarnation: int
    reign_number: int
    reign_id: bytes
    highest_epoch: int
    metadata_end: int
    clean: bool
    flushed_only: bool
    boot_id: str
    instance: str
    clock_base_ms: int = 0


def pack_identity(identity: Identity, *, sequence: int, copy: int, position: int) -> bytes:
    """The record of ``identity`` at ``position``. Raises ``ConfigurationError`` for a node name that is too long."""
    name = identity.node_name.encode()
    if len(name) > NODE_NAME_BYTES_MAX:
        raise ConfigurationError(
            f"node name {identity.node_name[:40]!r}... has {len(name)} bytes; at most {NODE_NAME_BYTES_MAX}"
        )
    record = _LAYOUT.pack(
        MAGIC,
        VERSION,
        copy,
        identity.clean,
        identity.flushed_only,
        sequence,
        position,
        identity.node_id,
        identity.set_id,
        identity.incarnation,
        identity.reign_number,
        identity.reign_id,
        identity.highest_epoch,
        identity.metadata_end,
        identity.boot_id.encode()[:64],
        identity.instance.encode()[:64],
        name,
        identity.clock_base_ms,
    ).ljust(_SEALED_BYTES, b"\0")
    return record + _U32.pack(crc32c(record))


def unpack_identity(record: bytes, position: int) -> tuple[Identity, int] | None:
    """The identity and the sequence number in ``record``, None if it is not a whole record of this place.

    Raises ``StorageError`` (kind ``foreign``) for a whole record of another format version.
    """
    (checksum,) = _U32.unpack_from(record, _SEALED_BYTES)
    if checksum != crc32c(record[:_SEALED_BYTES]):
        return None
    fields = _LAYOUT.unpack_from(record)
    magic, version, _, clean, flushed_only, sequence, own_position, *facts = fields
    if magic != MAGIC:
        return None
    if version != VERSION:
        raise StorageError(
            f"the storage was written in format version {version}, this mqcore reads version {VERSION}; "
            "use the mqcore that wrote it",
            kind="foreign",
        )
    if own_position != position:
        return None
    node_id, set_id, incarnation, number, reign_id, highest_epoch, metadata_end, boot_id, instance, name, base = facts
    identity = Identity(
        node_id=node_id,
        set_id=set_id,
        node_name=name.rstrip(b"\0").decode(errors="replace"),
        incarnation=incarnation,
        reign_number=number,
        reign_id=reign_id,
        highest_epoch=highest_epoch,
        metadata_end=metadata_end,
        clean=bool(clean),
        flushed_only=bool(flushed_only),
        boot_id=boot_id.rstrip(b"\0").decode(errors="replace"),
        instance=instance.rstrip(b"\0").decode(errors="replace"),
        clock_base_ms=base,
    )
    return identity, sequence


class _Copy:
    """One of the two logs, as it was read: its newest whole record, and what is no record behind that."""

    def __init__(self, log: Log, number: int) -> None:
        self.log = log
        self.number = number
        self.identity: Identity | None = None
        self.sequence = 0
        self.end = log.start
        """Position after the newest whole record."""
        self.bad: list[int] = []
        """Positions of records before the newest, and below what flushed bytes prove, that cannot be read."""
        self.is_spoiled = False
        """Whether a record behind the newest whole one was there and cannot be read."""

    async def read(self) -> None:
        """Find the newest whole record. Raises ``StorageError``: another format version, or the device failed."""
        log = self.log
        behind: list[int] = []
        for position, record in await _records(log):
            found = unpack_identity(record, position)
            if found is not None:
                self.identity, self.sequence = found
                self.end = position + RECORD_BYTES
                self.bad += behind
                behind.clear()
            elif any(record):
                behind.append(position)
        # Above what flushed bytes prove a used segment may show bytes of another time. A storage that proves nothing
        # after a crash leaves the number: a torn write is one record.
        proven = [position for position in behind if position + RECORD_BYTES <= log.durable_end]
        if log.durable_end == log.start and len(behind) > 1:
            proven = behind
        self.is_spoiled = bool(proven)
        self.bad += proven

    async def write(self, identity: Identity, sequence: int) -> None:
        """Append the record; what cannot be read gives way to it, and so does all else in a full log."""
        log = self.log
        if self.end + RECORD_BYTES > LOG_BYTES_MAX:
            self.end = log.start
        if log.end > self.end:
            await log.truncate(self.end)
        await log.append([pack_identity(identity, sequence=sequence, copy=self.number, position=self.end)])


class IdentityLog:
    """Reads and writes the identity on two ``logs``; ``flush`` makes one durable."""

    def __init__(
        self,
        logs: Sequence[Log],
        *,
        flush: Callable[[Sequence[Log]], Awaitable[None]],
        report: Callable[[Notice], None],
    ) -> None:
        self._copies = [_Copy(log, number) for number, log in enumerate(logs)]
        self._flush = flush
        self._report = report
        self._sequence = 0

    async def read(self) -> Identity | None:
        """Return the newest identity, None in a storage that never had one.

        Raises ``CorruptionError`` when there was one that cannot be read, ``StorageError`` (kind ``foreign``) for
        another format version.
        """
        for copy in self._copies:
            await copy.read()
        newest = max(self._copies, key=lambda copy: copy.sequence)
        spoiled = [copy for copy in self._copies if copy.is_spoiled]
        if len(spoiled) == len(self._copies) or (spoiled and newest.identity is None):
            raise CorruptionError(
                "the identity of this storage is damaged: restore it from a good copy, a new one is never made up",
                where=" and ".join(f"log {copy.log.name}, bytes {copy.bad[-1]} on" for copy in spoiled),
                expected="at least one whole copy of the newest record",
                found="none",
            )
        self._sequence = newest.sequence
        self._report_lost(newest.sequence)
        return newest.identity

    def _report_lost(self, sequence: int) -> None:
        """Report copies that are damaged, or lack more than the one record that a crash can keep from them."""
        for copy in self._copies:
            if copy.bad or copy.sequence < sequence - 1:
                what = f"records at {', '.join(map(str, copy.bad))} are" if copy.bad else "its newest records are"
                self._report(
                    Notice(
                        "identity-torn-or-damaged",
                        f"log {copy.log.name}: {what} damaged or missing; the other copy is whole and is used",
                        {"log": copy.log.name, "positions": copy.bad},
                    )
                )

    async def write(self, identity: Identity) -> None:
        """Make ``identity`` the newest, durably, after ``read``. After a ``StorageError`` the storage must stop."""
        # Taken even if this fails: another record must not have the number of one that may have reached the disk.
        self._sequence += 1
        # First the copy that lacks something: the other one holds what counts until this is flushed.
        for copy in sorted(self._copies, key=lambda copy: (not copy.is_spoiled, copy.sequence)):
            await copy.write(identity, self._sequence)
            await self._flush([copy.log])
            copy.end += RECORD_BYTES
            copy.sequence, copy.is_spoiled = self._sequence, False


async def _records(log: Log) -> list[tuple[int, bytes]]:
    position = log.start
    records: list[tuple[int, bytes]] = []
    while log.end - position >= RECORD_BYTES:
        size = min(WINDOW_BYTES, log.end - position)
        window = bytes(await read_exactly(log, position, size - size % RECORD_BYTES))
        if window.count(0) < len(window):
            records += [(position + at, window[at : at + RECORD_BYTES]) for at in range(0, len(window), RECORD_BYTES)]
        position += len(window)
    return records
