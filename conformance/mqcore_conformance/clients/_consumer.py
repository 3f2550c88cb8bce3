"""The suite's own readers: a consumer, which follows its log as it is reported to it, and the final drain.

Both record what they got; the drain reads everything that is in a topic's logs, as the process ``drain``.
"""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import attrs
import trio

from mqcore.batch import HEADER_BYTES, decode_batch, unpack_header
from mqcore.errors import MqcoreError
from mqcore.limits import Limits
from mqcore.ports import Buffer
from mqcore.protocol import Code, Failed, Fetch, Fetched
from mqcore_conformance.clients._session import Pauses, SessionLostError, WireError, WireSession, code_name, connect
from mqcore_conformance.histories import DRAIN, Drained, FetchAnswered, FetchFailed, ReadBatch, Seeked, digest_of
from mqcore_conformance.plans import TOPIC, ConsumerPlan
from mqcore_conformance.world import World

LIMITS = Limits()
WAIT_MS = 2_000
SHORT_WAIT_MS = 300
"""Of a reader of replicas, and of one that names tags, whose position moves when its wait is over."""
REFUSED_S = 0.1
PATIENCE_S = 1.0
"""How long nothing may arrive beyond the time that a fetch waits for messages."""
STAYS_MAX = 8
REPLICA_S = 1.5
"""How long a reader of replicas stays with one of them."""
_MOVES = frozenset({Code.BELOW_START, Code.DIVERGED, Code.DAMAGED})
"""Answers that send a reader elsewhere."""


def wait_ms_of(plan: ConsumerPlan) -> int:
    """Return how long a consumer's fetches wait."""
    return SHORT_WAIT_MS if plan.from_replica or plan.tags else WAIT_MS


def read_batches(data: Buffer) -> Iterator[ReadBatch]:
    """Give the batches of messages in ``data``, as a reader gets them. Raises ``CorruptionError``."""
    view = memoryview(data)
    while len(view) >= HEADER_BYTES:
        header = unpack_header(view)
        if not header.is_control:
            decoded = decode_batch(view[: header.size], LIMITS)
            messages = tuple(map(digest_of, decoded.keys or [None] * header.count, decoded.values))
            yield ReadBatch(base_offset=header.base_offset, epoch=header.epoch, messages=messages)
        view = view[header.size :]


