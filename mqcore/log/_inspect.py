"""Verifies what a storage holds, without changing it: every header, offset, epoch and checksum of every log.

Works on a stopped storage, and beside a running broker where the backend can be opened for reading only: then on all
but the active tails, which it says. Knows nothing of topics.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from typing import Any

import attrs

from mqcore.abc import Log, Notice, StorageBackend, ignore_notice
from mqcore.batch import HEADER_BYTES, unpack_header
from mqcore.errors import CommandNotPossibleError, CorruptionError, MqcoreError, StorageError
from mqcore.limits import Limits
from mqcore.log._based import (
    ANEW_SUFFIX,
    BASE_SUFFIX,
    LogStart,
    based,
    first_state,
    origin_of,
    read_start,
    those_that_count,
)
from mqcore.log._checkpoint import HEAD_BYTES, PAGE_BYTES, unpack_head, unpack_state
from mqcore.log._ends import CleanEnds
from mqcore.log._identity import Identity, IdentityLog
from mqcore.log._metadata import take_records
from mqcore.log._missing import note_missing_start, reached
from mqcore.log._names import (
    ENDS_NAME,
    IDENTITY_NAME,
    IDENTITY_NAMES,
    METADATA_NAME,
    QUARANTINE_MARK,
    SIDECAR_SUFFIX,
    TRANSFER_NAME,
    is_partition_name,
    metadata_salt,
    salt_of_name,
)
from mqcore.log._recovery import scan_past_damage
from mqcore.log._scan import BatchScanner, read_exactly
from mqcore.log._sidecar import Sidecar
from mqcore.log._state import LogState
from mqcore.log._tail import torn_range
from mqcore.log._types import NOWHERE, Damage
from mqcore.units import grouped

__all__ = ["LogFinding", "StorageInspection", "verify_storage"]


@attrs.frozen(kw_only=True)
class LogFinding:
    """What verifying one log found. Sizes in bytes; offsets as in ``PartitionLog``.

    ``kind``: ``identity``, ``metadata``, ``partition``, ``sidecar``, ``base``, ``clean-ends``, ``transfer``,
    ``quarantine`` or ``unknown``. ``base_position``: of the first byte that the storage ever had of it.
    ``state``: ``whole``; ``damaged`` (below the durable mark, or missing; ``damages`` has the ranges); ``torn`` (bytes
    above it are no batches, the next start cuts them); ``unreadable``. ``unverified_bytes``: the active tail of a
    running broker.
    ``reigns``: number, id, start position and start offset of each. ``text``: a sentence for a person, or empty.
    """

    name: str
    kind: str
    state: str = "whole"
    text: str = ""
    start_position: int = 0
    end_position: int = 0
    durable_position: int = 0
    base_position: int = 0
    bytes_total: int = 0
    unverified_bytes: int = 0
    batches: int = 0
    messages: int = 0
    start_offset: int = 0
    end_offset: int = 0
    producers: int = 0
    reigns: tuple[tuple[int, str, int, int], ...] = ()
    damages: tuple[Damage, ...] = ()
    facts: dict[str, Any] = attrs.field(factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether nothing that was made durable is lost."""
        return self.state in ("whole", "torn") or self.kind == "sidecar"

    def as_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        fields = attrs.asdict(self, recurse=False)
        return fields | {
            "reigns": [list(reign) for reign in self.reigns],
            "damages": [damage._asdict() for damage in self.damages],
        }


