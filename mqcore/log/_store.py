"""One broker's storage: its identity and reign, all of its logs, and the flush that serves many of them at once.

Knows nothing of topics and requests. Names: ``identity``, ``metadata``, one log per partition, and beside a log called
``NAME`` its sidecar ``NAME.state`` and torn tails ``NAME.quarantine-EPOCH``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from mqcore.abc import Log, Notice, StorageBackend
from mqcore.errors import CorruptionError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore.limits import Limits
from mqcore.log._control import EpochFacts
from mqcore.log._identity import Identity, IdentityLog
from mqcore.log._names import (
    IDENTITY_NAME,
    METADATA_NAME,
    QUARANTINE_MARK,
    SIDECAR_SUFFIX,
    is_partition_name,
    metadata_salt,
)
from mqcore.log._partition_log import LogContext, PartitionLog
from mqcore.log._recovery import recover, refuse_vanished
from mqcore.log._sidecar import Sidecar
from mqcore.ports import Ports

__all__ = ["LogStore"]

FLUSH_RETRY_S = 0.1
"""Pause before a flush that found no descriptor is tried again."""

INSTANCE_CHARACTERS_MAX = 64
"""What the identity keeps of the storage's ``mount``."""

QUARANTINES_MAX = 16
"""Torn tails kept per log; an operator removes them."""


