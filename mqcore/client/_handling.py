"""Push consumption: reads, hands messages to a handler, and sees to those that it failed at. It runs a machine.

A position is committed when everything below it was handled, was taken by the dead-letter topic, or lies on this
consumer's own disk. So a consumer that dies at any step delivers again what it had begun, and loses nothing.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

import attrs
import trio

from mqcore.abc import Filter
from mqcore.client._consumed import Message
from mqcore.client._consumer import Consumer
from mqcore.client._options import HandlingOptions
from mqcore.client._rebalance import RebalanceListener
from mqcore.client._recovery import KeptMessage, RecoveryFolder, RecoveryFull
from mqcore.delivery import DeliveryMachine, DeliveryRules, HandlingFailure, Origin, Task, history_pairs
from mqcore.errors import BatchUndecodableError, ConfigurationError, MessagesMissingError, MqcoreError
from mqcore.nurseries import one_error
from mqcore.ports import DeviceThread

__all__ = ["Bury", "Handler", "Handling", "WrongHandlerError"]

_log = logging.getLogger("mqcore.client")
T = TypeVar("T")
_LAST_COMMIT_WITHIN_S = 2.0

Handler = Callable[[Message], Awaitable[None]]
"""Handles one message: returns when it is done, raises an ``Exception`` when it failed."""
Bury = Callable[[Message, tuple[tuple[str, bytes], ...]], Awaitable[None]]
"""Sends a message to the dead-letter topic with these headers besides its own; returns when that has it."""


class WrongHandlerError(ConfigurationError):
    """A handler of another kind than this client calls: no message can be handled by it, nor has failed."""


@runtime_checkable
class _Commits(Protocol):
    """What a consumer of a group has besides."""

    group: str
    listener: RebalanceListener | None

    async def commit(self, positions: Mapping[int, tuple[int, int]]) -> dict[int, tuple[int, int]]: ...


@attrs.define
class _Letter:
    """A message in hand. ``first_ms``, ``last_ms``: when it failed; ``error``: how it did the last time."""

    message: Message
    first_ms: int = 0
    last_ms: int = 0
    error: str = "the process ended while it was handled"


class Handling:
    """One consumer whose messages go to ``handler``. ``bury`` is None where there is no dead-letter topic."""

    def __init__(
        self,
        consumer: Consumer,
        handler: Handler,
        options: HandlingOptions,
        *,
        bury: Bury | None,
        chosen: Filter | None,
        recovery: RecoveryFolder | None,
        thread: DeviceThread | None,
        wall_ns: Callable[[], int],
        report: Callable[[MqcoreError], None],
    ) -> None:
        self._consumer = consumer
        self._handler = handler
        self._options = options
        self._bury = bury
        self._chosen = chosen
        self._recovery = recovery
        self._thread = thread
        self._wall_ns = wall_ns
        self._report = report
        self._commits = consumer if isinstance(consumer, _Commits) else None
        has_end = bury is not None or recovery is not None
        self._machine: DeliveryMachine[_Letter] = DeliveryMachine(
            DeliveryRules(
                ordering=options.order,
                in_flight_max=options.in_flight_max,
                # With nowhere to put it, a message is tried for ever: what counts as handled must not be lost.
                attempts_max=options.attempts_max if has_end else None,
                pause_us_first=options.pause_ms_first * 1000,
                pause_us_max=options.pause_ms_max * 1000,
            )
        )
        self._changed = trio.Event()
        self._committed: dict[int, tuple[int, int]] = {}
        self._running: defaultdict[int, set[trio.CancelScope]] = defaultdict(set)
        """What is handled or buried now, by partition; of one that was lost, what has not ended yet."""
        self._revoked: set[int] = set()
        """Partitions to be given up, of which nothing is begun any more."""
        self._left_over: set[int] = set()
        """Partitions that were lost while something ran; until that has ended nothing of them is begun again."""
        self._losses: Counter[int] = Counter()

    async def run(self) -> None:
        """Read and handle until cancelled, or until reading raises what cannot be gone on after, in no group.

        What an ``Exception`` of the handler does is in the class; any other, such as ``SystemExit``, ends this, and
        what was in hand counts as not handled. If cancelled, handlers are cancelled, and what is done is committed.
        """
        if self._commits is not None:
            self._commits.listener = self
        try:
            with one_error():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._begin, nursery)
                    if self._commits is not None:
                        nursery.start_soon(self._commit_often)
                    if self._recovery is not None:
                        nursery.start_soon(self._recover)
        finally:
            with trio.move_on_after(_LAST_COMMIT_WITHIN_S, shield=True):
                await self._commit()

    # reading

    async def _read(self) -> None:
        while True:
            while self._machine.held >= self._options.held_max:
                await self._until_changed()
            try:
                batch = await self._consumer.next_batch()
            except (BatchUndecodableError, MessagesMissingError) as error:
                self._report(error)
                continue
            if batch.offset < self._machine.end(batch.partition):
                self._machine.drop(batch.partition)  # the log has lost its end, and it begins anew before that
            for message in batch.messages():
                attempts = 0 if self._recovery is None else self._recovery.attempts_of(message)
                letter = _Letter(message, last_ms=self._now_ms() if attempts else 0)
                letter.first_ms = letter.last_ms
                self._machine.take(letter, message.partition, message.offset, message.epoch, message.key, attempts)
            # Behind its last message there may be some without the tags asked for: done when the others are.
            self._consumer.passed[batch.partition] = batch.next_offset, batch.epoch
            self._wake()

    # partitions that move

    async def on_revoked(self, partition: int) -> None:
        """Begin nothing of a partition any more, wait for what runs, and commit: then another member may have it."""
        losses = self._losses[partition]
        self._revoked.add(partition)
        while self._running[partition] and losses == self._losses[partition]:
            await self._until_changed()
        if losses == self._losses[partition]:
            await self._commit((partition,))
        if losses == self._losses[partition]:  # else it was lost meanwhile, and may be here again
            self._forget(partition)

    def on_lost(self, partition: int) -> None:
        """Cancel what runs: another member may begin with the same messages from now on."""
        self._losses[partition] += 1
        self._forget(partition)
        for scope in self._running[partition]:
            self._left_over.add(partition)
            scope.cancel()

    def _forget(self, partition: int) -> None:
        self._machine.drop(partition)
        self._committed.pop(partition, None)
        self._revoked.discard(partition)
        self._wake()

    # handling

    async def _begin(self, nursery: trio.Nursery) -> None:
        while True:
            for task in self._machine.begin(self._now_us(), self._revoked | self._left_over):
                scope = trio.CancelScope()
                self._running[task.partition].add(scope)
                nursery.start_soon(self._see_to_within, task, scope)
            await self._until_changed(self._machine.next_us())

    async def _see_to_within(self, task: Task[_Letter], scope: trio.CancelScope) -> None:
        running = self._running[task.partition]
        try:
            with scope:
                await self._see_to(task)
        finally:
            running.remove(scope)
            if not running:
                self._left_over.discard(task.partition)
            self._wake()

    async def _see_to(self, task: Task[_Letter]) -> None:
        if task.is_dead:
            await self._bury_one(task)
        elif await self._handle(task.item, task.attempts):
            self._machine.done(task)
        else:
            self._machine.failed(task, self._now_us())

    async def _handle(self, letter: _Letter, attempts: int) -> bool:
        """Call the handler; whether it succeeded. What it raised is in ``letter`` then."""
        message = letter.message
        timeout_ms = self._options.handler_timeout_ms
        with self._noted(message, attempts):
            try:
                if self._chosen is not None and not self._chosen.matches(message):
                    return True
                with trio.move_on_after(timeout_ms / 1000) as limit:
                    await _begun(self._handler, message)
                if not limit.cancelled_caught:
                    return True
                letter.error = f"the handler did not end within {timeout_ms} ms"
            except WrongHandlerError:
                raise
            except Exception as error:
                letter.error = f"{type(error).__name__}: {error}"
        letter.last_ms = self._now_ms()
        letter.first_ms = letter.first_ms or letter.last_ms
        _log.warning("%s: attempt %d failed: %s", _where(message), attempts + 1, " ".join(letter.error.split())[:300])
        return False

    @contextlib.contextmanager
    def _noted(self, message: Message, attempts: int) -> Iterator[None]:
        """Have it noted on the disk that ``message`` is being handled: what ends the process leaves the note there."""
        if self._recovery is None:
            yield
            return
        slot = self._recovery.begin(message, attempts)
        try:
            yield
        except (trio.Cancelled, KeyboardInterrupt, WrongHandlerError):
            self._recovery.end(slot)  # the message is not what ended it
            raise
        self._recovery.end(slot)

    async def _bury_one(self, task: Task[_Letter]) -> None:
        letter = task.item
        failure = HandlingFailure(
            attempts=task.attempts, first_ms=letter.first_ms, last_ms=letter.last_ms, error=letter.error
        )
        problem = await self._send_dead(letter.message, failure)
        if problem and self._recovery is not None:
            problem = await self._keep(letter.message, failure)
        if problem:
            _log.error("%s: it is held, and what comes after it: %s; tried again", _where(letter.message), problem)
            self._machine.not_buried(task, self._now_us())
        else:
            self._machine.done(task)

    async def _send_dead(self, message: Message, failure: HandlingFailure) -> str:
        """Send ``message`` to the dead-letter topic; return why it did not go, or nothing."""
        if self._bury is None:
            return "there is no dead-letter topic"
        group = "" if self._commits is None else self._commits.group
        origin = Origin(
            topic=message.topic, partition=message.partition, offset=message.offset, epoch=message.epoch, group=group
        )
        with trio.move_on_after(self._options.dead_letter_timeout_ms / 1000):
            try:
                await self._bury(message, history_pairs(origin, failure))
                return ""
            except (MqcoreError, trio.ClosedResourceError) as error:
                return f"the dead-letter topic did not take it: {error}"
        return f"the dead-letter topic did not take it within {self._options.dead_letter_timeout_ms} ms"

    # local recovery

    async def _keep(self, message: Message, failure: HandlingFailure) -> str:
        assert self._recovery is not None
        recovery = self._recovery
        try:
            await self._in_thread(lambda: recovery.keep(message, failure))
        except (OSError, RecoveryFull) as error:
            return f"it cannot be kept in recovery_dir: {error}; make room there"
        return ""

    async def _recover(self) -> None:
        """Try what is kept on this disk again: to send it to the dead-letter topic, or, without one, to handle it."""
        assert self._recovery is not None
        recovery = self._recovery
        while True:
            for entry in list(recovery.kept.values()):
                if await self._try_again(entry):
                    with contextlib.suppress(OSError):  # then it is tried once more than it would have to be
                        await self._in_thread(partial(recovery.settle, entry.number))
            await trio.sleep(self._options.recovery_pause_ms / 1000)

    async def _try_again(self, entry: KeptMessage) -> bool:
        if self._bury is not None:
            return not await self._send_dead(entry.message, entry.failure)
        return await self._handle(_Letter(entry.message), entry.failure.attempts)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        assert self._thread is not None
        return await self._thread.run(function)

    # committing

    async def _commit_often(self) -> None:
        while True:
            await trio.sleep(self._options.commit_interval_ms / 1000)
            await self._commit()

    async def _commit(self, partitions: Iterable[int] | None = None) -> None:
        if self._commits is None:
            return
        if partitions is None:
            partitions = {*self._machine.partitions(), *self._consumer.passed}
        positions = {
            partition: position
            for partition in partitions
            if (position := self._position(partition)) not in (None, self._committed.get(partition))
        }
        if not positions:
            return
        try:
            await self._commits.commit(positions)
        except (MqcoreError, trio.ClosedResourceError) as error:
            _log.warning("group %s: not committed, and tried again: %s", self._commits.group, error)
        else:
            self._committed.update(positions)

    def _position(self, partition: int) -> tuple[int, int] | None:
        """Below which nothing of a partition is left to be done; None before anything is."""
        done, passed = self._machine.position(partition), self._consumer.passed.get(partition)
        if passed is None or (done is not None and passed[0] <= done[0]) or self._machine.is_busy(partition):
            return done
        return passed

    # waiting

    async def _until_changed(self, until_us: int | None = None) -> None:
        changed = self._changed
        pause_s = float("inf") if until_us is None else max(0, until_us - self._now_us()) / 1_000_000
        with trio.move_on_after(pause_s):
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _now_us(self) -> int:
        return int(trio.current_time() * 1_000_000)

    def _now_ms(self) -> int:
        return self._wall_ns() // 1_000_000


def _begun(handler: Handler, message: Message) -> Awaitable[None]:
    """Call ``handler``; what it returns has to be awaited, or the message would count as failed again and again."""
    begun = handler(message)
    if not inspect.isawaitable(begun):
        raise WrongHandlerError(f"handle: the handler returned {type(begun).__name__}: write it with async def")
    return begun


def _where(message: Any) -> str:
    return f"topic {message.topic!r} partition {message.partition} offset {message.offset}"
