"""One log on several mirror groups: its units in turn on each; see ``_stripes`` for where each byte lies."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import trio

from mqcore.abc import Log
from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.ports import Buffer
from mqcore_raid._log import MirrorLog
from mqcore_raid._mending import check_overwrite, mend_by
from mqcore_raid._stripes import Stripes, encode_seal

__all__ = ["StripedLog"]

VERSIONS_MAX = 64
"""Ways to put a range together that are tried: one, unless copies differ."""


class StripedLog(Log):
    """See ``Log``. ``parts``: the log of each group, which holds that group's units."""

    def __init__(self, name: str, stripes: Stripes, parts: Sequence[MirrorLog], append_bytes_max: int) -> None:
        self.name = name
        self._append_bytes_max = append_bytes_max
        self.parts = list(parts)
        self._stripes = stripes
        self._end = stripes.reach([part.end for part in parts])
        self._durable_end = min(self._end, stripes.whole_below([part.durable_end for part in parts]))
        self._unsealed: list[int] = []
        """Whole units, in order, whose seal is not written yet."""

    @property
    def level(self) -> Level:
        """The level of the group that reaches least: the log has bytes on each."""
        return min(part.level for part in self.parts)

    @property
    def start(self) -> int:
        """Position from which on everything is kept."""
        return self._stripes.start([part.start for part in self.parts])

    @property
    def end(self) -> int:
        """Position after the last byte; after a failed flush, after the last byte that was durable before."""
        return self._end if self.failure is None else self._durable_end

    @property
    def durable_end(self) -> int:
        """Position below which everything was flushed."""
        return self._durable_end

    @property
    def may_be_stale(self) -> bool:
        """Whether a part may show bytes of another time."""
        return any(part.may_be_stale for part in self.parts)

    @property
    def failure(self) -> str | None:
        """Why the log has stopped, None while it has not."""
        return next((part.failure for part in self.parts if part.failure is not None), None)

    @property
    def closed(self) -> bool:
        """Whether this handle can no longer be used."""
        return any(part.closed for part in self.parts)

    async def append(self, chunks: Sequence[Buffer]) -> int:
        """Append ``chunks``; see ``Log.append``. Not cancelled where it reaches into another unit."""
        position = self._end
        total = sum(len(chunk) if type(chunk) is bytes else memoryview(chunk).nbytes for chunk in chunks)
        unit, offset = divmod(position, self._stripes.stripe_bytes)
        if total > self._append_bytes_max:
            raise StorageError(f"an append of {total} bytes; at most {self._append_bytes_max}", kind="limit")
        part = self.parts[self._stripes.group_of(unit)]
        if offset + total < self._stripes.stripe_bytes and part.end == self._stripes.begin(unit) + offset:
            await part.append(chunks)
            self._end = position + total
            return position
        with trio.CancelScope(shield=True):
            try:
                await self._append_pieces(chunks, position, total)
            except StorageError as error:
                await self._take_back(error, position)
                raise
        self._end = position + total
        await trio.lowlevel.checkpoint_if_cancelled()
        return position

    async def _append_pieces(self, chunks: Sequence[Buffer], position: int, total: int) -> None:
        if total == 0:
            await self.parts[0].append(chunks)
            return
        data = memoryview(b"".join(chunks))
        at = 0
        for unit, offset, size in self._stripes.pieces(position, total):
            part = self.parts[self._stripes.group_of(unit)]
            await self._begin_unit(part, unit, self._stripes.begin(unit) + offset)
            await part.append([data[at : at + size]])
            if offset + size == self._stripes.stripe_bytes:
                self._unsealed.append(unit)
            at += size

    async def _begin_unit(self, part: MirrorLog, unit: int, local: int) -> None:
        """Have the group's part end where the next bytes belong."""
        before = unit - self._stripes.groups
        if before in self._unsealed:
            await self._seal(before)
        if part.end > local:
            await part.truncate(local)
        while part.end < local:  # what no flush ever covered may lack there after a crash; it reads as zeros
            await part.append([bytes(min(local - part.end, 1024 * 1024))])

    async def _take_back(self, error: StorageError, position: int) -> None:
        """After an append that some groups have done: none of them may keep a byte of it."""
        if error.appended:
            return  # the caller truncates
        try:
            await self._cut(position)
        except StorageError as problem:
            raise StorageError(str(problem), kind=problem.kind, position=position, appended=True) from error

    async def _seal(self, unit: int) -> None:
        part = self.parts[self._stripes.group_of(unit)]
        seal_at = self._stripes.begin(unit) + self._stripes.stripe_bytes
        if part.end == seal_at:
            await part.append([encode_seal(unit)])
        self._unsealed.remove(unit)

    async def seal_flushed(self) -> None:
        """Before a flush: seal the units that the one before it has covered. Raises ``StorageError``.

        A seal for which there is no room comes with a later flush: what is to be flushed now is stored already, and
        without the seal a crash leaves less proved, not less kept.
        """
        for unit in [each for each in self._unsealed if (each + 1) * self._stripes.stripe_bytes <= self._durable_end]:
            try:
                await self._seal(unit)
            except StorageError as error:
                if error.kind != "full" or error.appended:
                    raise
                return

    async def read(self, position: int, size: int) -> memoryview:
        """Return up to ``size`` bytes, of one unit; see ``Log.read``."""
        if not self.start <= position <= self.end:
            await trio.lowlevel.checkpoint()
            raise ValueError(f"{self.name}: position {position} is outside the log ({self.start} to {self.end})")
        unit, offset = divmod(position, self._stripes.stripe_bytes)
        part = self.parts[self._stripes.group_of(unit)]
        local = self._stripes.begin(unit) + offset
        size = min(size, self.end - position, self._stripes.stripe_bytes - offset)
        if size > 0 and local >= part.end:
            await trio.lowlevel.checkpoint()
            return memoryview(bytes(min(size, 1024 * 1024)))
        return await part.read(local if size > 0 else part.end, size)

    async def mend(self, position: int, size_max: int, whole: Callable[[memoryview], int]) -> int:
        """Put right what is wrong on one copy of some part; see ``Log.mend``."""
        return await mend_by(self.versions, self.settle_on, position, min(size_max, self.end - position), whole)

    async def versions(self, position: int, size: int) -> list[bytes]:
        """What the members hold of a range: its units' versions, put together in up to ``VERSIONS_MAX`` ways."""
        parts = []
        for unit, offset, piece in self._stripes.pieces(position, size):
            part = self.parts[self._stripes.group_of(unit)]
            parts.append(await part.versions(self._stripes.begin(unit) + offset, piece))
        return [b"".join(pieces) for pieces in itertools.islice(itertools.product(*parts), VERSIONS_MAX)]

    async def settle_on(self, position: int, data: bytes) -> bool:
        """Write ``data`` on every copy that has something else; return whether one had. Raises ``StorageError``."""
        changed, at = False, 0
        for unit, offset, piece in self._stripes.pieces(position, len(data)):
            part = self.parts[self._stripes.group_of(unit)]
            changed |= await part.settle_on(self._stripes.begin(unit) + offset, data[at : at + piece])
            at += piece
        return changed

    async def overwrite(self, position: int, data: Buffer) -> None:
        """Write ``data`` on every copy of its units; see ``Log.overwrite``. Not cancelled once begun."""
        wanted, at = memoryview(check_overwrite(self, position, data)), 0
        with trio.CancelScope(shield=True):
            for unit, offset, piece in self._stripes.pieces(position, len(wanted)):
                part = self.parts[self._stripes.group_of(unit)]
                await part.overwrite(self._stripes.begin(unit) + offset, wanted[at : at + piece])
                at += piece

    async def truncate(self, position: int) -> None:
        """Cut everything from ``position`` on, on every group; see ``Log.truncate``. Not cancelled once begun."""
        if not self.start <= position <= self._end:
            raise ValueError(f"{self.name}: position {position} is outside the log ({self.start} to {self._end})")
        with trio.CancelScope(shield=True):
            await self._cut(position)
        self._end = position
        self._durable_end = min(self._durable_end, position)

    async def _cut(self, position: int) -> None:
        for group, part in enumerate(self.parts):
            local = self._stripes.local(group, position)
            await part.truncate(min(part.end, max(local, part.start)))
        self._unsealed = [unit for unit in self._unsealed if (unit + 1) * self._stripes.stripe_bytes <= position]

    async def trim(self, position: int) -> int:
        """Give up whole segments below ``position`` on every group; return the new start."""
        for group, part in enumerate(self.parts):
            await part.trim(min(part.end, self._stripes.local(group, position)))
        self._durable_end = max(self._durable_end, self.start)
        return self.start

    def flushed(self, end: int) -> None:
        """Note that everything below ``end`` is flushed."""
        self._durable_end = max(self._durable_end, end)

    def dirty_parts(self) -> list[MirrorLog]:
        """Parts that hold what no flush has covered."""
        return [part for part in self.parts if part.durable_end < part.end]

    async def aclose(self) -> None:
        """Close every part."""
        for part in self.parts:
            await part.aclose()
