"""One broker's storage: its identity, its terms (reigning, following), all of its logs, and one flush for many of them.

Knows nothing of topics and requests. Names: ``identity`` and its copy, ``metadata``, one log per partition, and beside
a log called ``NAME`` its sidecar ``NAME.state`` and torn tails ``NAME.quarantine-EPOCH-POSITION``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import trio

from mqcore.abc import Log, Notice, StorageBackend
from mqcore.errors import CorruptionError, FlushFailedError, StorageError
from mqcore.limits import Limits
from mqcore.log._control import EpochFacts
from mqcore.log._ends import CleanEnds
from mqcore.log._flushing import SerialFlusher
from mqcore.log._identity import Identity, IdentityLog
from mqcore.log._names import (
    ENDS_NAME,
    IDENTITY_NAMES,
    METADATA_NAME,
    is_partition_name,
    metadata_salt,
)
from mqcore.log._opening import LogOpener
from mqcore.log._partition_log import PartitionLog
from mqcore.log._starting import check_metadata, check_owner, first_identity, next_identity
from mqcore.log._term import FollowedReign, Term
from mqcore.log._writable import LogContext
from mqcore.ports import Ports

__all__ = ["LogStore"]


class LogStore:
    """The logs of one broker on one backend: ``open``, then ``reign`` or ``follow`` and ``leave``, ``aclose`` last.

    One task opens, reigns, follows, leaves and closes; any number of tasks use the logs.

    ``node_name``: name of the broker that owns the storage. ``report`` takes notices of damage and repair.
    ``flushed_only``: the broker reports flushed positions only (R2 b). ``stopped`` is called with the names of logs
    that have just stopped, and why.
    """

    node_id: bytes
    """16 random bytes, drawn once for this storage."""
    set_id: bytes
    """16 random bytes that the nodes with the same logs share; drawn with ``node_id`` unless the node ``join``ed."""
    incarnation: int
    """Raised at each start after which something that was reported as held may be missing (R2)."""
    was_clean: bool
    """Whether the stop before this start was clean (true for a new storage)."""
    epoch: int
    """Number of the last reign that was opened or followed by this process; 0 before the first."""
    reign_id: bytes
    """Its 16 random bytes."""
    metadata: PartitionLog
    """The log of ``MetadataLog``, for the present term."""

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
        self.epoch = 0
        self.reign_id = bytes(16)
        self._ports = ports
        self._limits = limits
        self._node_name = node_name
        self._report = report
        self._flushed_only = flushed_only
        self._stopped = stopped
        self._reported_stopped: set[str] = set()
        self._flusher = SerialFlusher(backend, report=report, stop=self.stop)
        self._term = Term()
        self._opening: dict[str, trio.Lock] = {}
        self._logs: dict[str, PartitionLog] = {}
        self._not_opened: set[str] = set()
        self._names: set[str] = set()
        self._ends: CleanEnds | None = None
        self._opener: LogOpener | None = None
        self._identity: Identity | None = None
        self._identity_log: IdentityLog | None = None
        self._identity_error: StorageError | None = None
        self._is_open = False

    # opening

    async def open(self) -> None:
        """Open the backend, read or make the identity, raise the incarnation (R2), recover the metadata log.

        Logs can be opened and read then; nothing can be appended before ``reign`` or ``follow``. A new or raised
        incarnation is flushed when it returns. Raises ``StorageError`` (``busy``; ``foreign``: of another broker or
        version), ``CorruptionError`` (never answered by starting empty). If cancelled or failed, the backend is closed
        again.
        """
        try:
            await self.backend.open()
            await self._open()
            self._is_open = True
        except BaseException:
            with trio.CancelScope(shield=True):
                await self.backend.aclose()
            raise

    async def _open(self) -> None:
        self._names = set(await self.backend.list_logs())
        logs = [await self.backend.open_log(name) for name in IDENTITY_NAMES]
        self._identity_log = IdentityLog(logs, flush=self._flusher.flush, report=self._report)
        old = await self._identity_log.read()
        check_owner(old, self._names, node_name=self._node_name, where=str(self.backend.url))
        identity = self._identity = self._identity_after(old)
        # A clean mark stays: nothing was appended yet, and a broker that never gets to reign has not spoilt it.
        if old is None or identity.incarnation != old.incarnation:
            await self._identity_log.write(identity)
        self.was_clean = identity.clean
        self.node_id, self.set_id, self.incarnation = identity.node_id, identity.set_id, identity.incarnation
        log = await self.backend.open_log(ENDS_NAME)
        ends = self._ends = CleanEnds(log, flush=self._flusher.flush, report=self._report)
        await ends.read()
        self._report_missing(ends)
        context = LogContext(self._ports.clock.wall_ms, self._limits, self._report, self._flusher, ends)
        self._opener = LogOpener(self.backend, self._names, context)
        self.metadata = await self._open_log(METADATA_NAME, metadata_salt(self.set_id))
        check_metadata(identity, self._names, self.metadata.end_position)

    def _report_missing(self, ends: CleanEnds) -> None:
        """Report logs of which a clean stop found something, and this start nothing."""
        missing = sorted(set(ends) - self._names)
        if missing:
            text = f"{len(missing)} logs are missing, such as {missing[0]}; restore their files from a good copy"
            shown = missing[: self._limits.log_names_reported_max]
            self._report(Notice("logs-missing", text, {"logs": shown}))

    def _identity_after(self, old: Identity | None) -> Identity:
        """The identity with which this start begins."""
        boot_id = self._ports.files.boot_id()
        mount = str(self.backend.facts().get("mount", ""))
        if old is None:
            return first_identity(
                self._node_name,
                flushed_only=self._flushed_only,
                boot_id=boot_id,
                mount=mount,
                random_bytes=self._ports.random.randbytes,
            )
        return next_identity(
            old,
            flushed_only=self._flushed_only,
            boot_id=boot_id,
            mount=mount,
            append_level=self.backend.capabilities.append_level,
        )

    async def join(self, set_id: bytes) -> None:
        """Make this storage, which holds nothing yet, one of the set ``set_id`` (16 bytes), durably. Idempotent.

        Before the first term. Raises ``StorageError`` (kind ``foreign``) when it holds logs of another set. If
        cancelled, it may have joined.
        """
        self._refuse_other_term()
        assert self._identity is not None
        if set_id == self.set_id:
            await trio.lowlevel.checkpoint()
            return
        if self.metadata.end_position or any(map(is_partition_name, self._names)):
            raise StorageError(
                f"storage {self.backend.url} holds logs of the set {self.set_id.hex()}, it cannot join the set "
                f"{set_id.hex()}; use an empty storage",
                kind="foreign",
            )
        await self._write_identity(attrs.evolve(self._identity, set_id=set_id))
        self.set_id = set_id
        self._logs.pop(METADATA_NAME).close(self._term.closed(METADATA_NAME))
        self.metadata = await self._open_log(METADATA_NAME, metadata_salt(set_id))

    # terms

    async def reign(self, epoch: int | None = None) -> None:
        """Open a new reign of this node (R3): ``epoch`` and ``reign_id`` are it, logs opened from now on belong to it.

        ``epoch``: number that the set's record gives it; without a record, one more than any that was seen here. It is
        flushed in the identity, and its epoch batch in the metadata log, when this returns. Raises ``StorageError``
        (``foreign`` for a number that is not above every one seen). If cancelled or failed, no reign is open, and its
        number is never used again.
        """
        highest = self._highest_epoch()
        if epoch is not None and epoch <= highest:
            raise StorageError(
                f"storage {self.backend.url} has seen the epoch {highest}: a reign cannot get the number {epoch}; "
                "the record has gone back, or belongs to another set",
                kind="foreign",
            )
        number, reign_id = epoch or highest + 1, self._ports.random.randbytes(16)
        reign = EpochFacts(number, reign_id, self.node_id, self.incarnation)
        assert self._identity is not None
        identity = attrs.evolve(self._identity, reign_number=number, reign_id=reign_id, highest_epoch=number)
        await self._begin_term(Term(reign=reign), identity)
        try:
            await self.metadata.open_reign()
            await self.flush([self.metadata])
        except BaseException:
            await self.leave()
            raise

    async def follow(self, epoch: int, reign_id: bytes) -> None:
        """Accept what another node stamps in its reign ``epoch`` (``PartitionLog.append_foreign``), and nothing else.

        ``reign_id``: 16 bytes. The number is flushed in the identity when this returns (R4). Raises ``StorageError``
        (``foreign`` for a number below one seen). If cancelled or failed, nothing is followed.
        """
        highest = self._highest_epoch()
        if epoch < highest:
            raise StorageError(
                f"storage {self.backend.url} has seen the epoch {highest}, it does not follow {epoch} any more",
                kind="foreign",
            )
        assert self._identity is not None
        identity = attrs.evolve(self._identity, highest_epoch=epoch)
        await self._begin_term(Term(followed=FollowedReign(epoch, reign_id)), identity)

    async def leave(self) -> None:
        """End the reign or the following, if there is one: its logs take no more appends and serve no more reads.

        Appends and flushes under way are waited for; what they leave is in the logs. ``reign`` or ``follow`` may come
        next, without reopening anything. Not cancelled.
        """
        ended, self._term = self._term, Term()
        with trio.CancelScope(shield=True):
            for log in self._logs.values():
                log.close(ended.closed(log.name))
            for log in list(self._logs.values()):
                await log.wait_idle()
            await self._flusher.settle()
        self.metadata = self._of_term(self.metadata)

    def _highest_epoch(self) -> int:
        self._refuse_other_term()
        assert self._identity is not None
        return self._identity.highest_epoch

    def _refuse_other_term(self) -> None:
        if self._term.reign is not None or self._term.followed is not None:
            raise RuntimeError(f"leave comes first: {self._term.text} is not over")

    async def _begin_term(self, term: Term, identity: Identity) -> None:
        """End the time without a reign; ``identity``, without the clean mark, is durable before ``term`` begins."""
        await self.leave()
        # In memory first: whether or not the record gets to the disk, its number is not given to another reign.
        self._identity = attrs.evolve(identity, clean=False, metadata_end=0)
        await self._write_identity(self._identity)
        self._term = term
        self.epoch, self.reign_id = term.epoch, term.reign_id
        self.metadata = self._of_term(self.metadata)

    def _of_term(self, log: PartitionLog) -> PartitionLog:
        """``log`` itself, or its successor in the present term."""
        if log.term is not self._term:
            log = self._logs[log.name] = log.successor(self._term)
        return log

    async def _write_identity(self, identity: Identity) -> None:
        assert self._identity_log is not None
        await self._identity_log.write(identity)
        self._identity = identity

    # logs

    async def open_log(self, name: str, *, salt: int) -> PartitionLog:
        """Return the partition log called ``name`` for the present term, recovered; the same object while that lasts.

        ``salt``: 32 bits that belong to the log and to no other, the same for its whole life. Raises ``StorageError``
        (``closed`` when the term ended meanwhile), and ``ValueError`` for a name that the store keeps for itself.
        """
        if not is_partition_name(name):
            raise ValueError(f"log name {name!r} is kept for the store itself; partition names have no dot")
        log = self._logs.get(name)
        if log is not None and log.term is self._term:
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
        term = self._term
        async with self._alone(name):
            log = self._logs.get(name)
            if log is None:
                if term.followed is not None:
                    await self._require_metadata(name)
                assert self._opener is not None, "LogStore.open comes first"
                assert self._identity is not None
                log = await self._opener.open(
                    name, salt, term=term, identity=self._identity, was_clean=self.was_clean
                )
                self._logs[name] = log
            # Else the caller, of a term that has ended, would get a log that takes appends of the next one.
            if term is not self._term:
                log.close(term.closed(name))
                raise term.closed(name)
            return self._of_term(log)

    async def _require_metadata(self, name: str) -> None:
        """Metadata come first, durably: after a crash a storage with partitions and no metadata is a damaged one."""
        if not self.metadata.end_position:
            text = f"log {name} cannot be copied before the metadata log has its first batch"
            raise StorageError(text, kind="missing", retryable=True)
        if not self.metadata.durable_position:
            await self.flush([self.metadata])

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

    async def delete_log(self, name: str) -> None:
        """Delete a partition log with its sidecar and its torn tails, durably. No error when there is none."""
        if not is_partition_name(name):
            raise ValueError(f"log {name!r} cannot be deleted")
        async with self._alone(name):
            log = self._logs.pop(name, None)
            if log is not None:
                log.close(StorageError(f"log {name} is deleted", kind="closed"))
            assert self._ends is not None
            await self._ends.forget(name)
            beside = [each for each in self._names if each.startswith(name + ".")]
            for each in (*sorted(beside), name):
                await self.backend.delete_log(each)
                self._names.discard(each)

    async def list_logs(self) -> list[str]:
        """Names of the partition logs that exist, sorted."""
        return [name for name in await self.backend.list_logs() if is_partition_name(name)]

    def unflushed(self) -> set[str]:
        """Names of the partition logs, opened in this or an earlier term, that hold what no flush has covered yet."""
        logs = [self._of_term(log) for name, log in list(self._logs.items()) if is_partition_name(name)]
        return {log.name for log in logs if log.dirty}

    def unflushed_logs(self) -> set[str]:
        """Names of the open partition logs that hold more than was flushed."""
        logs = filter(lambda log: is_partition_name(log.name), self._logs.values())
        return {log.name for log in logs if log.durable_position < log.end_position}

    # flushing

    async def flush(self, logs: Sequence[PartitionLog]) -> None:
        """Make everything appended to ``logs`` so far durable with one flush of the backend.

        Moves ``durable_offset`` of each. Calls queue up. Raises ``FlushFailedError``; every open log that the flush
        covered is ``failed`` then (G11). A log that has failed, or whose term has ended, is left out and not moved. If
        cancelled while it waits for its turn, no effect; once begun it ends.
        """
        await self._flusher.begin_turn()
        try:
            marks = [(log, log.end_offset, log.end_position) for log in logs if log.dirty]
            if not marks:
                return
            mains: list[Log] = []
            beside: list[Log] = []
            for log, _, _ in marks:  # no comprehension: each is one more frame in the latency of a flushed message
                main, *others = log.flush_targets()
                mains.append(main)
                beside += others
            reached = await self._flusher.flush_now(mains + beside)
            for (log, end_offset, end_position), (_, level) in zip(marks, reached, strict=False):
                log.flushed(end_offset, end_position)
                log.durable_level = level
                log.sidecar_flushed()
        finally:
            self._flusher.end_turn()

    def stop(self, error: FlushFailedError) -> None:
        """Stop every open log that a failed flush covered, and report each once (G11). Idempotent."""
        covered = [log.name for log in self._logs.values() if log.flush_failed(error, error.logs)]
        if not error.logs.isdisjoint(IDENTITY_NAMES):
            self._identity_error = error
        new = [name for name in covered if name not in self._reported_stopped]
        if new and self._stopped is not None:
            self._reported_stopped.update(new)
            self._stopped(new, error)

    # closing

    async def aclose(self, *, flush: bool = True) -> None:
        """End the term, checkpoint and flush all logs, mark the stop clean, close the backend. Idempotent.

        Without ``flush``, or when anything failed, the stop is not marked clean. Shielded from cancellation.
        """
        with trio.CancelScope(shield=True):
            try:
                if flush and self._is_open:
                    await self.leave()
                    await self._close_clean()
            finally:
                self._is_open = False
                await self.backend.aclose()

    async def _close_clean(self) -> None:
        logs = [self._of_term(log) for log in list(self._logs.values())]
        for log in logs:
            await log.checkpoint()
        await self.flush(logs)
        assert self._identity is not None
        if self._identity.clean or self._identity_error is not None or any(log.failed for log in logs):
            return
        if self.was_clean or await self._unopened_are_flushed():
            assert self._ends is not None
            partitions = [log for log in logs if is_partition_name(log.name) and log.end.position]
            await self._ends.keep({log.name: log.end for log in partitions})
            clean = attrs.evolve(self._identity, clean=True, metadata_end=self.metadata.end_position)
            await self._write_identity(clean)

    async def _unopened_are_flushed(self) -> bool:
        """Whether the logs that this run never opened hold nothing that the process before it did not flush.

        Else two stops would make a clean one: the first process dies, this one touches only other logs. They are not
        flushed here, for without recovery that would put the durable mark above a torn tail.
        """
        for name in sorted(self._names - self._logs.keys()):
            if is_partition_name(name):
                log = await self.backend.open_log(name)
                if log.durable_end < log.end:
                    return False
        return True
