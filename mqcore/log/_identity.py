"""The identity of a storage (rule R2): who it belongs to, its set, incarnation and reign, how it was stopped.

A log called ``identity`` of 512-byte records; each is written twice, with a flush after each copy, and counts once its
second copy is flushed. So a torn write (nothing follows it) and later damage (something does) are told apart: the
first is what was before, the second is told loudly and never answered by a new identity. Layout: docs/log.md.
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
TRIM_BYTES = 64 * 1024
NODE_NAME_BYTES_MAX = 128

MAGIC = 0x4449514D  # "MQID"
VERSION = 2

# magic, version, copy, clean, flushed only, sequence, own position, node id, set id, incarnation, reign number,
# reign id, highest epoch, metadata end, boot id, instance, node name
_LAYOUT = struct.Struct("<IHBBB7xQQ16s16sQQ16sQQ64s64s128s")
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
    ``boot_id`` is the kernel's, ``instance`` names the mount as far as the backend knows.
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
    node_id, set_id, incarnation, number, reign_id, highest_epoch, metadata_end, boot_id, instance, name = facts
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
    )
    return identity, sequence


class IdentityLog:
    """Reads and writes the identity on ``log``; ``flush`` makes it durable."""

    def __init__(
        self, log: Log, *, flush: Callable[[Sequence[Log]], Awaitable[None]], report: Callable[[Notice], None]
    ) -> None:
        self._log = log
        self._flush = flush
        self._report = report
        self._sequence = 0
        self._end = 0

    async def read(self) -> Identity | None:
        """Return the newest identity, None in a storage that never had one.

        Raises ``CorruptionError`` when there was one that cannot be read, ``StorageError`` (kind ``foreign``) for
        another format version.
        """
        log = self._log
        newest: Identity | None = None
        self._end = log.start + -log.start % RECORD_BYTES
        bad: list[int] = []
        inside: list[int] = []
        both_copies = False
        for position, record in await self._records():
            found = unpack_identity(record, position)
            if found is not None:
                both_copies = newest is not None and found[1] == self._sequence
                newest, self._sequence = found
                self._end = position + RECORD_BYTES
                inside += bad
                bad.clear()
            elif any(record):
                bad.append(position)
        # Above what flushed bytes prove, a segment that was used before may show bytes of another time; below it, what
        # is bad and not the second copy of the newest record is a newer one that cannot be read.
        newer = [at for at in bad if both_copies or at != self._end]
        damaged = [at for at in newer if at + RECORD_BYTES <= log.durable_end]
        if log.durable_end == log.start and len(bad) > 1:
            damaged = bad
        if damaged or (newest is None and inside):
            bad = damaged or inside
            raise CorruptionError(
                "the identity of this storage is damaged: restore it from a good copy, a new one is never made up",
                where=f"log {log.name}, bytes {bad[0]} to {bad[-1] + RECORD_BYTES}",
                expected="at least one whole copy of the newest record",
                found="none",
            )
        if inside or bad:
            self._report(
                Notice(
                    "identity-torn-or-damaged",
                    f"log {log.name}: records at {', '.join(map(str, inside + bad))} are torn or damaged; whole copies "
                    "of what counts are there and are used",
                    {"positions": inside + bad},
                )
            )
        return newest

    async def write(self, identity: Identity) -> None:
        """Make ``identity`` the newest, durably, after ``read``. After a ``StorageError`` the storage must stop."""
        log = self._log
        if log.end > self._end:
            await log.truncate(self._end)
        # Taken even if this fails: another record must not have the number of one that may have reached the disk.
        self._sequence = sequence = self._sequence + 1
        for copy in (0, 1):
            padding = bytes(-log.end % RECORD_BYTES)
            position = log.end + len(padding)
            record = pack_identity(identity, sequence=sequence, copy=copy, position=position)
            await log.append([padding + record])
            await self._flush([log])
            self._end = position + RECORD_BYTES
        first = self._end - 2 * RECORD_BYTES
        if first - log.start > TRIM_BYTES:
            await log.trim(first)

    async def _records(self) -> list[tuple[int, bytes]]:
        log = self._log
        position = log.start + -log.start % RECORD_BYTES
        records: list[tuple[int, bytes]] = []
        while log.end - position >= RECORD_BYTES:
            size = min(WINDOW_BYTES, log.end - position)
            window = bytes(await read_exactly(log, position, size - size % RECORD_BYTES))
            if window.count(0) < len(window):
                records += [
                    (position + at, window[at : at + RECORD_BYTES]) for at in range(0, len(window), RECORD_BYTES)
                ]
            position += len(window)
        return records
