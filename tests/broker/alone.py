"""A partition by itself: a log on the model disk, the group commit of its store, and a sink that keeps what it gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from mqcore.abc import Notice, StorageContext
from mqcore.batch import encode_batch, unpack_header
from mqcore.broker._group_commit import GroupCommit
from mqcore.broker._partition import Partition
from mqcore.broker._sends import Send
from mqcore.guarantees import Copy, Level, SyncFlush
from mqcore.limits import Limits
from mqcore.log import IncomingBatch, LogStore
from mqcore.registry import create_storage
from mqcore.replication import CommitPolicy, Member, UnflushedTotal
from mqcore.testing import ModelDisk, model_ports, seeded

LIMITS = Limits()
OWN = Member(b"A" * 16, 1)
ON_DISK = (Copy(*OWN, Level.DISK),)
IN_CACHE = (Copy(*OWN, Level.PAGE_CACHE),)


class Sink:
    """Keeps what a partition answers, in order: request id, then offset and copies, or the code of a failure."""

    closed = False

    def __init__(self) -> None:
        self.answers: list[tuple[Any, ...]] = []
        self.woken: list[int] = []
        self.sends: list[bool] = []

    def produced(
        self, request_id: int, base_offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        self.answers.append((request_id, base_offset, copies, duplicate))

    def replied(self, *, now: bool) -> None:
        self.sends.append(now)

    def failed(self, request_id: int, code: int, text: str, facts: dict[str, object] | None = None) -> None:
        self.answers.append((request_id, code))

    def unpark(self, request_id: int) -> None:
        self.woken.append(request_id)


class Alone:
    """A store in a reign, with its group commit, on ``disk``."""

    def __init__(self) -> None:
        self.disk = ModelDisk(seeded(1, "disk"))
        self.ports = model_ports(1, self.disk)
        self.notices: list[Notice] = []
        context = StorageContext(ports=self.ports, limits=LIMITS, report=self.notices.append, stopped=self._stopped)
        backend = create_storage("mmap:///data?segment_bytes=1MiB", context, {})
        self.store = LogStore(backend, ports=self.ports, limits=LIMITS, node_name="alone", report=self.notices.append)
        self.group_commit = GroupCommit(self.store, self.ports.clock.monotonic_us)
        self.sink = Sink()

    def _stopped(self, error: Any) -> None:
        self.store.stop(error)

    async def partition(self, name: str = "lines-0", **policy: Any) -> Partition:
        policy.setdefault("flush", SyncFlush())
        return Partition(
            await self.store.open_log(name, salt=1),
            own=OWN,
            policy=CommitPolicy(**policy),
            append_level=Level.PAGE_CACHE,
            flush_level=Level.DISK,
            total=UnflushedTotal(),
            flusher=self.group_commit,
            now_us=self.ports.clock.monotonic_us,
            epoch=self.store.epoch,
            report=self.notices.append,
        )

    def send(self, request_id: int, values: Sequence[bytes] = (b"x",), *, policy: int = 0, **keys: Any) -> Send:
        data = encode_batch(values, created_ms=0, limits=LIMITS, **keys)
        return Send(IncomingBatch(unpack_header(data), data), policy, request_id, self.sink)


@asynccontextmanager
async def alone() -> AsyncIterator[Alone]:
    setup = Alone()
    await setup.store.open()
    await setup.store.reign()
    async with trio.open_nursery() as nursery:
        await nursery.start(setup.group_commit.run)
        yield setup
        nursery.cancel_scope.cancel()
    await setup.store.leave()
    await setup.store.aclose()