class PartitionReader:
    """A position in one partition, and the fetches from it."""

    def __init__(
        self, world: World, process: str, partition: int, *, from_replica: bool = False, tags: Sequence[str] = ()
    ) -> None:
        self.world = world
        self.process = process
        self.from_replica = from_replica
        self.tags = tuple(tags)
        self.index = partition
        self.partition = ""
        self.topic_id = b""
        self.offset = 0
        self.epoch = 0
        self._epochs: list[tuple[int, int]] = []
        """Epochs of what was read, each with the offset it began at."""

    def set_topic(self, topic_id: bytes, name: str) -> None:
        """Go on in the topic, from its start when it is another one of the same name."""
        if topic_id != self.topic_id:
            self.topic_id, self.partition = topic_id, f"{name}/{self.index}"
            self.offset = self.epoch = 0
            self._epochs.clear()

    async def fetch(self, session: WireSession, bytes_max: int, wait_ms: int) -> Fetched | Failed:
        """Fetch once and record it; move on, or seek where the answer says so."""
        asked_at = len(self.world.history)
        place = self.topic_id, self.index, self.offset, self.epoch
        tags = tuple(map(str.encode, self.tags))
        request = Fetch(session.next_id(), *place, bytes_max, wait_ms, self.from_replica, tags)
        await session.send(request)
        reply = await session.receive(wait_ms / 1000 + PATIENCE_S)
        if isinstance(reply, Fetched):
            self._take(session, asked_at, reply)
        elif isinstance(reply, Failed):
            self._take_failure(session, asked_at, reply)
        else:
            raise SessionLostError(f"a fetch was answered with {reply!r}")
        return reply

    def _at(self, session: WireSession, asked_at: int) -> dict[str, Any]:
        """What every answer to a fetch is recorded with."""
        return {
            "process": self.process,
            "partition": self.partition,
            "asked_at": asked_at,
            "by": session.by,
            "offset": self.offset,
            "epoch": self.epoch,
        }

    def _take(self, session: WireSession, asked_at: int, reply: Fetched) -> None:
        batches = []
        position, epoch = self.offset, self.epoch
        if reply.next_epoch is not None and reply.next_offset > self.offset:  # of one reign, whatever was passed over
            self._note_epoch(reply.next_epoch, self.offset)
        for read in (each for data in reply.batches for each in self._split(data)):
            skipped = max(0, position - read.base_offset)
            if skipped < len(read.messages):
                messages = read.messages[skipped:]
                batches.append(attrs.evolve(read, base_offset=read.base_offset + skipped, messages=messages))
                position, epoch = read.base_offset + len(read.messages), read.epoch
                self._note_epoch(epoch, batches[-1].base_offset)
        is_new = batches or reply.next_offset != self.offset or (self.tags and self.offset < reply.committed_offset)
        if not is_new and self.process != DRAIN and reply.known_age_ms is None:
            return  # a long poll that ended: nothing was seen, and nothing said of how old that is
        self.world.note(
            FetchAnswered,
            **self._at(session, asked_at),
            next_offset=reply.next_offset,
            start_offset=reply.start_offset,
            committed_offset=reply.committed_offset,
            batches=tuple(batches),
            known_age_ms=-1 if reply.known_age_ms is None else reply.known_age_ms,
            tags=self.tags,
            next_epoch=reply.next_epoch or 0,
        )
        if reply.next_epoch is not None:
            epoch = reply.next_epoch
        self.offset, self.epoch = max(position, reply.next_offset), epoch

    def _note_epoch(self, epoch: int, offset: int) -> None:
        if not self._epochs or self._epochs[-1][0] != epoch:
            self._epochs.append((epoch, offset))

    def _split(self, data: Buffer) -> list[ReadBatch]:
        found = []
        try:
            for batch in read_batches(data):
                found.append(batch)
        except MqcoreError as error:
            question = f"{self.process} checks what it was served from offset {self.offset} of {self.partition}"
            self.world.probe("G12", question, False, str(error))
        return found

    def _take_failure(self, session: WireSession, asked_at: int, reply: Failed) -> None:
        name = {Code.BELOW_START: "start_offset"}.get(Code(reply.code), "offset")
        point = int(str(reply.facts.get(name, -1))) if reply.code in _MOVES else -1
        until = int(str(reply.facts.get("next_offset", -1)))
        code = code_name(reply.code)
        self.world.note(FetchFailed, **self._at(session, asked_at), code=code, point=point, until=until)
        if reply.code == Code.DIVERGED and isinstance(epoch := reply.facts.get("epoch"), int):
            # What was read of a later epoch is not the log's, from wherever it was read on.
            point = min([point, *(first for number, first in self._epochs if number > epoch)])
            while self._epochs and self._epochs[-1][1] >= point:
                self._epochs.pop()
            self.go_to(point, self._epochs[-1][0] if self._epochs else 0, code)
        elif reply.code in _MOVES:
            self._epochs.clear()
            self.go_to(until if reply.code == Code.DAMAGED else point, 0, code)

    async def seek(self, session: WireSession, to: str) -> None:
        """Go on from ``start``, ``end`` or an offset, because the plan says so."""
        offset, epoch = 0 if to in ("start", "end") else int(to), 0
        if to == "end":
            found = await session.call("offsets.lookup", {"topic": TOPIC, "partition": self.index, "at": "end"})
            offset, epoch = int(str(found["offset"])), int(str(found["epoch"]))
        self._epochs.clear()
        self.go_to(offset, epoch, "asked")

    def go_to(self, offset: int, epoch: int, why: str) -> None:
        """Read on from there, and record ``why``."""
        self.offset, self.epoch = offset, epoch
        self.world.note(Seeked, process=self.process, partition=self.partition, offset=offset, why=why)


class PlannedConsumer(abc.ABC):
    """One consumer of the plan: reads until the drain begins, comes, goes and seeks as the plan says."""

    gone: ClassVar[tuple[type[BaseException], ...]]
    """What ends a use of the broker: another one is begun."""

    def __init__(self, world: World, plan: ConsumerPlan) -> None:
        self.world = world
        self.plan = plan
        self._seeks = sorted(plan.seeks, key=lambda seek: seek.after)
        self._answers = 0
        self._stays_left = STAYS_MAX if plan.stays_us else 0

    @property
    @abc.abstractmethod
    def positions(self) -> dict[int, int]:
        """The offset that it reads next in each of its partitions."""

    async def run(self) -> None:
        """Read until cancelled, over as many uses of the broker as it takes."""
        with self.world.host(self.plan.name):
            await trio.sleep(self.plan.begins_us / 1e6)
            backoff = Pauses()
            while True:
                with trio.move_on_after(self._next_stay_s()) as stay, contextlib.suppress(*self.gone):
                    await self._use(backoff)
                if stay.cancelled_caught:
                    await trio.sleep(self.plan.away_us / 1e6)
                else:
                    await backoff.pause()

    @abc.abstractmethod
    async def _use(self, backoff: Pauses) -> None:
        """Connect and read on, until something ends it; ``backoff`` is reset where the pause is to be short."""

    def _next_stay_s(self) -> float:
        """Return the seconds of the next stay; infinity once it has come and gone often enough."""
        if not self._stays_left:
            return math.inf
        self._stays_left -= 1
        return self.plan.stays_us / 1e6


