"""The rule of delivery: a pure machine that is told of messages and outcomes, and says what to do.

Within a lane, a partition or a key, messages are handled one after the other: one that failed holds its lane up until
it is done, also while it waits for its next attempt. A position may be committed when everything below it is done:
what was begun and not finished is delivered again after a restart, and nothing is left out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Container, Hashable
from typing import Generic, Literal, TypeVar

import attrs
from attrs import validators

__all__ = ["DeliveryMachine", "DeliveryRules", "Ordering", "Task"]

Ordering = Literal["partition", "key"]
"""What keeps its order: each partition, or each key of one. A message without a key has no order under ``key``."""

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class DeliveryRules:
    """How many at once, in which order, and how often. Times in us."""

    ordering: Ordering = "partition"
    in_flight_max: int = attrs.field(default=1, validator=validators.ge(1))
    attempts_max: int | None = attrs.field(default=None, validator=validators.optional(validators.ge(1)))
    pause_us_first: int = attrs.field(default=1_000_000, validator=validators.ge(0))
    pause_us_max: int = attrs.field(default=60_000_000, validator=validators.ge(0))

    def pause_us(self, attempts: int) -> int:
        """How long to wait after so many failures of one message: twice as long each time, up to the longest."""
        return min(self.pause_us_max, self.pause_us_first << min(attempts - 1, 40))


@attrs.define(eq=False)
class Task(Generic[T]):
    """A message in the machine's care. ``attempts``: failures so far; ``is_dead``: it is to be buried, not handled."""

    item: T
    partition: int
    offset: int
    epoch: int
    attempts: int = 0
    is_dead: bool = False
    burials: int = 0
    _lane: Hashable = attrs.field(default=None, repr=False, alias="lane")
    _is_done: bool = attrs.field(default=False, repr=False)
    _window: _Window[T] | None = attrs.field(default=None, repr=False, alias="window")


@attrs.define(eq=False)
class _Window(Generic[T]):
    """What of one partition is not done yet, and what is done behind it."""

    tasks: deque[Task[T]] = attrs.field(factory=deque)
    lanes: dict[Hashable, deque[Task[T]]] = attrs.field(factory=dict)
    ready: deque[Task[T]] = attrs.field(factory=deque)
    running: int = 0
    position: tuple[int, int] | None = None


class DeliveryMachine(Generic[T]):
    """The messages of a consumer that were read and are not done."""

    def __init__(self, rules: DeliveryRules) -> None:
        self._rules = rules
        self._windows: dict[int, _Window[T]] = {}
        self._paused: list[tuple[int, int, Task[T]]] = []
        self._count = 0

    @property
    def held(self) -> int:
        """Messages that were taken and are not behind a position yet."""
        return sum(len(window.tasks) for window in self._windows.values())

    @property
    def in_flight(self) -> int:
        """Messages that are handled or buried now, of partitions that are still this consumer's."""
        return sum(window.running for window in self._windows.values())

    def take(self, item: T, partition: int, offset: int, epoch: int, key: bytes | None, attempts: int = 0) -> None:
        """Take a message that was read, after those of its partition that were read before.

        ``attempts``: failures that are known of an earlier run. Raises ``ValueError`` for an offset that goes back.
        """
        window = self._windows.setdefault(partition, _Window())
        end = self.end(partition)
        if offset < end:
            raise ValueError(f"partition {partition}: offset {offset} where {end} or a later one is due")
        lane: Hashable = "" if self._rules.ordering == "partition" else key if key is not None else object()
        task = Task(item, partition, offset, epoch, attempts, lane=lane, window=window)
        task.is_dead = self._has_no_attempt_left(task)
        window.tasks.append(task)
        waiting = window.lanes.setdefault(lane, deque())
        waiting.append(task)
        if len(waiting) == 1:
            window.ready.append(task)

    def begin(self, now_us: int, on_hold: Container[int] = ()) -> list[Task[T]]:
        """Return what to begin now: to handle it, or to bury it, where it ``is_dead``. Each ends by one of the next.

        Nothing of the partitions ``on_hold``.
        """
        while self._paused and self._paused[0][0] <= now_us:
            task = heapq.heappop(self._paused)[2]
            if self._is_kept(task):
                assert task._window is not None
                task._window.ready.append(task)
        begun = []
        for partition, window in self._windows.items():
            if partition in on_hold:
                continue
            while window.ready and window.running < self._rules.in_flight_max:
                window.running += 1
                begun.append(window.ready.popleft())
        return begun

    def next_us(self) -> int | None:
        """When to call ``begin`` again although nothing has ended; None: there is no such time."""
        while self._paused and not self._is_kept(self._paused[0][2]):
            heapq.heappop(self._paused)
        return self._paused[0][0] if self._paused else None

    def done(self, task: Task[T]) -> None:
        """The handler has returned, or the message was buried."""
        window = self._end(task)
        if window is None:
            return
        task._is_done = True
        waiting = window.lanes[task._lane]
        waiting.popleft()
        if waiting:
            window.ready.append(waiting[0])
        else:
            del window.lanes[task._lane]
        while window.tasks and window.tasks[0]._is_done:
            ended = window.tasks.popleft()
            window.position = (ended.offset + 1, ended.epoch)

    def failed(self, task: Task[T], now_us: int) -> None:
        """The handler has raised: it is tried again after a pause, or buried if it has no attempt left."""
        window = self._end(task)
        if window is None:
            return
        task.attempts += 1
        task.is_dead = self._has_no_attempt_left(task)
        if task.is_dead:
            window.ready.appendleft(task)
        else:
            self._pause(task, now_us + self._rules.pause_us(task.attempts))

    def not_buried(self, task: Task[T], now_us: int) -> None:
        """It could not be buried: that is tried again after a pause, as long as it takes."""
        if self._end(task) is not None:
            task.burials += 1
            self._pause(task, now_us + self._rules.pause_us(task.burials))

    def drop(self, partition: int) -> None:
        """Forget a partition, which is another consumer's now; what of it is running ends without effect."""
        self._windows.pop(partition, None)

    def partitions(self) -> list[int]:
        """Return the partitions of which something was taken."""
        return list(self._windows)

    def end(self, partition: int) -> int:
        """Return the offset after everything that was taken of a partition; 0 of one of which nothing was."""
        window = self._windows.get(partition)
        if window is None:
            return 0
        return window.tasks[-1].offset + 1 if window.tasks else (window.position or (0, 0))[0]

    def is_busy(self, partition: int) -> bool:
        """Return whether something of a partition was taken that is not done."""
        window = self._windows.get(partition)
        return window is not None and bool(window.tasks)

    def position(self, partition: int) -> tuple[int, int] | None:
        """Return the position (offset, epoch) below which all of a partition is done; None before the first is."""
        window = self._windows.get(partition)
        return None if window is None else window.position

    def _has_no_attempt_left(self, task: Task[T]) -> bool:
        return self._rules.attempts_max is not None and task.attempts >= self._rules.attempts_max

    def _is_kept(self, task: Task[T]) -> bool:
        return self._windows.get(task.partition) is task._window

    def _end(self, task: Task[T]) -> _Window[T] | None:
        """The window of a task that was running; None if its partition was dropped meanwhile."""
        if not self._is_kept(task):
            return None
        window = task._window
        assert window is not None
        window.running -= 1
        return window

    def _pause(self, task: Task[T], until_us: int) -> None:
        self._count += 1  # of two with one time the first comes first; tasks themselves have no order
        heapq.heappush(self._paused, (until_us, self._count, task))