class StorageInspection:
    """A storage opened for looking. Use as an async context manager around ``findings``."""

    def __init__(self, backend: StorageBackend, limits: Limits) -> None:
        self._backend = backend
        self._limits = limits
        self._identity: Identity | None = None
        self._ends: CleanEnds | None = None
        self.beside_broker = False
        """Whether a broker runs on the storage now."""
        self.records: list[dict[str, Any]] = []
        """Records of the metadata log, once it was verified and as far as it is whole.

        Of what they mean only where logs begin is known here.
        """
        self._told: dict[str, LogStart] = {}

    async def __aenter__(self) -> StorageInspection:
        """Open the storage: beside its broker for reading only, if the backend can; else as a broker would.

        Raises ``StorageError``, ``CorruptionError``.
        """
        with contextlib.suppress(CommandNotPossibleError):
            self.beside_broker = await self._backend.open_readonly()
        if not self.beside_broker:
            await self._backend.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it."""
        await self._backend.aclose()

    @property
    def backend(self) -> StorageBackend:
        """The storage that is looked at."""
        return self._backend

    async def identity(self) -> Identity:
        """Return the newest identity. Raises ``StorageError`` (kind ``missing``) without one, ``CorruptionError``."""
        await self._read_identity(await self._backend.list_logs())
        if self._identity is None:
            raise StorageError(f"storage {self._backend.url} holds nothing of a broker", kind="missing")
        return self._identity

    async def findings(self, name: str | None = None) -> AsyncGenerator[LogFinding, None]:
        """Verify every log (or the one called ``name``) and yield a finding for each: identity, metadata, the others.

        A log that cannot be read yields a finding too; nothing is raised for damage.
        """
        names = those_that_count(await self._backend.list_logs())
        with contextlib.suppress(MqcoreError):  # then the findings of its logs say so
            await self._read_identity(names)
        if ENDS_NAME in names:
            self._ends = CleanEnds(await self._backend.open_log(ENDS_NAME), flush=_no_flush, report=ignore_notice)
            await self._ends.read()
        for each in sorted(names, key=lambda each: (each not in IDENTITY_NAMES, each != METADATA_NAME, each)):
            if name is None or each in (name, METADATA_NAME) or each.startswith(f"{name}."):
                finding = await self._verify(each, names)
                if name is None or each == name or each.startswith(f"{name}."):
                    yield finding
        for finding in self._missing(names, is_begun_anew=await self._is_begun_anew(names)):
            if name is None or finding.name == name:
                yield finding

    async def _read_identity(self, names: Sequence[str]) -> list[Notice]:
        """Read what there is of the identity, and return what it reports."""
        notices: list[Notice] = []
        copies = [await self._backend.open_log(each) for each in IDENTITY_NAMES if each in names]
        if copies:
            self._identity = await IdentityLog(copies, flush=_no_flush, report=notices.append).read()
        return notices

    async def _is_begun_anew(self, names: Sequence[str]) -> bool:
        """Whether the metadata log was begun anew where another node's begins, and need not hold anything yet."""
        begins = None
        if METADATA_NAME + BASE_SUFFIX in names:
            with contextlib.suppress(MqcoreError, ValueError):  # the finding of what cannot be read says so
                begins = await read_start(await self._backend.open_log(METADATA_NAME + BASE_SUFFIX))
        ended = self._identity.metadata_end if self._identity is not None else 0
        return METADATA_NAME + ANEW_SUFFIX in names or (begins is not None and ended <= begins.position)

    def _missing(self, names: Sequence[str], *, is_begun_anew: bool) -> Iterator[LogFinding]:
        """Logs that must be there and are not: metadata beside partitions or after a clean stop, a sidecar's log."""
        identity = self._identity
        others = set(names).difference(IDENTITY_NAMES)
        for each in IDENTITY_NAMES:
            if each not in names and others:
                text = "the log is missing; restore it from a copy"
                if identity is not None:
                    text = "the log is missing; the other copy is whole, and the next start writes this one again"
                yield LogFinding(name=each, kind="identity", state="damaged", text=text)
        partitions = [each for each in names if is_partition_name(each)]
        is_needed = partitions or (identity is not None and identity.clean)
        if METADATA_NAME not in names and is_needed and not is_begun_anew:
            yield LogFinding(
                name=METADATA_NAME, kind="metadata", state="damaged", text="the log is missing; restore it from a copy"
            )
        mains = {each.removesuffix(SIDECAR_SUFFIX) for each in names}.union(self._ends or ())
        for each in sorted(mains.difference(names)):
            if each + ANEW_SUFFIX in names:
                continue
            text = "the log is missing although it held messages; restore it from a copy"
            yield LogFinding(name=each, kind=_kind_of(each), state="damaged", text=text)

    async def _verify(self, name: str, names: Sequence[str]) -> LogFinding:
        kind = _kind_of(name)
        try:
            log = await self._backend.open_log(name)
            if kind == "identity":
                return await self._verify_identity(log, names)
            if kind == "sidecar":
                return await self._verify_sidecar(log)
            salt = self._salt_of(name, kind)
            if salt is None:
                return LogFinding(name=name, kind=kind, bytes_total=log.end - log.start)
            if name + BASE_SUFFIX in names:
                log = await based(log, await self._backend.open_log(name + BASE_SUFFIX))
            return await self._verify_batches(log, kind, salt, names)
        except CorruptionError as error:
            return LogFinding(name=name, kind=kind, state="damaged", text=str(error))
        except MqcoreError as error:
            return LogFinding(name=name, kind=kind, state="unreadable", text=str(error))

    def _salt_of(self, name: str, kind: str) -> int | None:
        if kind == "metadata":
            if self._identity is None:
                raise StorageError("the metadata log cannot be verified without the identity", kind="missing")
            return metadata_salt(self._identity.set_id)
        return salt_of_name(name) if kind == "partition" else None

    async def _verify_identity(self, log: Log, names: Sequence[str]) -> LogFinding:
        notices = await self._read_identity(names)
        identity = self._identity
        if identity is None:
            return LogFinding(name=log.name, kind="identity", state="torn", text="no identity was ever completed")
        ids = {name: getattr(identity, name).hex() for name in ("node_id", "set_id", "reign_id")}
        return LogFinding(
            name=log.name,
            kind="identity",
            text="; ".join(notice.text for notice in notices if notice.facts["log"] == log.name),
            bytes_total=log.end - log.start,
            facts=attrs.asdict(identity) | ids,
        )

    async def _verify_sidecar(self, log: Log) -> LogFinding:
        salt = self._salt_of(log.name.removesuffix(SIDECAR_SUFFIX), _kind_of(log.name.removesuffix(SIDECAR_SUFFIX)))
        good = bad = 0
        position = log.start + -log.start % PAGE_BYTES
        while salt is not None and log.end - position >= PAGE_BYTES:
            head = unpack_head(await read_exactly(log, position, HEAD_BYTES), position, salt)
            if head is not None and head.own_end <= log.end:
                payload = await read_exactly(log, position + HEAD_BYTES, head.payload_bytes)
                try:
                    unpack_state(head, payload, self._limits, log.name)
                    good += 1
                except CorruptionError:
                    bad += head.own_end <= log.durable_end
            position = head.own_end if head is not None else position + PAGE_BYTES
        return LogFinding(
            name=log.name,
            kind="sidecar",
            state="damaged" if bad else "whole",
            text=f"{bad} checkpoints are damaged; they are made again from the log" if bad else "",
            bytes_total=log.end - log.start,
            facts={"checkpoints": good, "checkpoints_damaged": bad},
        )

    async def _start_of(self, log: Log, salt: int, names: Sequence[str]) -> LogState:
        """The state of ``log`` at its start, which the sidecar knows once the log was trimmed."""
        state = first_state(log, self._limits)
        name = log.name + SIDECAR_SUFFIX
        if name in names:
            sidecar = Sidecar(
                await self._backend.open_log(name), log, salt=salt, limits=self._limits, report=ignore_notice
            )
            known = await sidecar.look(log.end)
            if known is not None and known.start_position:
                state.begin_at(known.start_position, known.start_offset)
        told = self._told.get(log.name, LogStart())
        if state.start_position < log.start <= told.position < log.end:
            state.begin_at(told.position, told.offset)  # the sidecar is gone: what lies before was trimmed (R15)
        return state

    async def _verify_batches(self, log: Log, kind: str, salt: int, names: Sequence[str]) -> LogFinding:
        state = await self._start_of(log, salt, names)
        await note_missing_start(log, state, salt=salt, limits=self._limits)
        scanner = BatchScanner(state, salt, f"log {log.name}")
        proved = self._ends.of(log.name) if self._ends is not None else NOWHERE
        was_clean = self._identity is not None and self._identity.clean
        is_exact = self._ends is not None and self._ends.is_exact(log.name)
        proved = reached(log, proved, self._limits, is_exact=is_exact, was_clean=was_clean)
        durable_end = max(log.durable_end, min(proved.position, log.end))
        await scan_past_damage(
            log, scanner, salt=salt, limits=self._limits, durable_end=durable_end, report=ignore_notice, proved=proved
        )
        if state.end_position < proved.position:
            at, offset = state.end
            state.skip(Damage(at, proved.position, offset, proved.offset, "the end is missing"))
        damages = tuple(sorted(state.damages.values()))
        if kind == "metadata" and not damages:
            self.records = await _records(log, state.start_position, state.end_position)
            self._told = _told_starts(self.records)
        lost = sum(damage.next_offset - damage.first_offset for damage in damages)
        rest = max(log.end - state.end_position, 0)
        if rest > 0 and not self.beside_broker:
            rest = (await torn_range(log, state, salt, self._limits))[1] - state.end_position
        torn = rest > 0 and not self.beside_broker
        return LogFinding(
            name=log.name,
            kind=kind,
            state="damaged" if damages else "torn" if torn else "whole",
            text=_text_of(damages, torn, rest, self.beside_broker),
            start_position=state.start_position,
            end_position=state.end_position,
            durable_position=durable_end,
            base_position=origin_of(log),
            bytes_total=state.end_position - state.start_position,
            unverified_bytes=rest if self.beside_broker else 0,
            batches=scanner.batches,
            messages=state.end_offset - state.start_offset - lost,
            start_offset=state.start_offset,
            end_offset=state.end_offset,
            producers=len(state.producers),
            reigns=tuple((entry[0], entry[1].hex(), entry[2], entry[3]) for entry in state.history.entries()),
            damages=damages,
        )


