"""Readers of a simulation: consumers that follow their log as it is reported to them, and the final drain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from mqcore.batch import HEADER_BYTES, decode_batch, unpack_header
from mqcore.errors import MqcoreError
from mqcore.limits import Limits
from mqcore.ports import Buffer
from mqcore.protocol import Code, Failed, Fetch, Fetched
from mqcore_conformance import histories
from mqcore_conformance.histories import DRAIN, Drained, FetchFailed, Probed, ReadBatch, Seeked, digest_of
from mqcore_conformance.plans import ConsumerPlan
from mqcore_conformance.simulation._session import Backoff, CallFailed, Session, SessionLost, code_name

if TYPE_CHECKING:
    from mqcore_conformance.simulation._surroundings import Surroundings

__all__ = ["Consumer", "Stays", "drain_partition"]

LIMITS = Limits()
WAIT_MS = 2_000
DRAIN_WAIT_MS = 100
REFUSED_S = 0.1
PATIENCE_S = 1.0
"""How long a fetch may take beyond the time that it waits for messages."""
STAYS_MAX = 8


class Reader:
    """A position in one partition, and the fetches from it."""

    def __init__(self, world: Surroundings, process: str, partition: int) -> None:
        self.world = world
        self.process = process
        self.index = partition
        self.partition = ""
        self.topic_id = b""
        self.offset = 0
        self.epoch = 0

    def set_topic(self, topic_id: bytes, name: str) -> None:
        """Go on in the topic, from its start when it is another one of the same name."""
        if topic_id != self.topic_id:
            self.topic_id, self.partition = topic_id, f"{name}/{self.index}"
            self.offset = self.epoch = 0

    async def fetch(self, session: Session, bytes_max: int, wait_ms: int) -> Fetched | Failed:
        """Fetch once and tell it; move on, or seek where the answer says so."""
        asked_at = len(self.world.history)
        request = Fetch(session.next_id(), self.topic_id, self.index, self.offset, self.epoch, bytes_max, wait_ms)
        await session.send(request)
        try:
            with trio.fail_after(wait_ms / 1000 + PATIENCE_S):
                reply = await session.receive()
        except trio.TooSlowError:
            raise SessionLost("no answer in time: the broker's machine may be gone without a word") from None
        if isinstance(reply, Fetched):
            self._take(session, asked_at, reply)
        elif isinstance(reply, Failed):
            self._take_failure(session, asked_at, reply)
        else:
            raise SessionLost(f"a fetch was answered with {reply!r}")
        return reply

    def _take(self, session: Session, asked_at: int, reply: Fetched) -> None:
        batches = []
        position, epoch = self.offset, self.epoch
        for data in reply.batches:
            for read in self._split(data):
                skipped = max(0, position - read.base_offset)
                if skipped < len(read.messages):
                    batches.append(
                        ReadBatch(
                            base_offset=read.base_offset + skipped,
                            epoch=read.epoch,
                            messages=read.messages[skipped:],
                        )
                    )
                    position, epoch = read.base_offset + len(read.messages), read.epoch
        if not batches and reply.next_offset == self.offset and self.process != DRAIN:
            return  # a long poll that ended: nothing was seen
        self.world.record(
            histories.Fetched(
                time_us=self.world.now_us(),
                process=self.process,
                partition=self.partition,
                asked_at=asked_at,
                life=session.life,
                offset=self.offset,
                epoch=self.epoch,
                next_offset=reply.next_offset,
                start_offset=reply.start_offset,
                committed_offset=reply.committed_offset,
                batches=tuple(batches),
            )
        )
        self.offset, self.epoch = max(position, reply.next_offset), epoch

    def _split(self, data: Buffer) -> list[ReadBatch]:
        view = memoryview(data)
        found = []
        try:
            while len(view) >= HEADER_BYTES:
                header = unpack_header(view)
                if not header.is_control:
                    decoded = decode_batch(view[: header.size], LIMITS)
                    keys = decoded.keys or [None] * header.count
                    messages = tuple(map(digest_of, keys, decoded.values))
                    found.append(ReadBatch(base_offset=header.base_offset, epoch=header.epoch, messages=messages))
                view = view[header.size :]
        except MqcoreError as error:
            self.world.record(
                Probed(
                    time_us=self.world.now_us(),
                    clause="G12",
                    question=f"{self.process} checks what it was served from offset {self.offset} of {self.partition}",
                    holds=False,
                    observed=str(error),
                )
            )
        return found

    def _take_failure(self, session: Session, asked_at: int, reply: Failed) -> None:
        facts = reply.facts
        point = {Code.BELOW_START: "start_offset", Code.DIVERGED: "offset", Code.DAMAGED: "offset"}.get(
            Code(reply.code), ""
        )
        until = facts.get("next_offset", -1)
        target = facts.get(point, -1)
        assert isinstance(target, int)
        assert isinstance(until, int)
        name = code_name(reply.code)
        now_us = self.world.now_us()
        self.world.record(
            FetchFailed(
                time_us=now_us,
                process=self.process,
                partition=self.partition,
                asked_at=asked_at,
                life=session.life,
                offset=self.offset,
                epoch=self.epoch,
                code=name,
                point=target,
                until=until,
            )
        )
        if reply.code in (Code.BELOW_START, Code.DIVERGED, Code.DAMAGED):
            self.offset = until if reply.code == Code.DAMAGED else target
            self.epoch = 0
            self.world.record(
                Seeked(time_us=now_us, process=self.process, partition=self.partition, offset=self.offset, why=name)
            )


    async def seek(self, session: Session, topic: str, to: str) -> None:
        """Go on from ``start``, ``end`` or an offset, because the plan says so."""
        if to == "end":
            found = await session.call("offsets.lookup", {"topic": topic, "partition": self.index, "at": "end"})
            assert isinstance(found, dict)
            self.offset, self.epoch = int(found["offset"]), int(found["epoch"])
        else:
            self.offset, self.epoch = 0 if to == "start" else int(to), 0
        self.world.record(
            Seeked(
                time_us=self.world.now_us(),
                process=self.process,
                partition=self.partition,
                offset=self.offset,
                why="asked",
            )
        )


class Stays:
    """How long a consumer stays each time, until it has come and gone often enough."""

    def __init__(self, plan: ConsumerPlan) -> None:
        self._seconds = plan.stays_us / 1e6
        self._left = STAYS_MAX if plan.stays_us else 0

    def next_s(self) -> float:
        """Return the seconds of the next stay; infinity when it is the last one."""
        if not self._left:
            return math.inf
        self._left -= 1
        return self._seconds


class Consumer:
    """One consumer of the plan: reads until the drain begins, comes, goes and seeks as the plan says."""

    def __init__(self, world: Surroundings, plan: ConsumerPlan, topic: str) -> None:
        self.world = world
        self.plan = plan
        self.topic = topic
        self._reader = Reader(world, plan.name, plan.partition)
        self._seeks = sorted(plan.seeks, key=lambda seek: seek.after)
        self._answers = 0
        self._stays = Stays(plan)

    @property
    def positions(self) -> dict[int, int]:
        """The offset that it reads next in its partition."""
        return {self.plan.partition: self._reader.offset}

    async def run(self) -> None:
        """Read until cancelled, over as many sessions as it takes."""
        with self.world.network.host(self.plan.name):
            await trio.sleep(self.plan.begins_us / 1e6)
            backoff = Backoff()
            while True:
                try:
                    session = await self.world.connect()
                except SessionLost:
                    await backoff.pause()
                    continue
                backoff.reset()
                try:
                    self._reader.set_topic(*await session.resolve(self.topic))
                    with trio.move_on_after(self._stays.next_s()) as stay:
                        await self._read(session)
                except (SessionLost, CallFailed):
                    pass
                else:
                    if stay.cancelled_caught:
                        await session.aclose()
                        await trio.sleep(self.plan.away_us / 1e6)
                        continue
                finally:
                    await session.aclose()
                await backoff.pause()

    async def _read(self, session: Session) -> None:
        while True:
            if self._seeks and self._answers >= self._seeks[0].after:
                await self._reader.seek(session, self.topic, self._seeks[0].to)
                del self._seeks[0]
            before = self._reader.offset
            reply = await self._reader.fetch(session, self.plan.bytes_max, WAIT_MS)
            self._answers += self._reader.offset > before
            if isinstance(reply, Failed) and reply.code not in (Code.BELOW_START, Code.DIVERGED, Code.DAMAGED):
                await trio.sleep(REFUSED_S)
                if reply.code == Code.UNKNOWN_TOPIC:
                    return
            if self.plan.pause_us:
                await trio.sleep(self.plan.pause_us / 1e6)


async def drain_partition(
    world: Surroundings, session: Session, topic: tuple[bytes, str], partition: int, end_offset: int
) -> None:
    """Read a partition from its start to ``end_offset``, as the process ``drain``. Raises ``SessionLost``.

    What is not visible yet is waited for: it has been acknowledged, and the topic may show flushed messages only.
    """
    reader = Reader(world, DRAIN, partition)
    reader.set_topic(*topic)
    start: int | None = None
    while True:
        before = reader.offset
        reply = await reader.fetch(session, 1_000_000, DRAIN_WAIT_MS if before < end_offset else 0)
        if isinstance(reply, Fetched):
            start = reply.start_offset if start is None else start
            if reader.offset >= end_offset:
                break
            if reader.offset == before and reader.offset < reply.committed_offset:
                raise SessionLost(f"a fetch below the committed offset {reply.committed_offset} gave nothing")
        elif reader.offset == before:
            raise SessionLost(f"the drain of {reader.partition} at {before}: {code_name(reply.code)}: {reply.text}")
    world.record(
        Drained(
            time_us=world.now_us(),
            partition=reader.partition,
            start_offset=start if start is not None else 0,
            end_offset=reader.offset,
        )
    )
