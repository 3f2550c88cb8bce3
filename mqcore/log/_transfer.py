"""Fills an empty storage with the logs of another one: a migration, a backup, a restore.

The bytes of every log come over as they are, at their positions, and are read back and checked batch by batch. What
makes the target a broker's storage, its identity, is written last; before anything else a log called ``transfer`` says
what is going on. So a target that is not complete is refused by every broker, and the same transfer goes on from
what is there already: it is compared, never trusted. The source is only read.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Literal

import attrs
import trio
from crc32c import crc32c

from mqcore.abc import Log, StorageBackend, check_log_name, ignore_notice
from mqcore.errors import CommandNotPossibleError, CorruptionError, StorageError
from mqcore.guarantees import Level
from mqcore.limits import Limits
from mqcore.log._based import BasedLog, LogStart
from mqcore.log._ends import CleanEnds
from mqcore.log._identity import Identity, IdentityLog
from mqcore.log._inspect import LogFinding, StorageInspection
from mqcore.log._names import (
    ENDS_NAME,
    IDENTITY_NAMES,
    METADATA_NAME,
    SIDECAR_SUFFIX,
    TRANSFER_NAME,
    metadata_salt,
    salt_of_name,
)
from mqcore.log._scan import WINDOW_BYTES, BatchScanner, scan_to
from mqcore.log._state import LogState
from mqcore.log._types import LogPoint

__all__ = ["RESTORED_EPOCHS", "CopiedLog", "Transfer", "backup_identity", "moved_identity", "restored_identity"]

RESTORED_EPOCHS = 1 << 20
"""How far a restore raises the highest epoch seen: beyond every reign that there was after the backup."""

_FLUSH_LOGS, _FLUSH_BYTES = 64, 64 * 1024 * 1024
"""What one flush of the target covers at most, about."""

_MARK_BYTES_MAX = 4096


@attrs.frozen(kw_only=True)
class CopiedLog:
    """A log that came over: bytes ``start`` to ``end`` of what the storage has, their CRC-32C, how many were there."""

    name: str
    kind: str
    start: int
    end: int
    batches: int
    messages: int
    checksum: int
    present_bytes: int


@attrs.frozen
class _Copied:
    finding: LogFinding
    log: Log
    copied: CopiedLog


def moved_identity(identity: Identity, _node_id: bytes, _metadata_end: int) -> Identity:
    """The same node, elsewhere: what tells a killed process from a power cut does not hold for the new place."""
    return attrs.evolve(identity, boot_id="", instance="")


def backup_identity(identity: Identity, _node_id: bytes, metadata_end: int) -> Identity:
    """Whose backup it is. Everything in it is flushed, and ends where its list says."""
    return attrs.evolve(identity, metadata_end=metadata_end, clean=True, boot_id="", instance="")


def restored_identity(
    identity: Identity, node_id: bytes, metadata_end: int, *, as_replica: bool, node_name: str = ""
) -> Identity:
    """The identity of a node that went back in time: no member that a record, or another node, still counts on (R2).

    Its id is a new one: a higher incarnation may be one that the node had since. It has never reigned. Unless it is to
    follow a set that went on (``as_replica``), its next reign is above all that there can have been (R14).
    """
    return attrs.evolve(
        identity,
        node_id=node_id,
        node_name=node_name or identity.node_name,
        incarnation=identity.incarnation + 1,
        reign_number=0,
        reign_id=bytes(16),
        highest_epoch=identity.highest_epoch + (0 if as_replica else RESTORED_EPOCHS),
        metadata_end=metadata_end,
        clean=True,
        boot_id="",
        instance="",
    )


class Transfer:
    """From ``source``, which is open for looking, to ``target``, which is not open yet.

    ``purpose`` names it; ``identity_of(identity, node_id, metadata_end)`` returns the one that the target gets;
    ``node_id`` is 16 fresh random bytes for it, the same again when the transfer goes on. ``with_damage``: copy damaged
    ranges as they are. ``fresh_ends``: where the logs end is noted anew, and not copied. ``checksums``: what the logs
    must have, by name. ``finish`` is called before the mark goes. ``advance`` is called with a number of bytes checked,
    copied or read back.
    """

    def __init__(
        self,
        source: StorageInspection,
        target: StorageBackend,
        *,
        purpose: Literal["migration", "backup", "restore"],
        identity_of: Callable[[Identity, bytes, int], Identity] = moved_identity,
        node_id: bytes = bytes(16),
        limits: Limits,
        with_damage: bool = False,
        fresh_ends: bool = False,
        checksums: Mapping[str, int] | None = None,
        advance: Callable[[int], None] = ignore_notice,
        finish: Callable[[Identity], Awaitable[None]] | None = None,
    ) -> None:
        self.advance = advance
        self.copied: list[CopiedLog] = []
        """What has come over and was read back."""
        self.findings: list[LogFinding] = []
        """What is to come over, once it is planned."""
        self.identity: Identity | None = None
        """Of the source."""
        self._source = source
        self._from = source.backend
        self._to = target
        self._purpose = purpose
        self._identity_of = identity_of
        self._node_id = node_id
        self._limits = limits
        self._with_damage = with_damage
        self._fresh_ends = fresh_ends
        self._checksums = checksums
        self._finish = finish or _nothing_more
        self._waiting: list[_Copied] = []
        self._waiting_bytes = 0

    @property
    def bytes_total(self) -> int:
        """Bytes to come over, about, once it is planned."""
        return sum(finding.bytes_total for finding in self.findings)

    # what is to come over

    async def plan(self) -> None:
        """Verify the whole source and see that the target can hold it; nothing is written.

        Raises ``StorageError`` (``missing``: no broker's storage; ``limit``; ``foreign``), ``CorruptionError`` for
        damage.
        """
        self.identity = await self._source.identity()
        async with aclosing(self._source.findings()) as findings:
            async for finding in findings:
                self.advance(finding.bytes_total)
                self._check(finding)
                if finding.kind != "identity" and not (finding.kind == "clean-ends" and self._fresh_ends):
                    self.findings.append(finding)
        if self._checksums is not None:
            missing = sorted(self._checksums.keys() - {finding.name for finding in self.findings})
            if missing:
                raise CorruptionError(
                    f"{len(missing)} logs are missing, such as {missing[0]}: take another copy of this backup",
                    where=str(self._from.url),
                )
        limit = self._to.capabilities.logs_max
        needed = len(self.findings) + len(IDENTITY_NAMES) + 2
        if limit is not None and needed > limit:
            text = f"{self._to.url} holds at most {limit} logs (logs_max), {needed} are needed: use another storage"
            raise StorageError(text, kind="limit")

    def _check(self, finding: LogFinding) -> None:
        if finding.kind == "transfer":
            text = f"{self._from.url} is not complete itself: what began to fill it has to end first"
            raise StorageError(text, kind="foreign")
        if not finding.is_sound and not (self._with_damage and finding.state == "damaged" and finding.damages):
            remedy = "mend it from a replica" if finding.damages else "restore it from a good copy"
            hint = ", or copy damaged ranges as they are with --with-damage" if finding.damages else ""
            raise CorruptionError(f"{finding.text}; {remedy}{hint}", where=f"log {finding.name}")
        if finding.state == "torn" and finding.kind != "identity" and self._purpose == "migration":
            text = (
                f"log {finding.name}: {finding.text}: start the broker on {self._from.url} once and stop it, then "
                "migrate"
            )
            raise StorageError(text, kind="foreign")
        check_log_name(finding.name, self._to.capabilities.log_name_bytes_max)

    # bringing it over

    async def run(self) -> Identity:
        """Bring everything over, after ``plan``, and return the identity that the target has got.

        The target is complete when this returns. Raises ``StorageError``, ``CorruptionError``; then, and if cancelled,
        the target is refused by every broker, and the same transfer goes on from there.
        """
        assert self.identity is not None, "plan comes first"
        await self._to.open()
        there = set(await self._to.list_logs())
        mark = await self._begin(there)
        try:
            # Those that were trimmed first: a target that cannot hold them says so before much is copied.
            begins_at_0 = {each.name: not (await self._from.open_log(each.name)).start for each in self.findings}
            for finding in sorted(self.findings, key=lambda each: begins_at_0[each.name]):
                await self._copy(finding, there)
        except CommandNotPossibleError:
            if there <= {TRANSFER_NAME, *IDENTITY_NAMES} and not self.copied and not self._waiting:
                await self._to.delete_log(TRANSFER_NAME)
            raise
        await self._settle()
        names = {finding.name for finding in self.findings}
        for surplus in sorted(there - names - {TRANSFER_NAME, *IDENTITY_NAMES}):
            await self._to.delete_log(surplus)
        if self._fresh_ends:
            await self._write_ends()
        identity = self._identity_of(self.identity, self._node_id, self._metadata_end())
        logs = [await self._to.open_log(name) for name in IDENTITY_NAMES]
        identity_log = IdentityLog(logs, flush=self._flush, report=ignore_notice)
        if await identity_log.read() != identity:
            await identity_log.write(identity)
        await self._finish(identity)
        await mark.aclose()
        await self._to.delete_log(TRANSFER_NAME)
        return identity

    def _metadata_end(self) -> int:
        return next((each.end_position for each in self.findings if each.name == METADATA_NAME), 0)

    async def _begin(self, there: set[str]) -> Log:
        """Leave the mark before anything else, or find that of this transfer. Raises ``StorageError``."""
        assert self.identity is not None
        if TRANSFER_NAME not in there and there:
            raise StorageError(
                f"{self._to.url} is not empty, it holds {len(there)} logs, {min(there)!r} say: name an empty one",
                kind="foreign",
            )
        log = await self._to.open_log(TRANSFER_NAME)
        text = await _read(log, log.start, min(log.end - log.start, _MARK_BYTES_MAX))
        found = _parsed(text)
        own = {"purpose": self._purpose, "from": self.identity.node_id.hex(), "node_id": self._node_id.hex()}
        if found is None:
            if there - {TRANSFER_NAME}:  # the mark was flushed before there was any other log
                raise CorruptionError(
                    "what says where this comes from is damaged", where=f"{self._to.url}, log transfer"
                )
            await log.truncate(log.start)
            await log.append([json.dumps(own).encode() + b"\n"])
            await self._flush([log])
            return log
        if (found.get("purpose"), found.get("from")) != (own["purpose"], own["from"]):
            raise StorageError(
                f"{self._to.url} holds the beginning of another {found.get('purpose')}: name an empty storage",
                kind="foreign",
            )
        self._node_id = bytes.fromhex(str(found["node_id"]))
        return log

    async def _copy(self, finding: LogFinding, there: set[str]) -> None:
        source = await self._from.open_log(finding.name)
        begin, end = source.start, self._end_of(source, finding)
        if end <= begin:
            return
        target = await self._target_log(finding, begin, there)
        if target is None:
            return
        checksum, at = await self._compare(source, target, end)
        present = at - begin
        if target.end > at:
            await target.truncate(at)
        size_max = min(WINDOW_BYTES, self._to.capabilities.append_bytes_max)
        while at < end:
            piece = await source.read(at, min(size_max, end - at))
            if not len(piece):
                raise StorageError(f"log {source.name}: nothing to read at {at}", kind="io", position=at)
            await target.append([piece])
            checksum = crc32c(piece, checksum)
            at += len(piece)
            self.advance(len(piece))
        copied = CopiedLog(
            name=finding.name,
            kind=finding.kind,
            start=begin,
            end=end,
            batches=finding.batches,
            messages=finding.messages,
            checksum=checksum,
            present_bytes=present,
        )
        expected = checksum if self._checksums is None else self._checksums.get(finding.name)
        if checksum != expected:
            raise CorruptionError(
                "the bytes are not those of the backup: take another copy of it",
                where=f"{self._from.url}, log {finding.name}",
                expected="no such log" if expected is None else f"checksum {expected:08x}",
                found=f"{checksum:08x}",
            )
        self._waiting.append(_Copied(finding, target, copied))
        self._waiting_bytes += end - begin
        if len(self._waiting) >= _FLUSH_LOGS or self._waiting_bytes >= _FLUSH_BYTES:
            await self._settle()

    def _end_of(self, source: Log, finding: LogFinding) -> int:
        if finding.kind in ("partition", "metadata"):
            return min(finding.end_position - finding.base_position, source.end)
        # What is above the durable mark of a running broker's log is the broker's, and nothing here tells its end.
        return source.durable_end if self._source.beside_broker else source.end

    async def _target_log(self, finding: LogFinding, begin: int, there: set[str]) -> Log | None:
        """The target's log to go on with; None for one that the target cannot hold and does not need."""
        name = finding.name
        if name in there:
            target = await self._to.open_log(name)
            if target.start == begin:
                return target
            await self._to.delete_log(name)
        try:
            return await self._to.begin_log(name, begin)
        except CommandNotPossibleError as error:
            main = name.removesuffix(SIDECAR_SUFFIX)
            if finding.kind == "sidecar" and not (await self._from.open_log(main)).start:
                return None  # checkpoints of a log that begins at 0 are made again from it
            raise CommandNotPossibleError(
                f"log {name} was trimmed and begins at {begin}: {self._to.url} makes no log that does not begin at 0 "
                f"({error}); use a storage that can, such as mmap"
            ) from error

    async def _compare(self, source: Log, target: Log, end: int) -> tuple[int, int]:
        """How far the target has what the source has, in whole windows, and the checksum up to there."""
        checksum, at = 0, source.start
        both = min(end, target.end)
        while at < both:
            piece = await source.read(at, min(WINDOW_BYTES, both - at))
            other = await _read(target, at, len(piece))
            if not len(piece) or piece != other:
                break
            checksum = crc32c(piece, checksum)
            at += len(piece)
            self.advance(len(piece))
        return checksum, at

    async def _settle(self) -> None:
        """Flush what was copied, and read it back."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not waiting:
            return
        await self._flush([each.log for each in waiting])
        for each in waiting:
            await self._verify(each)
            await each.log.aclose()
            self.copied.append(each.copied)

    async def _flush(self, logs: Sequence[Log]) -> None:
        for log, reached in zip(logs, await self._to.flush(logs), strict=True):
            if reached.end < log.end or reached.level < min(Level.DISK, self._to.capabilities.flush_level):
                text = f"{self._to.url}: a flush of log {log.name} reached {reached.level.label} only"
                raise StorageError(text, kind="flush")

    async def _verify(self, each: _Copied) -> None:
        log, copied, finding = each.log, each.copied, each.finding
        base = finding.base_position
        where = f"{self._to.url}, log {log.name}"
        checksum, at = 0, copied.start
        while at < copied.end:
            piece = await log.read(at, min(WINDOW_BYTES, copied.end - at))
            if not len(piece):
                raise StorageError(f"{where}: nothing to read at {at}", kind="io", position=at)
            checksum = crc32c(piece, checksum)
            at += len(piece)
            self.advance(len(piece))
        if checksum != copied.checksum:
            raise CorruptionError(
                "what was written reads otherwise",
                where=where,
                expected=f"{copied.checksum:08x}",
                found=f"{checksum:08x}",
            )
        assert self.identity is not None
        salt = metadata_salt(self.identity.set_id) if finding.kind == "metadata" else salt_of_name(finding.name)
        if finding.kind not in ("partition", "metadata") or finding.damages or salt is None:
            return
        state = LogState(self._limits)
        if finding.start_position:
            state.begin_at(finding.start_position, finding.start_offset)
        scanner = BatchScanner(state, salt, where)
        await scan_to(BasedLog(log, LogStart(position=base)), scanner, copied.end + base)
        found = (state.end_position - base, state.end_offset, scanner.batches)
        if found != (copied.end, finding.end_offset, finding.batches):
            raise CorruptionError(
                f"the batches are not those of the source: {scanner.invalid}",
                where=where,
                expected=f"{finding.batches} batches up to offset {finding.end_offset}",
                found=f"{scanner.batches} up to {state.end_offset}",
            )

    async def _write_ends(self) -> None:
        log = await self._to.open_log(ENDS_NAME)
        if log.end > log.start:
            await log.truncate(log.start)
        ends = CleanEnds(log, flush=self._flush, report=ignore_notice)
        await ends.keep(
            {
                finding.name: LogPoint(finding.end_position, finding.end_offset)
                for finding in self.findings
                if finding.kind == "partition" and finding.end_position
            }
        )


async def _nothing_more(_: Identity) -> None:
    await trio.lowlevel.checkpoint()


def _parsed(text: bytes) -> dict[str, object] | None:
    try:
        found = json.loads(text.partition(b"\n")[0]) if b"\n" in text else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


async def _read(log: Log, position: int, size: int) -> bytes:
    """``size`` bytes, or what there is before something cannot be read."""
    pieces: list[bytes] = []
    while size:
        piece = await log.read(position, size)
        if not len(piece):
            break
        pieces.append(bytes(piece))
        position, size = position + len(piece), size - len(piece)
    return b"".join(pieces)
