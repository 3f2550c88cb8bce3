"""A storage that reports what it is asked: every append and every flush, as events. It changes nothing.

An ordinary wrapper backend, ``SCHEME://?inner=URL``: the broker cannot distinguish it from the storage inside.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import attrs

from mqcore.abc import FlushedLog, Log, StorageBackend, StorageContext
from mqcore.batch import HEADER_BYTES, unpack_header
from mqcore.errors import FlushFailedError
from mqcore.ports import Buffer
from mqcore.registry import create_storage
from mqcore.testing import PassThroughLog, PassThroughStorage
from mqcore.url import Url

_PARTITION_LOG = re.compile(r"([0-9a-f]{32})-([0-9]+)\Z")


class Observer(Protocol):
    """What is called with each append and flush."""

    def appended(
        self, topic_id: str, index: int, start: int, end: int, base_offset: int, next_offset: int, epoch: int
    ) -> None:
        """Batches went to positions ``start`` to ``end`` of the log of one partition."""

    def flushed(
        self, ends: Sequence[tuple[str, int, int]], failed: bool, absent: Sequence[tuple[str, int, int]], level: str
    ) -> None:
        """A flush ended: topic id, partition and durable end of each partition log that it covered.

        ``level``: the lowest that it stated, empty if it failed. ``absent``: the same of appends, by their positions,
        that are not on the device nevertheless.
        """

    def is_absent(self, data: bytes) -> bool:
        """Whether ``data`` is known not to be on the device, although it was written."""
        ...


def observed_url(scheme: str, inner: str) -> str:
    """Return the URL of the storage ``inner``, observed by who registered ``scheme``."""
    return str(Url(scheme, "", {"inner": inner}))


@attrs.frozen(kw_only=True)
class ObservedOptions:
    """``inner``: URL of the storage inside."""

    inner: str


class ObservedLog(PassThroughLog):
    """A log inside, observed."""

    def __init__(self, inner: Log, observer: Observer) -> None:
        super().__init__(inner)
        match = _PARTITION_LOG.match(inner.name)
        self.partition = (match[1], int(match[2])) if match else None
        self._observer = observer
        self._unflushed: deque[tuple[int, bytes]] = deque()

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """Append inside; report which batches when it is done."""
        runs = self._describe(chunks) if self.partition is not None else []
        position = await self.inner.append(chunks)
        if runs and self.partition is not None:
            self._unflushed.append((position, b"".join(chunks)))
            for begin, end, base_offset, next_offset, epoch in runs:
                self._observer.appended(
                    *self.partition, position + begin, position + end, base_offset, next_offset, epoch
                )
        return position

    def absent(self, durable_end: int) -> list[tuple[str, int, int]]:
        """Appends below ``durable_end``, flushed for the first time, that the device does not have."""
        found = []
        while self._unflushed and self._unflushed[0][0] < durable_end:
            position, data = self._unflushed.popleft()
            if self.partition is not None and self._observer.is_absent(data):
                found.append((*self.partition, position))
        return found

    def _describe(self, chunks: Sequence[Buffer]) -> list[tuple[int, int, int, int, int]]:
        """Where the batches of each epoch in ``chunks`` begin and end, their first and next offset, and the epoch.

        What a replica appends at once may be of several. Empty when they are no batches.
        """
        data = memoryview(b"".join(chunks))
        position = 0
        runs: list[tuple[int, int, int, int, int]] = []
        while position + HEADER_BYTES <= len(data):
            header = unpack_header(data[position:])
            begin, first = position, header.base_offset
            if runs and runs[-1][-1] == header.epoch:
                begin, _, first, _, _ = runs.pop()
            position += header.size
            runs.append((begin, position, first, header.base_offset + header.count, header.epoch))
        return runs if position == len(data) else []

    async def truncate(self, position: int) -> None:
        await self.inner.truncate(position)
        while self._unflushed and self._unflushed[-1][0] >= position:
            self._unflushed.pop()


class ObservedStorage(PassThroughStorage):
    """See the module. ``observer`` is set by ``observed_class``."""

    options_class: ClassVar[type[Any]] = ObservedOptions
    observer: ClassVar[Observer]
    wrap_storage: ClassVar[Callable[[StorageBackend], StorageBackend]]

    def __init__(self, url: Url, options: ObservedOptions, context: StorageContext) -> None:
        super().__init__(type(self).wrap_storage(create_storage(options.inner, context)))
        self.url, self.options = url, options

    def wrap(self, log: Log) -> ObservedLog:
        """Return the observed log."""
        return ObservedLog(log, self.observer)

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """Flush inside; report what became of it."""
        observed = [log for log in logs if isinstance(log, ObservedLog)]
        try:
            reached = await super().flush(logs)
        except FlushFailedError as error:
            opened = [log for log in self.opened.values() if isinstance(log, ObservedLog)]
            covered = [log for log in opened if log.name in error.logs]
            self._tell(covered, [log.inner.durable_end for log in covered], "")
            raise
        if reached:
            self._tell(observed, [each.end for each in reached], min(each.level for each in reached).label)
        return reached

    def _tell(self, logs: Sequence[ObservedLog], ends: Sequence[int], level: str) -> None:
        failed = not level
        covered = [(log, log.partition, end) for log, end in zip(logs, ends, strict=True) if log.partition is not None]
        absent = [] if failed else [each for log, _, end in covered for each in log.absent(end)]
        if covered:
            self.observer.flushed([(*partition, end) for _, partition, end in covered], failed, absent, level)


def observed_class(
    observer: Observer, wrap: Callable[[StorageBackend], StorageBackend] = lambda backend: backend
) -> type[ObservedStorage]:
    """Return the backend class that reports to ``observer``; ``wrap`` may put a saboteur between it and the storage."""
    return type("ObservedStorage", (ObservedStorage,), {"observer": observer, "wrap_storage": staticmethod(wrap)})
