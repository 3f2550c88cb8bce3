"""One broker's storage: its identity, its terms (reigning, following), all of its logs, and one flush for many of them.

Knows nothing of topics and requests. Names: ``identity`` and its copy, ``metadata``, one log per partition, and beside
a log called ``NAME`` its sidecar ``NAME.state`` and torn tails ``NAME.quarantine-EPOCH-POSITION``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from mqcore.abc import Log, Notice, StorageBackend
from mqcore.errors import CorruptionError, FlushFailedError, StorageError
from mqcore.limits import Limits
from mqcore.log._based import LogStart
from mqcore.log._control import EpochFacts
from mqcore.log._ends import CleanEnds
from mqcore.log._flushing import SerialFlusher
from mqcore.log._identity import Identity, IdentityLog
from mqcore.log._least_level import LeastLevel
from mqcore.log._leaving import settled
from mqcore.log._mending import GoodCopies
from mqcore.log._missing import report_missing
from mqcore.log._names import (
    ENDS_NAME,
    IDENTITY_NAMES,
    METADATA_NAME,
    QUARANTINE_MARK,
    TRANSFER_NAME,
    is_partition_name,
    metadata_salt,
)
from mqcore.log._opening import LogOpener, require_metadata
from mqcore.log._partition_log import PartitionLog
from mqcore.log._quarantine import Quarantine
from mqcore.log._starting import are_flushed, check_metadata, check_owner, check_reigns, identity_of_start
from mqcore.log._store_identity import StoreIdentity
from mqcore.log._term import FollowedReign, Term
from mqcore.log._writable import LogContext
from mqcore.ports import Ports

__all__ = ["LogStore"]


class LogStore(StoreIdentity):
    """The logs of one broker on one backend: ``open``, then ``reign`` or ``follow`` and ``leave``, ``aclose`` last.

    One task opens, reigns, follows, leaves and closes; any number of tasks use the logs.

    ``node_name``: of the broker that owns the storage. ``report`` takes notices of damage and repair. ``flushed_only``:
    an empty storage begins with that (R2 b). ``stopped`` is called with the names of logs that just stopped, and why.
    """

    node_id: bytes
    """16 random bytes, drawn once for this storage."""
    set_id: bytes
    """16 random bytes that the nodes with the same logs share; drawn with ``node_id`` unless the node ``join``ed."""
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
        super().__init__()
        self.backend = backend
        self.epoch, self.reign_id = 0, bytes(16)
        self._ports, self._limits = ports, limits
        self._node_name = node_name
        self._report = report
        self._flushed_only = flushed_only
        self._stopped = stopped
        self._least_level = LeastLevel(report)
        self._reported_stopped: set[str] = set()
        self._flusher = SerialFlusher(backend, report=report, stop=self.stop, now_us=ports.clock.monotonic_us)
        self.good_copies = GoodCopies(self._flusher)
        self._term = Term()
        self._opening: dict[str, trio.Lock] = {}
        self._logs: dict[str, PartitionLog] = {}
        self._not_opened: set[str] = set()
        self._names: set[str] = set()
        self._ends: CleanEnds | None = None
        self._opener: LogOpener | None = None
        self._identity_error: StorageError | None = None
        self._is_open = False

    # opening

    async def open(self) -> None:
        """Open the backend, read or make the identity, raise the incarnation (R2), recover the metadata log.

        Logs can be opened and read then; nothing can be appended before ``reign`` or ``follow``. A new or raised
        incarnation is flushed. Raises ``StorageError`` (``busy``; ``foreign``: of another broker or version),
        ``CorruptionError`` (never answered by starting empty). If cancelled or failed, the backend is closed again.
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
        if TRANSFER_NAME in self._names:  # the identity came last: what was moved here is complete
            await self.backend.delete_log(TRANSFER_NAME)
        identity = self._identity = identity_of_start(
            old, self._node_name, self.backend, self._ports, flushed_only=self._flushed_only, report=self._report
        )
        # A clean mark stays: nothing was appended yet, and a broker that never gets to reign has not spoilt it.
        if old is None or identity.incarnation != old.incarnation:
            await self._identity_log.write(identity)
        self.was_clean, self.clock_base_ms = identity.clean, identity.clock_base_ms
        self.node_id, self.set_id, self.incarnation = identity.node_id, identity.set_id, identity.incarnation
        flusher, log = self._flusher, await self.backend.open_log(ENDS_NAME)
        ends = self._ends = CleanEnds(log, flush=flusher.flush, truncate=flusher.truncate, report=self._report)
        await ends.read()
        report_missing(ends, self._names, limit=self._limits.log_names_reported_max, report=self._report)
        quarantine = Quarantine(self.backend, self._names, flusher)
        shared = flusher, ends, quarantine, self.good_copies
        context = LogContext(self._ports.clock.wall_ms, self._limits, self._report, *shared)
        self._opener = LogOpener(self.backend, self._names, context)
        self.metadata = await self._open_log(METADATA_NAME, metadata_salt(self.set_id))
        check_metadata(identity, self._names, self.metadata)
        flusher.guards = [*logs, *self.metadata.flush_targets()[:1]]

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
        if self.metadata.bytes_total or any(map(is_partition_name, self._names)):
            raise StorageError(
                f"storage {self.backend.url} holds logs of the set {self.set_id.hex()}, it cannot join the set "
                f"{set_id.hex()}; use an empty storage",
                kind="foreign",
            )
        await self._change_identity(lambda identity: attrs.evolve(identity, set_id=set_id))
        self.set_id = set_id
        self._logs.pop(METADATA_NAME).close(self._term.closed(METADATA_NAME))
        await self.open_metadata()

    # terms

    async def reign(self, epoch: int | None = None, reign_id: bytes | None = None) -> None:
        """Open a new reign of this node (R3): ``epoch`` and ``reign_id`` are it, logs opened from now on belong to it.

        ``epoch``, ``reign_id``: number and 16 bytes that the set's record gives it; without a record, one more than any
        that was seen here, and random ones. It is flushed in the identity, and its epoch batch in the metadata log,
        when this returns. Raises ``StorageError`` (``foreign`` for a number that is not above every one seen). If
        cancelled or failed, no reign is open, and its number is never used again.
        """
        self._refuse_other_term()
        check_reigns(await self.open_metadata())
        if epoch is not None and epoch <= (highest := self.newest_epoch):
            raise StorageError(
                f"storage {self.backend.url} has seen the epoch {highest}: a reign cannot get the number {epoch}; "
                "the record has gone back, or belongs to another set",
                kind="foreign",
            )
        number, reign_id = epoch or self.newest_epoch + 1, reign_id or self._ports.random.randbytes(16)
        reign = EpochFacts(number, reign_id, self.node_id, self.incarnation)
        change = partial(attrs.evolve, reign_number=number, reign_id=reign_id, highest_epoch=number)
        await self._begin_term(Term(reign=reign), change)
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
        self._refuse_other_term()
        if epoch < (highest := self.newest_epoch):
            raise StorageError(
                f"storage {self.backend.url} has seen the epoch {highest}, it does not follow {epoch} any more",
                kind="foreign",
            )
        change = partial(attrs.evolve, highest_epoch=epoch)
        await self._begin_term(Term(followed=FollowedReign(epoch, reign_id)), change)

    async def leave(self) -> None:
        """End the reign or the following, if there is one: its logs take no more appends and serve no more reads.

        Appends and flushes under way are waited for, for as long as they hang, which is reported: their bytes may still
        land among those of another term. What they leave is in the logs. ``reign`` or ``follow`` may come next, without
        reopening anything. Not cancelled.
        """
        ended, self._term = self._term, Term()
        with trio.CancelScope(shield=True):
            for log in self._logs.values():
                log.close(ended.closed(log.name))
            text = f"the storage is busy with the last writes of {ended.text}: until they end, no other term begins"
            await settled(self._logs.values(), self._flusher, lambda: self._report(Notice("leave-waits", text)))
        self.metadata = self._of_term(self.metadata)

    async def note_epoch(self, number: int) -> None:
        """Remember, durably, that there is a reign of another node with this number. Outside of any term.

        Raises ``StorageError``. If cancelled, it may be remembered.
        """
        self._refuse_other_term()
        if self._identity is not None and number > self._identity.highest_epoch:
            await self._change_identity(lambda identity: attrs.evolve(identity, highest_epoch=number))

    def _refuse_other_term(self) -> None:
        if self._term.reign is not None or self._term.followed is not None:
            raise RuntimeError(f"leave comes first: {self._term.text} is not over")

    async def _begin_term(self, term: Term, change: Callable[[Identity], Identity]) -> None:
        """End the time without a reign; the changed identity, not marked clean, is durable before ``term`` begins."""
        await self.leave()
        async with self._changing_identity:
            assert self._identity is not None
            # In memory first: whether or not the record gets to the disk, its number is not given to another reign.
            self._identity = attrs.evolve(change(self._identity), clean=False, metadata_end=0)
            await self._write_identity(self._identity)
        self._term = term
        self.epoch, self.reign_id = term.epoch, term.reign_id
        self.metadata = self._of_term(self.metadata)

    def _of_term(self, log: PartitionLog) -> PartitionLog:
        """``log`` itself, or its successor in the present term."""
        if log.term is not self._term:
            log, is_given_up = log.successor(self._term), self._logs.get(log.name) is not log
            self._logs.update({} if is_given_up else {log.name: log})
        return log

    # logs

    async def open_log(self, name: str, *, salt: int) -> PartitionLog:
        """Return the partition log called ``name`` for the present term, recovered; the same object while that lasts.

        ``salt``: 32 bits that belong to the log and to no other, the same for its whole life. Raises ``StorageError``
        (``closed`` when the term ended meanwhile), and ``ValueError`` for a name that the store keeps for itself.
        """
        if not is_partition_name(name):
            raise ValueError(f"log name {name!r} is kept for the store itself; partition names have no dot")
        if (log := self._logs.get(name)) is not None and log.term is self._term:
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
            if (log := self._logs.get(name)) is None:
                if term.followed is not None and name != METADATA_NAME:
                    await require_metadata(self.metadata, name, self.flush)
                assert self._opener is not None, "LogStore.open comes first"
                assert self._identity is not None
                log = await self._opener.open(name, salt, term=term, identity=self._identity, was_clean=self.was_clean)
                self._logs[name] = log
            # Else the caller, of a term that has ended, would get a log that takes appends of the next one.
            if term is not self._term:
                log.close(term.closed(name))
                raise term.closed(name)
            return self._of_term(log)

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

    async def delete_log(self, name: str, *following: str) -> None:
        """Delete a partition log and what lies beside it, or a side file, durably; ``following`` are deleted next."""
        if QUARANTINE_MARK not in name and not is_partition_name(name):
            raise ValueError(f"log {name!r} cannot be deleted")
        async with self._alone(name):
            if (log := self._logs.pop(name, None)) is not None:
                log.close(StorageError(f"log {name} is deleted", kind="closed"))
            assert self._ends is not None
            await self._ends.forget(name, *following)
            for each in (*sorted(each for each in self._names if each.startswith(name + ".")), name):
                await self.backend.delete_log(each)
                self._names.discard(each)

    async def begin_anew(self, name: str, begins: LogStart, *, kept_for: str, was_told: bool = True) -> None:
        """Have a log begin at ``begins``, empty; what it held aside, where for a reason; incarnation raised if told."""
        assert self._opener is not None
        with trio.CancelScope(shield=True):
            try:
                async with self._alone(name):
                    if kept_for:  # first: it may be in vain, and then nothing is gone
                        await self._opener.keep_whole(self._logs[name], epoch=self.epoch, reason=kept_for)
                    if was_told and self._logs[name].bytes_total:
                        await self.raise_incarnation()
                    self._logs.pop(name).give_up(StorageError(f"log {name} was begun anew", kind="closed"))
                    if name == METADATA_NAME:  # a flush that was to look after what is gone would fail
                        del self._flusher.guards[len(IDENTITY_NAMES) :]
                        await self._flusher.settle()
                    await self._opener.begin_anew(name, begins)
            finally:
                if name == METADATA_NAME:  # what there is of it now, whatever failed
                    await self.open_metadata()

    async def open_metadata(self) -> PartitionLog:
        """Return the metadata log, opened if one that was begun anew could not be yet. Raises as ``open``."""
        if METADATA_NAME not in self._logs:
            self.metadata = await self._open_log(METADATA_NAME, metadata_salt(self.set_id))
            self._flusher.guards[len(IDENTITY_NAMES) :] = self.metadata.flush_targets()[:1]
        return self.metadata

    async def report_flushed_only(self, flushed_only: bool) -> bool:
        """Note, durably, whether this node reports flushed positions only from here on; return whether it does.

        Before others are told more than that, and while nothing else is told. What was told so far is flushed first: if
        that cannot be it stays as it is. Raises ``StorageError``. If cancelled, it does, or it stays as it is.
        """
        await trio.lowlevel.checkpoint()
        if flushed_only != self.flushed_only and (not flushed_only or await self._are_all_flushed()):
            assert self._identity is not None
            if flushed_only:  # in memory first: what the disk may say has to hold
                self._identity = attrs.evolve(self._identity, flushed_only=True)
            await self._change_identity(lambda identity: attrs.evolve(identity, flushed_only=flushed_only))
        return self.flushed_only

    async def list_logs(self) -> list[str]:
        """Names of the partition logs that exist, sorted."""
        return [name for name in await self.backend.list_logs() if is_partition_name(name)]

    def opened_logs(self) -> set[str]:
        """Names of the partition logs that are in memory, those without a byte included, which exist nowhere else."""
        return set(filter(is_partition_name, self._logs))

    def unflushed(self) -> set[str]:
        """Names of the partition logs, opened in this or an earlier term, that hold what no flush has covered yet."""
        logs = [self._of_term(log) for name, log in list(self._logs.items()) if is_partition_name(name)]
        return {log.name for log in logs if log.dirty}

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
            mains, beside = list[Log](), list[Log]()
            for log, _, _ in marks:  # no comprehension: each is one more frame in the latency of a flushed message
                main, *others = log.flush_targets()
                mains.append(main)
                beside += others
            reached = await self._flusher.flush_now(mains + beside)
            self._least_level.take(marks, reached)
        finally:
            self._flusher.end_turn()
        if self._least_level.is_missed:
            await self._least_level.pause()

    def stop(self, error: FlushFailedError) -> None:
        """Stop every open log that a failed flush covered, and report each once (G11), the identity too. Idempotent."""
        covered = [log.name for log in self._logs.values() if log.flush_failed(error, error.logs)]
        if not error.logs.isdisjoint(IDENTITY_NAMES):
            self._identity_error = error
            covered += [name for name in IDENTITY_NAMES if name in error.logs]
        new = [name for name in covered if name not in self._reported_stopped]
        if new and self._stopped is not None:
            self._reported_stopped.update(new)
            self._stopped(new, error)

    # closing

    async def aclose(self, *, flush: bool = True) -> None:
        """End the term, checkpoint and flush all logs, mark the stop clean, close the backend. Idempotent.

        Without ``flush``, or when anything failed, the stop is not marked clean. Not cancelled.
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
        for log in list(self._logs.values()):
            await self._of_term(log).checkpoint()
        is_flushed = await self._are_all_flushed()
        assert self._identity is not None
        if not self._identity.clean and is_flushed:
            assert self._ends is not None
            partitions = [log for log in self._logs.values() if is_partition_name(log.name) and log.end.position]
            await self._ends.keep({log.name: log.end for log in partitions})
            clean = attrs.evolve(self._identity, clean=True, metadata_end=self.metadata.end_position)
            await self._write_identity(clean)

    async def _are_all_flushed(self) -> bool:
        """Flush every log that was opened; whether nothing is left, in the others either."""
        logs = [self._of_term(log) for log in list(self._logs.values())]
        await self.flush(logs)
        if self._identity_error is not None or any(log.failed or log.dirty for log in logs):
            return False
        return self.was_clean or await are_flushed(self.backend, self._names - self._logs.keys())
