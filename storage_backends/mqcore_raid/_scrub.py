"""Scrubbing: reads every log of every group from each member, compares, mends what differs, and counts.

Of copies that differ the right one is that whose checksum is known (``_sums``), else the one that most members hold;
where neither decides, nothing is written and the place is reported.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence

import attrs
import trio
from crc32c import crc32c

from mqcore.abc import Log, Notice
from mqcore.errors import CorruptionError, StorageError
from mqcore_raid._group import MirrorGroup
from mqcore_raid._log import MirrorLog
from mqcore_raid._member import ArrayMember
from mqcore_raid._sums import BLOCK_BYTES, decode_sums
from mqcore_raid._sums_files import read_sums

__all__ = ["Scrub", "ScrubResult", "decode_result", "encode_result"]

WINDOW_BYTES = 4 * 1024 * 1024
"""What is read of every member at once, and compared as one; only where that differs each block is looked at."""
WINDOW_BYTES_LIMITED = 1024 * 1024
"""The same where there is a limit, which is kept from window to window."""
PLACES_MAX = 20
RESULT_BYTES_MAX = 64 * 1024


@attrs.define
class ScrubResult:
    """What was found. ``places``: the first undecided ones, in words."""

    is_running: bool = True
    logs: int = 0
    bytes_compared: int = 0
    bytes_known: int = 0
    blocks_mended: int = 0
    blocks_undecided: int = 0
    finished_ms: int = 0
    places: list[str] = attrs.field(factory=list)


def encode_result(result: ScrubResult) -> bytes:
    """``result`` as it is kept on each member."""
    return json.dumps(attrs.asdict(result)).encode()


def decode_result(data: bytes) -> ScrubResult:
    """What ``encode_result`` made; ``ValueError`` for anything else."""
    raw = json.loads(data[:RESULT_BYTES_MAX])
    numbers = ("logs", "bytes_compared", "bytes_known", "blocks_mended", "blocks_undecided", "finished_ms")
    places = raw.get("places") if isinstance(raw, dict) else None
    if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
        raise ValueError("no result of a scrub")
    if not all(isinstance(raw.get(name), int) and raw[name] >= 0 for name in numbers):
        raise ValueError("no result of a scrub: a number is missing")
    return ScrubResult(is_running=False, places=places[:PLACES_MAX], **{name: raw[name] for name in numbers})


class Scrub:
    """One run over ``groups``. ``look`` ejects who is not in place.

    ``rate_bytes``: most bytes of a log per second, None for no limit.
    """

    def __init__(
        self,
        groups: Sequence[MirrorGroup],
        *,
        look: Callable[..., Awaitable[None]],
        report: Callable[[Notice], None],
        wall_ms: Callable[[], int],
        rate_bytes: int | None = None,
    ) -> None:
        self.result = ScrubResult()
        self._groups = groups
        self._look = look
        self._report = report
        self._wall_ms = wall_ms
        self._rate_bytes = rate_bytes

    async def run(self) -> None:
        """Scrub everything that is flushed by now. Raises ``StorageError`` where no copy of a log can be opened."""
        result = self.result
        await self._look()
        for group in self._groups:
            for name in sorted(await group.list_logs()):
                try:
                    log = await group.open_log(name)
                except CorruptionError as error:
                    self._undecided(f"log {name} cannot be opened ({error})")
                    continue
                result.bytes_known += max(0, log.proven_end - log.start)
                await self._scrub(log)
                result.logs += 1
        await self._look(files=True)  # what was removed meanwhile was read to the end, like all else
        result.is_running = False
        result.finished_ms = self._wall_ms()
        text = (
            f"scrub of {result.logs} logs, {result.bytes_compared} bytes: {result.blocks_mended} blocks mended, "
            f"{result.blocks_undecided} that no copy or checksum decides"
        )
        facts: dict[str, object] = {"mended": result.blocks_mended, "undecided": result.blocks_undecided}
        self._report(Notice("raid-scrubbed", text, facts))

    async def _scrub(self, log: MirrorLog) -> None:
        await self._load_sums(log)
        position, window = log.start, WINDOW_BYTES_LIMITED if self._rate_bytes else WINDOW_BYTES
        await log.warm(position, window)
        # Above that copies may differ since a crash: they are made equal when the core has looked, and uses the log.
        while not log.closed and position < log.proven_end:
            began = trio.current_time()
            async with log.removing:
                position = max(position, log.start)
                end = min(position - position % window + window, log.proven_end)
                if log.closed or position >= end:
                    break
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(log.warm, end, window)  # the disks read on while this is summed up
                    is_alike = await self._is_alike(log, position, end)
                if not is_alike:
                    for first, last in _blocks(position, end):
                        await self._compare(log, first, last - first)
            self.result.bytes_compared += end - position
            if self._rate_bytes:
                await trio.sleep_until(began + (end - position) / self._rate_bytes)
            position = end

    async def _is_alike(self, log: MirrorLog, position: int, end: int) -> bool:
        """Whether several copies have the same checksums, which are then those of the blocks; copies are only read."""
        found: list[dict[int, int] | None] = []

        async def sum_up(member: ArrayMember, copy: Log) -> None:
            try:
                found.append(await _sums_of(member, copy, position, end))
            except (StorageError, CorruptionError, OSError):
                found.append(None)

        async with trio.open_nursery() as nursery:
            for member, copy in log.in_sync().items():
                if copy.start <= position:
                    nursery.start_soon(sum_up, member, copy)
        first, *others = found or [None]
        if first is None or not others or any(sums != first for sums in others):
            return False
        for start, stop in _blocks(position, end):
            if stop - start == BLOCK_BYTES:
                log.sums.put(start // BLOCK_BYTES, first[start])
        return True

    async def _load_sums(self, log: MirrorLog) -> None:
        known: dict[int, int] = {}
        for member in log.in_sync():
            try:
                found = decode_sums(await member.call(read_sums, member.directory, log.name))
            except OSError:
                continue  # without them fewer differences can be decided, that is all
            known |= found
        log.sums.load(known, log.durable_end)

    async def _compare(self, log: MirrorLog, position: int, size: int) -> None:
        held = await log.held(position, size)
        block, is_whole = divmod(position, BLOCK_BYTES)[0], size == BLOCK_BYTES and position % BLOCK_BYTES == 0
        wanted = log.sums.get(block) if is_whole else None
        first, *others = held.values()
        if first is not None and all(data == first for data in others):
            crc = crc32c(first) if is_whole else 0
            if is_whole and others:
                log.sums.put(block, crc)  # copies that agree are believed against a checksum
            elif wanted not in (None, crc):
                self._undecided(f"log {log.name}, bytes {position} to {position + size}: the only copy is damaged")
            return
        versions = Counter(data for data in held.values() if data is not None)
        good = [data for data in versions if wanted is not None and crc32c(data) == wanted]
        if not good:
            good = [data for data, count in versions.items() if 2 * count > len(held)]
        if not good and len(versions) == 1:
            good = list(versions)  # the others cannot be read
        if not good:
            self._undecided(f"log {log.name}, bytes {position} to {position + size}: the copies differ")
        elif await log.settle_on(position, good[0]):
            self.result.blocks_mended += 1

    def _undecided(self, place: str) -> None:
        result = self.result
        result.blocks_undecided += 1
        if len(result.places) < PLACES_MAX:
            result.places.append(place)
            self._report(Notice("raid-copies-differ", f"{place}; restore it from a good copy", {}))


def _blocks(position: int, end: int) -> Iterator[tuple[int, int]]:
    """The blocks, whole or not, that lie between."""
    while position < end:
        last = min(position - position % BLOCK_BYTES + BLOCK_BYTES, end)
        yield position, last
        position = last


async def _sums_of(member: ArrayMember, copy: Log, position: int, end: int) -> dict[int, int]:
    """Checksum of what a range of ``member``'s copy has of each block, by where the block begins.

    Summed up in the member's own thread, without a copy of the bytes: members go side by side, and the broker goes on.
    """
    sums: dict[int, int] = {}
    while position < end:
        view = await copy.read(position, end - position)
        await member.call(_add_sums, sums, view, position)
        position += len(view)
    return sums


def _add_sums(sums: dict[int, int], view: memoryview, position: int) -> None:
    for start, stop in _blocks(position, position + len(view)):
        block = start - start % BLOCK_BYTES
        sums[block] = crc32c(view[start - position : stop - position], sums.get(block, 0))
