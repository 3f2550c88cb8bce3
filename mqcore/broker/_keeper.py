"""One node's dealings with the record and the lease of its set: look, promote, change, renew, release.

A thin shell around ``mqcore.replication``'s lease machine. The record's value is bytes here, and who may promote is
decided elsewhere; this module knows when a write may be sent, and what an unanswered one means.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import attrs
import trio

from mqcore.abc import WRITE_ID_BYTES, CellPair, CellWrite, Coordinator, Notice, ignore_notice
from mqcore.errors import (
    CommandNotPossibleError,
    CoordinatorConflictError,
    CoordinatorError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
    CoordinatorWentBackError,
    CorruptionError,
)
from mqcore.ports import Ports
from mqcore.replication import ClockReading, LeaseHolder, LeaseObserver, LeaseTerms

__all__ = ["Keeper"]

_PAUSE_MS_FIRST = 20
_LOOKS_APART_MS_LEAST = 10
_RELEASE_TRIES = 3


@attrs.define
class _Attempt:
    """A record that is being written, whichever of its tries gets there: ``ids`` are those of the tries so far."""

    record: bytes
    holder: LeaseHolder
    ids: set[bytes] = attrs.field(factory=set)
    is_unknown: bool = False


class Keeper:
    """Keeps the pair of cells called ``name`` for one node. One task calls ``promote``, ``change`` or ``release`` at a
    time; ``hold`` and ``follow`` run beside it.

    ``pair`` is what was seen last, None before the first answer; ``seen_us`` when it was asked for, on the boot-time
    clock. ``holder`` is the lease of the present or last reign. ``is_valid`` is asked before each reply.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        name: str,
        *,
        node_id: bytes,
        terms: LeaseTerms,
        ports: Ports,
        report: Callable[[Notice], None] = ignore_notice,
    ) -> None:
        self.pair: CellPair | None = None
        self.seen_us = 0
        self.holder: LeaseHolder | None = None
        self.observer = LeaseObserver(terms)
        self._coordinator = coordinator
        self._name = name
        self._node_id = node_id
        self._terms = terms
        self._clock = ports.clock
        self._random = ports.random
        self._report = report
        self.trouble = ""
        """Why nothing can be known of record and lease, as was reported; empty while the coordinator answers."""
        self._trouble_class: type[Exception] = Exception
        self._answers = 0
        self._hint = trio.Event()
        # Two writes at once would expect the same pair, and one of them would always meet a conflict.
        self._writing = trio.Lock()
        # Of two reads at once it is not known which was served first: the older one could hide what the other showed.
        self._looking = trio.Lock()

    def now(self) -> ClockReading:
        """Return the moment on this node's clocks."""
        return ClockReading(self._clock.boottime_us(), self._clock.wall_ms())

    @property
    def is_valid(self) -> bool:
        """Whether this node holds a valid lease now; after a reign's first False it never does again in that reign."""
        return self.holder is not None and self.holder.is_valid(self.now())

    @property
    def is_vacant(self) -> bool:
        """Whether the lease is vacant, as far as this process has seen, lately enough."""
        return self.observer.is_vacant(self.now())

    async def look(self) -> CellPair:
        """Read both cells, take in what they show, and return them: nothing that was replaced before this call.

        Raises ``CoordinatorError``; ``CorruptionError`` when the lease cell has what is no lease (R14). No effect if
        cancelled.
        """
        async with self._looking:
            while True:
                sent, answers = self.now(), self._answers
                pair = await self._read()
                if self._answers == answers:
                    self._saw(pair, sent)
                    return pair
                # A write of this node was answered meanwhile: the read may have been served before it, so it is read
                # again rather than left out, for what the write showed may be older than this call.

    async def promote(self, record: bytes, on: CellPair | None) -> LeaseHolder:
        """Put ``record`` and take the lease in one write, and return the lease that is held now.

        ``on``: the pair that ``record`` was made from, as ``pair`` was then. Tried again while the outcome is unknown:
        the first answered try on the same expectation settles all of them. Raises ``CommandNotPossibleError`` when the
        lease is not vacant, ``CoordinatorConflictError`` when another was faster, ``CoordinatorUnreachableError`` when
        it was not written, ``CoordinatorOutcomeUnknownError`` when it was not known to be written before the lease was
        over. If cancelled or unknown, it may be written later; nobody holds that lease then, and it runs out.
        """
        async with self._writing:
            if on is None or self.pair is None or not self.is_vacant:
                raise CommandNotPossibleError(f"{self._where}: the lease is not vacant as far as this node has seen")
            if on != self.pair:
                # The record was made from what has been replaced since, by another node's whole reign perhaps: written
                # on what is there now, it would take that reign's epoch again.
                raise CoordinatorConflictError(f"{self._where}: it was changed since it was read: read it again")
            holder = LeaseHolder(
                node_id=self._node_id, reign_id=self._random.randbytes(WRITE_ID_BYTES), terms=self._terms
            )
            attempt = _Attempt(record, holder)
            deadline_us = self.now().boottime_us + self._terms.lease_ms * 1000
            await self._write_record(attempt, self.pair, deadline_us)
            self.holder = holder
            if not self.is_valid:
                raise CoordinatorOutcomeUnknownError(f"{self._where}: the record was written, and its lease is over")
            return holder

    async def change(self, record: bytes) -> None:
        """Put ``record`` in the place of the present one, as the holder of the lease; that renews the lease too.

        Tried again while its outcome is unknown and the lease lasts. Raises ``CommandNotPossibleError`` when this node
        holds no valid lease, ``CoordinatorConflictError`` when the record or the lease is another's (the lease is over
        then), ``CoordinatorUnreachableError`` when it was not written, ``CoordinatorOutcomeUnknownError`` when the
        lease ended before an answer came. If cancelled, it may be written later.
        """
        async with self._writing:
            holder = self._holder_now()
            assert self.pair is not None
            try:
                await self._write_record(_Attempt(record, holder), self.pair, None)
            except (CoordinatorConflictError, CoordinatorWentBackError):
                holder.end()
                raise

    async def hold(self) -> None:
        """Renew the lease until it is over, and return then: in time, whatever the coordinator does.

        If cancelled, the lease is not renewed any more and lasts as long as it lasts.
        """
        pause_ms = _PAUSE_MS_FIRST
        while self.is_valid:
            assert self.holder is not None
            await self._sleep_until(min(self.holder.renew_at_us, self.holder.valid_until_us))
            async with self._writing:
                if self.is_valid and self.holder.renew_at_us > self._clock.boottime_us():
                    continue  # a change of the record has renewed it
                renewed = self.is_valid and await self._renew(self.holder)
            if renewed:
                pause_ms = _PAUSE_MS_FIRST
            elif self.is_valid:
                await self._pause(pause_ms, self.holder.valid_until_us)
                pause_ms = min(pause_ms * 2, self._terms.renew_ms)

    async def release(self, to: bytes = b"") -> None:
        """Give the lease up, so that it is vacant at once; it is over here whatever comes of the write.

        ``to``: id of the node that is asked to take it next, for which the others wait a little; empty: whoever may.
        A failed or unanswered write is left alone: the lease runs out. If cancelled, likewise.
        """
        holder = self.holder
        if holder is None or holder.is_over or self.pair is None:
            return
        value = holder.release(to)
        async with self._writing:
            for _ in range(_RELEASE_TRIES):
                try:
                    await self._write(self.pair, None, CellWrite(value, self._new_id()))
                    return
                except CoordinatorConflictError:
                    # A renewal that was cancelled or not answered may be in the cell by now.
                    with contextlib.suppress(CoordinatorError):
                        if holder.wrote((await self.look()).lease.write_id):
                            continue
                except CoordinatorError:
                    pass
                return

    async def follow(self, seen: Callable[[CellPair], None]) -> None:
        """Look at every hint, each ``poll_ms``, and when the lease may be vacant; call ``seen`` with each answer.

        Runs until cancelled. What fails is reported once, and again after it went well in between.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._coordinator.watch, self._name, self._hinted)
            while True:
                self._hint = trio.Event()
                try:
                    seen(await self.look())
                    self.trouble = ""
                except (CoordinatorError, CorruptionError) as error:
                    self._report_trouble(error)
                # A chatty watch must not turn into a busy wait.
                await trio.sleep(_LOOKS_APART_MS_LEAST / 1000)
                with trio.move_on_after(self._next_look_ms / 1000):
                    await self._hint.wait()

    @property
    def _next_look_ms(self) -> float:
        vacant_in_ms = ((self.observer.vacant_at_us or 0) - self._clock.boottime_us()) / 1000
        return min(self._terms.poll_ms, vacant_in_ms) if vacant_in_ms > 0 else self._terms.poll_ms

    # one call

    @property
    def _where(self) -> str:
        return f"{self._coordinator.url} {self._name}"

    def _new_id(self) -> bytes:
        return self._random.randbytes(WRITE_ID_BYTES)

    async def _read(self) -> CellPair:
        # The part promises to end in time. What a reign hangs on is not left to a promise.
        with trio.move_on_after(self._terms.call_limit_ms / 1000):
            return await self._coordinator.read(self._name)
        raise CoordinatorUnreachableError(f"{self._where}: no answer within {self._terms.call_limit_ms} ms")

    async def _write(
        self, expect: CellPair, record: CellWrite | None, lease: CellWrite, until_us: int | None = None
    ) -> CellPair:
        sent = self.now()
        left_us = math.inf if until_us is None else until_us - sent.boottime_us
        with trio.move_on_after(max(0.0, min(self._terms.call_limit_ms / 1e3, left_us / 1e6))):
            pair = await self._coordinator.write(self._name, expect, record=record, lease=lease)
            self._saw(pair, sent)
            return pair
        raise CoordinatorOutcomeUnknownError(f"{self._where}: a write was not answered in time")

    def _saw(self, pair: CellPair, sent: ClockReading) -> None:
        self._answers += 1
        self.pair = pair
        self.seen_us = sent.boottime_us
        self.observer.saw(pair.lease.write_id, pair.lease.value, sent=sent, received=self.now())

    # renewals

    def _holder_now(self) -> LeaseHolder:
        if self.holder is None or not self.is_valid:
            raise CommandNotPossibleError(f"{self._where}: this node does not hold the lease")
        return self.holder

    async def _renew(self, holder: LeaseHolder) -> bool:
        """Try one renewal; return whether the lease has just been renewed."""
        assert self.pair is not None
        expect, write_id = self.pair, self._new_id()
        lease = CellWrite(holder.renewal(write_id, self.now()), write_id)
        try:
            await self._write(expect, None, lease, holder.valid_until_us)
        except CoordinatorConflictError:
            return await self._after_conflict(holder, expect)
        except CoordinatorError as error:
            self._failed(holder, error)
            return False
        self.trouble = ""
        holder.applied(write_id, self.now())
        return True

    async def _after_conflict(self, holder: LeaseHolder, expect: CellPair) -> bool:
        """Find out who overtook a renewal: an earlier try of this reign's own, or another node."""
        until_us = holder.valid_until_us
        while self.is_valid:
            try:
                pair = await self.look()
            except CoordinatorError as error:
                self._failed(holder, error)
                await self._pause(_PAUSE_MS_FIRST, until_us)
                continue
            if pair.record.write_id != expect.record.write_id:
                holder.end()
            elif holder.found(pair.lease.write_id, self.now()):
                return holder.valid_until_us > until_us
        return False

    def _failed(self, holder: LeaseHolder, error: CoordinatorError) -> None:
        if isinstance(error, CoordinatorWentBackError):
            holder.end()
        self._report_trouble(error)

    # records

    async def _write_record(self, attempt: _Attempt, expect: CellPair, deadline_us: int | None) -> None:
        """Write the record and the lease, until it is known what became of it.

        Only an answered write is an answer: a read that shows the old record does not say that a lost try will not be
        applied still. A later try on the same expectation does, whichever of the two is applied.
        """
        holder, pause_ms = attempt.holder, _PAUSE_MS_FIRST
        while True:
            until_us = holder.valid_until_us if deadline_us is None else deadline_us
            record, lease_id = CellWrite(attempt.record, self._new_id()), self._new_id()
            attempt.ids.add(record.write_id)
            lease = CellWrite(holder.renewal(lease_id, self.now()), lease_id)
            try:
                await self._write(expect, record, lease, until_us)
                holder.applied(lease_id, self.now())
                return
            except CoordinatorConflictError:
                pair = await self._settled_by_read(attempt, until_us)
                if pair.record.write_id in attempt.ids:
                    holder.found(pair.lease.write_id, self.now())
                    return
                if not self._is_own(attempt, pair, expect):
                    raise
                expect, attempt.is_unknown = pair, False  # what the tries so far expected is gone
            except (CoordinatorUnreachableError, CoordinatorOutcomeUnknownError) as error:
                attempt.is_unknown |= isinstance(error, CoordinatorOutcomeUnknownError)
                await self._pause(pause_ms, until_us)
                pause_ms = min(pause_ms * 2, self._terms.renew_ms)
                self._give_up_when_late(attempt, until_us, error)

    async def _settled_by_read(self, attempt: _Attempt, until_us: int) -> CellPair:
        """Read after a conflict, until there is an answer: it is final, nothing on the old expectation can come."""
        while True:
            try:
                return await self.look()
            except (CoordinatorUnreachableError, CoordinatorOutcomeUnknownError) as error:
                await self._pause(_PAUSE_MS_FIRST, until_us)
                attempt.is_unknown = True
                self._give_up_when_late(attempt, until_us, error)

    def _is_own(self, attempt: _Attempt, pair: CellPair, expect: CellPair) -> bool:
        """Whether a renewal of this same reign, not another node, overtook a change of the record."""
        is_reigning = attempt.holder is self.holder and pair.record.write_id == expect.record.write_id
        return is_reigning and attempt.holder.found(pair.lease.write_id, self.now()) and self.is_valid

    def _give_up_when_late(self, attempt: _Attempt, until_us: int, error: CoordinatorError) -> None:
        """Raise when the lease that goes with the record would not be valid any more."""
        if self._clock.boottime_us() < until_us and not attempt.holder.is_over:
            return
        if attempt.is_unknown:
            raise CoordinatorOutcomeUnknownError(f"{self._where}: the record may be written still: {error}") from error
        raise CoordinatorUnreachableError(f"{self._where}: the record was not written: {error}") from error

    # small things

    def _hinted(self) -> None:
        self._hint.set()

    def _report_trouble(self, error: Exception) -> None:
        if not self.trouble or self._trouble_class is not type(error):
            self.trouble = f"no node reigns while its coordinator gives no answer that counts: {error}"
            self._trouble_class = type(error)
            self._report(Notice("coordinator-trouble", f"{self._where}: {error}", {"name": self._name}))

    async def _sleep_until(self, boottime_us: int) -> None:
        await trio.sleep(max(0, boottime_us - self._clock.boottime_us()) / 1e6)

    async def _pause(self, pause_ms: int, until_us: int) -> None:
        """Wait before the next try, not beyond ``until_us``; jittered, or nodes would go on meeting each other."""
        pause_us = round(pause_ms * 1000 * (0.5 + self._random.random()))
        await self._sleep_until(min(self._clock.boottime_us() + pause_us, until_us))
