"""A log that begins at another position than 0: of a replica that joins, or fell behind, after its primary trimmed.

What the storage has of it counts from 0; what the log says counts from where its primary's begins, so that positions
are the same on every node (R4). Where that is stands in a log of its own, ``NAME.base``: one line of JSON, written
before the first byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mqcore.abc import Log
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log._names import SIDECAR_SUFFIX
from mqcore.log._pass_through import PassThroughLog
from mqcore.log._scan import read_exactly
from mqcore.log._state import LogState
from mqcore.log._unreadable import UnreadableAsZeros
from mqcore.ports import Buffer

__all__ = [
    "ANEW_SUFFIX",
    "BASE_SUFFIX",
    "BasedLog",
    "LogStart",
    "based",
    "first_state",
    "origin_of",
    "read_start",
    "stored",
    "those_that_count",
    "write_start",
]

ANEW_SUFFIX = ".anew"
"""Of a log that stands beside one that is being begun anew, and says where: what there is of that one is to go."""
BASE_SUFFIX = ".base"
_PARTS = ("", SIDECAR_SUFFIX, BASE_SUFFIX)
_BASE_BYTES_MAX = 1024


def those_that_count(names: Sequence[str]) -> list[str]:
    """``names`` of logs without those of one that is being begun anew."""
    gone = {name.removesuffix(ANEW_SUFFIX) + part for name in names if name.endswith(ANEW_SUFFIX) for part in _PARTS}
    return [name for name in names if name not in gone]


class LogStart(NamedTuple):
    """Where a log begins: offset and position of its first batch; number, id and begin of the reign that wrote it."""

    offset: int = 0
    position: int = 0
    epoch: int = 0
    reign_id: bytes = bytes(16)
    reign_position: int = 0
    reign_offset: int = 0

    def to_json(self) -> list[int | str]:
        """Return it as JSON values."""
        return [*self[:3], self.reign_id.hex(), *self[4:]]

    @classmethod
    def from_json(cls, value: Any) -> LogStart:
        """The inverse of ``to_json``. Raises ``ValueError`` or ``TypeError``."""
        offset, position, epoch, reign_id, reign_position, reign_offset = value
        for each in (offset, position, epoch, reign_position, reign_offset):  # of 100 000 logs in one snapshot
            if type(each) is not int or each < 0:
                raise ValueError(f"not the start of a log: {value!r}")
        if len(reign_id) != 32:
            raise ValueError(f"not the start of a log: {value!r}")
        return cls(offset, position, epoch, bytes.fromhex(reign_id), reign_position, reign_offset)


class BasedLog(PassThroughLog):
    """``inner`` at positions that begin at ``begins.position``."""

    def __init__(self, inner: Log, begins: LogStart) -> None:
        super().__init__(inner)
        self.begins = begins

    @property
    def start(self) -> int:
        """As of ``Log``."""
        return self.inner.start + self.begins.position

    @property
    def end(self) -> int:
        """As of ``Log``."""
        return self.inner.end + self.begins.position

    @property
    def durable_end(self) -> int:
        """As of ``Log``."""
        return self.inner.durable_end + self.begins.position

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """As of ``Log``."""
        return await self.inner.append(chunks) + self.begins.position

    async def read(self, position: int, size: int) -> memoryview:
        """As of ``Log``."""
        return await self.inner.read(self._below(position), size)

    async def mend(self, position: int, size_max: int, whole: Callable[[memoryview], int]) -> int:
        """As of ``Log``."""
        return await self.inner.mend(self._below(position), size_max, whole)

    async def overwrite(self, position: int, data: Buffer) -> None:
        """As of ``Log``."""
        await self.inner.overwrite(self._below(position), data)

    async def truncate(self, position: int) -> None:
        """As of ``Log``."""
        await self.inner.truncate(self._below(position))

    async def trim(self, position: int) -> int:
        """As of ``Log``."""
        return await self.inner.trim(self._below(position)) + self.begins.position

    def _below(self, position: int) -> int:
        if position < self.begins.position:
            raise ValueError(f"log {self.name}: {position} is below its start {self.begins.position}")
        return position - self.begins.position


def stored(log: Log) -> Log:
    """``log`` as its storage knows it."""
    while isinstance(log, BasedLog | UnreadableAsZeros):
        log = log.inner
    return log


def origin_of(log: Log) -> int:
    """Position of the first byte that ``log`` ever had."""
    return log.begins.position if isinstance(log, BasedLog) else 0


def first_state(log: Log, limits: Limits) -> LogState:
    """The state of ``log`` before its first byte."""
    state = LogState(limits)
    if isinstance(log, BasedLog):
        begins = log.begins
        state.begin_at(begins.position, begins.offset)
        if begins.epoch:
            state.open_epoch(begins.epoch, begins.reign_id, begins.reign_position, begins.reign_offset)
    return state


async def based(inner: Log, base: Log | None) -> Log:
    """``inner`` where ``base``, the log that says so, has it begin. Raises ``StorageError``, ``CorruptionError``."""
    if base is None or base.end == base.start:
        return inner  # the process died before it had been written: the log is as one that never was
    try:
        begins = await read_start(base)
    except ValueError as error:
        text = f"where log {inner.name} begins cannot be read: {error}; remove both, and it is copied anew"
        raise CorruptionError(text, where=f"log {base.name}") from None
    if begins is None and inner.end > inner.start:
        text = f"where log {inner.name} begins is torn; remove both, and it is copied anew"
        raise CorruptionError(text, where=f"log {base.name}")
    return inner if begins is None else BasedLog(inner, begins)


async def read_start(log: Log) -> LogStart | None:
    """What ``write_start`` wrote into ``log``; None for what is torn. Raises ``StorageError``, ``ValueError``."""
    data = bytes(await read_exactly(log, log.start, min(log.end - log.start, _BASE_BYTES_MAX)))
    line, newline, _ = data.partition(b"\n")
    try:
        return LogStart.from_json(json.loads(line or b"[]")) if newline else None
    except TypeError as error:
        raise ValueError(str(error)) from None


async def write_start(log: Log, begins: LogStart) -> None:
    """Write into ``log``, which is empty, where another begins; the caller flushes it. Raises ``StorageError``."""
    await log.append([json.dumps(begins.to_json()).encode() + b"\n"])