class LogStore:
    """The logs of one broker on one backend. ``open`` first, ``aclose`` last.

    ``node_name``: name of the broker that owns the storage. ``report`` takes notices of damage and repair.
    ``flushed_only``: the broker reports flushed positions only (R2 b). ``stopped`` is told the names of logs that have
    just stopped, and why.
    """

    node_id: bytes
    """16 random bytes, drawn once for this storage."""
    incarnation: int
    """Raised at each start after which something that was reported as held may be missing (R2)."""
    epoch: int
    """Number of this run's reign."""
    reign_id: bytes
    """16 random bytes of this run's reign."""
    was_clean: bool
    """Whether the stop before this start was clean (true for a new storage)."""
    metadata: PartitionLog
    """The log of ``MetadataLog``."""

    def __init__(
        self,
        backend: StorageBackend,
        *,
        ports: Ports,
        limits: Limits,
        node_name: str,
        report: Callable[[Notice], None],
        flushed_only: bool = False,
        stopped: Callable[[list[str], FlushFailedError], None] | None = None,
    ) -> None:
        self.backend = backend
        self._ports = ports
        self._limits = limits
        self._node_name = node_name
        self._report = report
        self._flushed_only = flushed_only
        self._stopped = stopped
        self._told_stopped: set[str] = set()
        self._flush_lock = trio.Lock()
        self._opening: dict[str, trio.Lock] = {}
        self._logs: dict[str, PartitionLog] = {}
        self._not_opened: set[str] = set()
        self._names: set[str] = set()
        self._context: LogContext | None = None
        self._identity: Identity | None = None
        self._identity_log: IdentityLog | None = None
        self._identity_error: StorageError | None = None

    # opening

    async def open(self) -> None:
        """Open the backend, read or make the identity, raise the incarnation (R2), open a new reign (R3).

        All of that is flushed, and the reign's epoch batch is in the metadata log, when it returns. Raises
        ``StorageError`` (``busy``; ``foreign``: of another broker or version), ``CorruptionError`` (never answered by
        starting empty). If cancelled or failed, the backend is closed again.
        """
        try:
            await self.backend.open()
            await self._open()
        except BaseException:
            self._context = None  # or a later ``aclose`` would take this for a store that was open
            with trio.CancelScope(shield=True):
                await self.backend.aclose()
            raise

    async def _open(self) -> None:
        self._names = set(await self.backend.list_logs())
        self._identity_log = IdentityLog(
            await self.backend.open_log(IDENTITY_NAME), flush=self._flush_bytes, report=self._report
        )
        old = await self._identity_log.read()
        if old is None:
            self._refuse_orphans()
        elif old.node_name != self._node_name:
            raise StorageError(
                f"storage {self.backend.url} belongs to the broker {old.node_name!r}, this one is called "
                f"{self._node_name!r}; use its own storage, or its name",
                kind="foreign",
            )
        identity = self._next_identity(old)
        await self._identity_log.write(identity)
        self._identity = identity
        self.was_clean = old is None or old.clean
        self.node_id, self.incarnation = identity.node_id, identity.incarnation
        self.epoch, self.reign_id = identity.reign_number, identity.reign_id
        self._context = LogContext(
            EpochFacts(self.epoch, self.reign_id, self.node_id, self.incarnation),
            self._ports.clock.wall_ms,
            self._limits,
            self._report,
            self._flush_bytes,
            self._truncate_bytes,
        )
        self.metadata = await self._open_log(METADATA_NAME, metadata_salt(self.node_id))
        try:
            self._check_metadata(old)
        except CorruptionError:
            if old is not None and old.clean:  # still so: the next start must not take this one for a crash
                await self._identity_log.write(attrs.evolve(identity, clean=True))
            raise
        await self.metadata.open_reign()
        await self.flush([self.metadata])

    def _refuse_orphans(self) -> None:
        orphans = sorted(self._names - {IDENTITY_NAME})
        if orphans:
            raise CorruptionError(
                f"the storage holds {len(orphans)} logs, such as {orphans[0]!r}, but no identity: restore the log "
                f"{IDENTITY_NAME!r} from a good copy, or name an empty storage",
                where=str(self.backend.url),
            )

    def _next_identity(self, old: Identity | None) -> Identity:
        random = self._ports.random
        boot_id = self._ports.files.boot_id()
        instance = str(self.backend.facts().get("mount", ""))[:INSTANCE_CHARACTERS_MAX]
        if old is None:
            return Identity(
                node_id=random.randbytes(16),
                node_name=self._node_name,
                incarnation=1,
                reign_number=1,
                reign_id=random.randbytes(16),
                highest_epoch=1,
                clean=False,
                flushed_only=self._flushed_only,
                boot_id=boot_id,
                instance=instance,
            )
        number = max(old.reign_number, old.highest_epoch) + 1
        return attrs.evolve(
            old,
            incarnation=old.incarnation + self._must_raise(old, boot_id, instance),
            reign_number=number,
            reign_id=random.randbytes(16),
            highest_epoch=number,
            clean=False,
            flushed_only=self._flushed_only,
            boot_id=boot_id,
            instance=instance,
        )

    def _must_raise(self, old: Identity, boot_id: str, instance: str) -> bool:
        """Whether something that was reported as held can be missing (R2)."""
        append_level = self.backend.capabilities.append_level
        if append_level < Level.PAGE_CACHE:
            return True
        known = bool(boot_id) and bool(instance)
        process_died_only = known and (old.boot_id, old.instance) == (boot_id, instance)
        return not (old.clean or old.flushed_only or process_died_only)

    def _check_metadata(self, old: Identity | None) -> None:
        """Refuse a metadata log that has lost what it must hold, or knows more than the identity: never start empty."""
        highest = max((entry.number for entry in self.metadata.history), default=0)
        if highest >= self.epoch:
            raise CorruptionError(
                "the identity of this storage has gone back: the metadata log knows a newer reign; "
                "restore both from one copy",
                where=f"log {IDENTITY_NAME}",
                expected=f"a reign after {highest}",
                found=str(self.epoch),
            )

        partitions = sorted(name for name in self._names if is_partition_name(name))
        expected = old.reign_number if old is not None and old.clean else 1 if partitions else 0
        if highest < expected:
            holds = f"; the storage holds {len(partitions)} partition logs" if partitions else ""
            raise CorruptionError(
                f"the metadata log is missing or has lost its end{holds}; restore it from a good copy",
                where=f"log {METADATA_NAME}",
                expected=f"reign {expected}",
                found=f"reign {highest}" if highest else "an empty log",
            )

    # logs

    async def open_log(self, name: str, *, salt: int) -> PartitionLog:
        """Return the partition log called ``name``, recovered; the same object while it is open.

        ``salt``: 32 bits that belong to the log and to no other, the same for its whole life. Raises ``StorageError``,
        and ``ValueError`` for a name that the store keeps for itself.
        """
        if not is_partition_name(name):
            raise ValueError(f"log name {name!r} is kept for the store itself; partition names have no dot")
        log = self._logs.get(name)
        if log is not None:
            await trio.lowlevel.checkpoint()
            return log
        try:
            log = await self._open_log(name, salt)
        except (StorageError, CorruptionError) as error:
            if name not in self._not_opened:
                self._not_opened.add(name)
                self._report(Notice("log-not-opened", f"log {name} cannot be opened: {error}", {"log": name}))
            raise
        self._not_opened.discard(name)
        return log

    async def _open_log(self, name: str, salt: int) -> PartitionLog:
        async with self._alone(name):
            known = self._logs.get(name)
            if known is not None:
                return known
            context = self._context
            assert context is not None, "LogStore.open comes first"
            log = await self.backend.open_log(name)
            make_sidecar = partial(self._make_sidecar, log, salt)
            sidecar = await make_sidecar() if name + SIDECAR_SUFFIX in self._names else None
            if sidecar is not None:
                refuse_vanished(log, sidecar.log)
            state = await recover(
                log,
                sidecar,
                salt=salt,
                limits=self._limits,
                epoch=self.epoch,
                report=self._report,
                keep_aside=self._keep_aside,
            )
            opened = PartitionLog(
                log, state, salt=salt, context=context, sidecar=sidecar, make_sidecar=make_sidecar
            )
            if log.durable_end < log.end:
                await self._flush_bytes([log])
            opened.flushed(state.end_offset, state.end_position)
            self._names.add(name)
            self._logs[name] = opened
            return opened

    @asynccontextmanager
    async def _alone(self, name: str) -> AsyncIterator[None]:
        """Open or delete one log by one task at a time."""
        lock = self._opening.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._opening.pop(name, None)

    async def _make_sidecar(self, main: Log, salt: int) -> Sidecar:
        name = main.name + SIDECAR_SUFFIX
        log = await self.backend.open_log(name)
        self._names.add(name)
        return Sidecar(log, main, salt=salt, limits=self._limits, report=self._report)

    async def _keep_aside(self, name: str, chunks: list[bytes | memoryview]) -> bool:
        prefix = name[: name.index(QUARANTINE_MARK) + len(QUARANTINE_MARK)]
        kept = [each for each in self._names if each.startswith(prefix) and each != name]
        if len(kept) >= QUARANTINES_MAX:
            return False
        await self.backend.delete_log(name)
        log = await self.backend.open_log(name)
        self._names.add(name)
        await log.append(chunks)
        await self._flush_bytes([log])
        await log.aclose()
        return True

    async def delete_log(self, name: str) -> None:
        """Delete a partition log with its sidecar and its torn tails, durably. No error when there is none."""
        if not is_partition_name(name):
            raise ValueError(f"log {name!r} cannot be deleted")
        async with self._alone(name):
            log = self._logs.pop(name, None)
            if log is not None:
                log.failed = StorageError(f"log {name} is deleted", kind="closed")
            beside = [each for each in self._names if each.startswith(name + ".")]
            for each in (*sorted(beside), name):
                await self.backend.delete_log(each)
                self._names.discard(each)

    async def list_logs(self) -> list[str]:
        """Names of the partition logs that exist, sorted."""
        return [name for name in await self.backend.list_logs() if is_partition_name(name)]

    # flushing

    async def flush(self, logs: Sequence[PartitionLog]) -> None:
        """Make everything appended to ``logs`` so far durable with one flush of the backend.

        Moves ``durable_offset`` of each. Calls queue up. Raises ``FlushFailedError``; every open log that the flush
        covered is ``failed`` then (G11). If cancelled while it waits for its turn, no effect; once begun it ends.
        """
        await self._lock_flush()
        try:
            marks = [(log, log.end_offset, log.end_position) for log in logs if log.dirty]
            if not marks:
                return
            targets = [target for log, _, _ in marks for target in log.flush_targets()]
            await self._flush_backend(targets)
            for log, end_offset, end_position in marks:
                log.flushed(end_offset, end_position)
                log.sidecar_flushed()
        except FlushFailedError as error:
            self.stop(error)
            raise
        finally:
            self._flush_lock.release()

    async def _flush_bytes(self, logs: Sequence[Log]) -> None:
        """Flush logs of bytes, in turn with ``flush``."""
        await self._lock_flush()
        try:
            await self._flush_backend(logs)
        except FlushFailedError as error:
            self.stop(error)
            raise
        finally:
            self._flush_lock.release()

    async def _flush_backend(self, logs: Sequence[Log]) -> None:
        """Flush; where that cannot begin for want of descriptors, wait for some: nothing has changed by then."""
        told = False
        with trio.CancelScope(shield=True):
            while True:
                try:
                    await self.backend.flush(logs)
                    return
                except StorageError as error:
                    if error.kind != "too-many-files":
                        raise
                    if not told:
                        told = True
                        self._report(Notice("flush-waits", f"a flush waits, and what it is to prove with it: {error}"))
                await trio.sleep(FLUSH_RETRY_S)

    async def _truncate_bytes(self, log: Log, position: int) -> None:
        """Truncate a log of bytes while no flush runs."""
        await self._lock_flush()
        try:
            await log.truncate(position)
        finally:
            self._flush_lock.release()

    async def _lock_flush(self) -> None:
        if self._flush_lock.locked():
            await self._flush_lock.acquire()
        else:
            self._flush_lock.acquire_nowait()

    def stop(self, error: FlushFailedError) -> None:
        """Stop every open log that a failed flush covered, and tell (G11). Doing it twice is doing it once."""
        covered = [log.name for log in self._logs.values() if log.flush_failed(error, error.logs)]
        if IDENTITY_NAME in error.logs:
            self._identity_error = error
        untold = [name for name in covered if name not in self._told_stopped]
        if untold and self._stopped is not None:
            self._told_stopped.update(untold)
            self._stopped(untold, error)

    # closing

    async def aclose(self, *, flush: bool = True) -> None:
        """Checkpoint and flush all logs, mark the stop clean, close the backend. Idempotent.

        Without ``flush``, or when anything failed, the stop is not marked clean. Shielded from cancellation.
        """
        with trio.CancelScope(shield=True):
            try:
                if flush and self._context is not None:
                    await self._close_clean()
            finally:
                self._context = None
                await self.backend.aclose()

    async def _close_clean(self) -> None:
        logs = list(self._logs.values())
        for log in logs:
            await log.checkpoint()
        await self.flush(logs)
        assert self._identity is not None
        assert self._identity_log is not None
        if self._identity_error is None and all(log.failed is None for log in logs):
            await self._identity_log.write(attrs.evolve(self._identity, clean=True))