async def verify_storage(
    backend: StorageBackend, *, limits: Limits | None = None, name: str | None = None
) -> AsyncIterator[LogFinding]:
    """Open ``backend``, verify its logs (or the one called ``name``), yield a finding for each, close it."""
    async with StorageInspection(backend, limits or Limits()) as inspection:
        async for finding in inspection.findings(name):
            yield finding


def _kind_of(name: str) -> str:
    if name in IDENTITY_NAMES:
        return IDENTITY_NAME
    if name in (METADATA_NAME, ENDS_NAME, TRANSFER_NAME):
        return name
    if QUARANTINE_MARK in name:
        return "quarantine"
    if name.endswith(SIDECAR_SUFFIX):
        return "sidecar"
    if name.endswith((BASE_SUFFIX, ANEW_SUFFIX)):
        return "base"
    return "partition" if salt_of_name(name) is not None else "unknown"


def _text_of(damages: tuple[Damage, ...], torn: bool, rest: int, beside_broker: bool) -> str:
    parts = [f"{damage.place} are damaged: {damage.text}" for damage in damages]
    if torn:
        parts.append(f"{grouped(rest)} bytes at the end are torn; the next start sets them aside")
    elif rest and beside_broker:
        tail = f"the active tail (at most {grouped(rest)} bytes)"
        parts.append(f"{tail} belongs to the running broker and was not verified")
    return "; ".join(parts)


async def _records(log: Log, position: int, end: int) -> list[dict[str, Any]]:
    """Records of the metadata log between two positions where batches begin, which were verified."""
    records: list[dict[str, Any]] = []
    while position < end:
        size = unpack_header(await read_exactly(log, position, HEADER_BYTES), log.name).size
        take_records(await read_exactly(log, position, size), records, f"log {log.name}")
        position += size
    return records


def _told_starts(records: Sequence[dict[str, Any]]) -> dict[str, LogStart]:
    told: dict[str, LogStart] = {}
    for starts in (record["starts"] for record in records if record.get("type") == "log-starts"):
        for name, value in starts.items():
            with contextlib.suppress(ValueError, TypeError):  # the broker says so
                told[name] = max(LogStart.from_json(value), told.get(name, LogStart()))
    return told


async def _no_flush(_: object) -> None:
    raise AssertionError("an inspection writes nothing")
