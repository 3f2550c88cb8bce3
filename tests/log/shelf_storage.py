"""A storage backend on bytes that outlive it, with crashes and failures on order; and how the log's tests use it.

``Shelf`` is the disk: it stays when a backend is given up, as after SIGKILL; ``crash`` drops what was not flushed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import ClassVar

import attrs
import trio

from mqcore.abc import Capabilities, FlushedLog, Log, Notice, StorageBackend, StorageContext
from mqcore.batch import encode_batch, unpack_header
from mqcore.errors import CommandNotPossibleError, FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore.limits import Limits
from mqcore.log import IncomingBatch, LogStore, PartitionLog
from mqcore.ports import Buffer, Ports, system_ports
from mqcore.url import Url

LIMITS = Limits()
TOPIC_ID = bytes(range(16))
NAME = f"{TOPIC_ID.hex()}-0"
SALT = 0x5EED


class Crashed(BaseException):
    """The process is killed here."""


@attrs.define
class Stored:
    """Bytes of one log from position ``start`` on; ``durable`` of them count as flushed."""

    data: bytearray = attrs.field(factory=bytearray)
    start: int = 0
    durable: int = 0

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@attrs.define
class Shelf:
    """What is stored, and what is to go wrong."""

    logs: dict[str, Stored] = attrs.field(factory=dict)
    segment_bytes: int = 1 << 30
    append_level: Level = Level.PAGE_CACHE
    mount: str = "disk-1"
    may_be_stale: bool = False
    in_place: bool = True
    crash_after: int | None = None
    """Number of writing operations until ``Crashed``; the one that crashes has half its effect."""
    fail_appends: list[StorageError] = attrs.field(factory=list)
    fail_truncates: list[StorageError] = attrs.field(factory=list)
    fail_flush: bool = False
    hold_appends: trio.Event | None = None
    hold_flushes: trio.Event | None = None
    stopped: bool = False
    """As after a failed flush that no call met: logs end where they are durable, and take nothing."""
    operations: list[str] = attrs.field(factory=list)

    def crash(self, tail: int = 0, zeros: int = 0) -> None:
        """A power cut: of what was not flushed, ``tail`` bytes of each log are left; then ``zeros`` zero bytes."""
        for stored in self.logs.values():
            del stored.data[stored.durable - stored.start + tail :]
            stored.data += bytes(zeros)

    def step(self, what: str) -> bool:
        """Count an operation; whether the process dies in the middle of it."""
        self.operations.append(what)
        if self.crash_after is None:
            return False
        self.crash_after -= 1
        return self.crash_after < 0

    def stop(self) -> None:
        self.stopped = True

    def copy(self) -> Shelf:
        logs = {name: Stored(bytearray(each.data), each.start, each.durable) for name, each in self.logs.items()}
        return attrs.evolve(self, logs=logs, operations=[])


class ShelfLog(Log):
    level = Level.DISK

    def __init__(self, name: str, shelf: Shelf) -> None:
        self.name = name
        self.shelf = shelf
        self.stored = shelf.logs.setdefault(name, Stored())

    @property
    def start(self) -> int:
        return self.stored.start

    @property
    def end(self) -> int:
        return self.durable_end if self.shelf.stopped else self.stored.end

    @property
    def durable_end(self) -> int:
        return min(self.stored.durable, self.stored.end)

    @property
    def may_be_stale(self) -> bool:
        return self.shelf.may_be_stale

    async def append(self, chunks: Sequence[Buffer]) -> int:
        position, data = self.end, b"".join(chunks)
        if self.shelf.stopped:
            raise StorageError(f"log {self.name} has stopped", kind="flush")
        if self.shelf.fail_appends:
            error = self.shelf.fail_appends.pop(0)
            if error.appended:
                self.stored.data += data[: len(data) // 2]
            raise error
        if self.shelf.step(f"append {self.name}"):
            self.stored.data += data[: len(data) // 2]
            raise Crashed
        self.stored.data += data
        if self.shelf.hold_appends is not None:
            await self.shelf.hold_appends.wait()
        await trio.lowlevel.checkpoint()
        return position

    async def read(self, position: int, size: int) -> memoryview:
        await trio.lowlevel.checkpoint()
        if not self.start <= position <= self.end:
            raise ValueError(f"{position} is outside {self.start} to {self.end}")
        segment_end = (position // self.shelf.segment_bytes + 1) * self.shelf.segment_bytes
        at = position - self.start
        end = min(position + size, segment_end, self.end)
        return memoryview(bytes(self.stored.data[at : end - self.start]))

    async def overwrite(self, position: int, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()
        if not self.shelf.in_place:
            raise CommandNotPossibleError(f"log {self.name}: nothing is written in place")
        view = memoryview(data)
        if not self.start <= position <= position + len(view) <= self.end:
            raise ValueError(f"{position} to {position + len(view)} is outside {self.start} to {self.end}")
        at = position - self.start
        if self.shelf.step(f"overwrite {self.name}"):
            self.stored.data[at : at + len(view) // 2] = view[: len(view) // 2]
            raise Crashed
        self.stored.data[at : at + len(view)] = view

    async def truncate(self, position: int) -> None:
        await trio.lowlevel.checkpoint()
        if self.shelf.fail_truncates:
            raise self.shelf.fail_truncates.pop(0)
        if self.shelf.step(f"truncate {self.name}"):
            raise Crashed
        del self.stored.data[position - self.start :]
        self.stored.durable = min(self.stored.durable, position)

    async def trim(self, position: int) -> int:
        await trio.lowlevel.checkpoint()
        if self.shelf.step(f"trim {self.name}"):
            raise Crashed
        start = max(self.start, position // self.shelf.segment_bytes * self.shelf.segment_bytes)
        del self.stored.data[: start - self.start]
        self.stored.start = start
        return start

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class ShelfStorage(StorageBackend):
    options_class: ClassVar[type[object]] = object

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(Url.parse("shelf://"), object(), StorageContext(ports=system_ports()))
        self.shelf = shelf

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(append_level=self.shelf.append_level, flush_level=Level.DISK, proves_durable_end=True)

    def facts(self) -> dict[str, object]:
        return {"mount": self.shelf.mount} if self.shelf.mount else {}

    async def open(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    async def list_logs(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return sorted(name for name, stored in self.shelf.logs.items() if stored.end)

    async def open_log(self, name: str) -> Log:
        await trio.lowlevel.checkpoint()
        return ShelfLog(name, self.shelf)

    async def delete_log(self, name: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.shelf.step(f"delete {name}"):
            raise Crashed
        self.shelf.logs.pop(name, None)

    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        await trio.lowlevel.checkpoint()
        if self.shelf.fail_flush:
            raise FlushFailedError("the disk says no", logs=[log.name for log in logs])
        if self.shelf.step("flush " + " ".join(log.name for log in logs)):
            raise Crashed
        ends = [log.end for log in logs]
        if self.shelf.hold_flushes is not None:
            await self.shelf.hold_flushes.wait()
        for log, end in zip(logs, ends, strict=True):
            self.shelf.logs[log.name].durable = end
        return [FlushedLog(end, log.level) for log, end in zip(logs, ends, strict=True)]


@attrs.define
class Clock:
    """A wall clock that a test sets, and a monotonic one, which is the one since boot too."""

    now_ms: int = 1_000_000
    now_us: int = 0

    def wall_ms(self) -> int:
        return self.now_ms

    def monotonic_us(self) -> int:
        return self.now_us

    def boottime_us(self) -> int:
        return self.now_us


@attrs.define
class Broker:
    """An open store with its notices: as much of a broker as the log's tests need."""

    store: LogStore
    notices: list[Notice]

    async def log(self, name: str = NAME, salt: int = SALT) -> PartitionLog:
        return await self.store.open_log(name, salt=salt)

    @property
    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]