class WireConsumer(PlannedConsumer):
    """A consumer of the suite's own, which speaks the wire protocol."""

    gone = (WireError,)

    def __init__(self, world: World, plan: ConsumerPlan) -> None:
        super().__init__(world, plan)
        self._reader = PartitionReader(world, plan.name, plan.partition, from_replica=plan.from_replica, tags=plan.tags)
        self._replicas = sum(plan.name.encode())  # so that not all of them begin at the same one

    @property
    def positions(self) -> dict[int, int]:
        """See ``PlannedConsumer``."""
        return {self.plan.partition: self._reader.offset}

    async def _use(self, backoff: Pauses) -> None:
        async with connect(self.world) as session:
            self._reader.set_topic(*await session.resolve(TOPIC))
            if not self.plan.from_replica:
                backoff.reset()
                await self._read(session)
        # Which topic has the name is the primary's to say; what is in it, a replica's too.
        async with connect(self.world, self._next_replica()) as session:
            backoff.reset()
            with trio.move_on_after(REPLICA_S):
                await self._read(session)

    def _next_replica(self) -> str:
        """Where the next of the nodes is that did not answer as primary last."""
        _, *others = self.world.urls
        self._replicas += 1
        return others[self._replicas % len(others)]

    async def _read(self, session: WireSession) -> None:
        wait_ms = wait_ms_of(self.plan)
        while True:
            if self._seeks and self._answers >= self._seeks[0].after:
                await self._reader.seek(session, self._seeks[0].to)
                del self._seeks[0]
            before = self._reader.offset
            reply = await self._reader.fetch(session, self.plan.bytes_max, wait_ms)
            self._answers += self._reader.offset > before
            if isinstance(reply, Failed) and reply.code not in _MOVES:
                await trio.sleep(REFUSED_S)
                if reply.code in (Code.UNKNOWN_TOPIC, Code.NOT_PRIMARY):
                    return
            elif isinstance(reply, Fetched) and self._reader.offset == before < reply.committed_offset:
                await trio.sleep(REFUSED_S)  # no broker should answer so; one that does is not asked at once for ever
            if self.plan.pause_us:
                await trio.sleep(self.plan.pause_us / 1e6)


DRAIN_BYTES = 1_000_000
DRAIN_WAIT_MS = 100


async def drain_when_possible(world: World, retry: Callable[[str], bool]) -> bool:
    """Drain every partition of the topic, as often as it takes to reach the end of a drain.

    ``retry`` is called with the reason after each failure: whether to go on. False when nothing could be drained.
    """
    backoff = Pauses()
    with world.host(DRAIN):
        while True:
            try:
                async with connect(world, world.drain_url) as session:
                    await drain_topic(world, session)
                return True
            except WireError as error:
                if not retry(str(error)):
                    return False
            await backoff.pause()


async def drain_topic(world: World, session: WireSession) -> None:
    """Read every partition of the topic to its end. Raises ``SessionLostError``, ``CallFailedError``."""
    topic = await session.resolve(TOPIC)
    for partition, end_offset in enumerate(await session.end_offsets(TOPIC)):
        reader = PartitionReader(world, DRAIN, partition)
        reader.set_topic(*topic)
        start = await _drain(reader, session, end_offset)
        world.note(Drained, partition=reader.partition, start_offset=start, end_offset=reader.offset)


async def _drain(reader: PartitionReader, session: WireSession, end_offset: int) -> int:
    """Read to ``end_offset``; return where the log was said to begin.

    What is not visible yet is waited for: it has been acknowledged, and the topic may show flushed messages only.
    """
    start: int | None = None
    while True:
        before = reader.offset
        reply = await reader.fetch(session, DRAIN_BYTES, DRAIN_WAIT_MS if before < end_offset else 0)
        if isinstance(reply, Fetched):
            start = reply.start_offset if start is None else start
            if reader.offset >= end_offset:
                return start
            if reader.offset == before and reader.offset < reply.committed_offset:
                raise SessionLostError(f"a fetch below the committed offset {reply.committed_offset} gave nothing")
        elif reader.offset == before:
            name = code_name(reply.code)
            raise SessionLostError(f"the drain of {reader.partition} at {before}: {name}: {reply.text}")