_seeds = itertools.count()


def ports_of(clock: object, boot_id: str = "boot") -> Ports:
    class Files:
        def boot_id(self) -> str:
            return boot_id

    return Ports(files=Files(), threads=None, clock=clock, random=random.Random(next(_seeds)))  # type: ignore[arg-type]


async def start(
    backend: StorageBackend | Shelf,
    *,
    node_name: str = "node-1",
    boot_id: str = "boot",
    clock: object | None = None,
    limits: Limits = LIMITS,
    flushed_only: bool = False,
    reign: bool = True,
) -> Broker:
    """Open a store, and a reign on it unless told not to."""
    notices: list[Notice] = []
    store = LogStore(
        ShelfStorage(backend) if isinstance(backend, Shelf) else backend,
        ports=ports_of(clock or Clock(), boot_id),
        limits=limits,
        node_name=node_name,
        report=notices.append,
        flushed_only=flushed_only,
    )
    await store.open()
    if reign:
        await store.reign()
    return Broker(store, notices)


def batch(*values: bytes, producer_id: int = 0, first_sequence: int = 0, producer_epoch: int = 0) -> IncomingBatch:
    """A batch of ``values`` as a producer sends it."""
    data = encode_batch(
        values or (b"value",),
        created_ms=1,
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        first_sequence=first_sequence,
        limits=LIMITS,
    )
    return IncomingBatch(unpack_header(data), data)


async def read_all(
    log: PartitionLog, offset: int = 0, bytes_max: int = 1 << 20, end_offset: int | None = None
) -> list[bytes]:
    """Every batch from ``offset`` on: the producer's part and the body, without what the broker stamped."""
    found: list[bytes] = []
    while offset < (log.end_offset if end_offset is None else end_offset):
        result = await log.read(offset, bytes_max, log.end_offset)
        for chunk in result.chunks:
            at = 0
            while at < len(chunk):
                size = unpack_header(chunk[at:]).size
                found.append(bytes(chunk[at : at + 72]) + bytes(chunk[at + 104 : at + size]))
                at += size
        assert result.next_offset > offset
        offset = result.next_offset
    return found


def sent(batches: Sequence[IncomingBatch]) -> list[bytes]:
    """What ``read_all`` gives for ``batches``."""
    return [bytes(each.data[:72]) + bytes(each.data[104:]) for each in batches]
