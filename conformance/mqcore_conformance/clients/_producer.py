"""The suite's own producer: sends what the plan says, retries what may be retried, records every attempt."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs
import trio
from crc32c import crc32c

from mqcore.batch import encode_batch
from mqcore.limits import Limits
from mqcore.protocol import Code, Failed, Produce, Produced, SendPolicy
from mqcore_conformance.clients._session import Pauses, SessionLostError, WireError, WireSession, code_name, connect
from mqcore_conformance.histories import Completed, Invoked, digest_of
from mqcore_conformance.plans import TAGS, TOPIC, ProducerPlan, SendPlan
from mqcore_conformance.world import World


def mark_of(process: str, number: int, generation: int, index: int) -> bytes:
    """Return what makes a message unique."""
    return f"{process}.{number}.{generation}.{index}.".encode()


def messages_of(
    process: str, number: int, generation: int, sizes: Sequence[int]
) -> tuple[list[bytes], list[bytes | None]]:
    """Return values and keys of one send: what is too short to be unique by itself has a key that is."""
    values: list[bytes] = []
    keys: list[bytes | None] = []
    for index, size in enumerate(sizes):
        mark = mark_of(process, number, generation, index)
        if size < len(mark):
            values.append(b"x" * size)
            keys.append(mark)
        else:
            values.append(mark + b"v" * (size - len(mark)))
            keys.append(b"k%d" % (index % 3) if index % 2 else None)
    return values, keys


def tags_of(process: str, number: int, generation: int, count: int) -> list[str | None]:
    """Return the tags of one send: none, one of all, or one of each message, as its name has it."""
    shape = crc32c(mark_of(process, number, generation, 0))
    if shape % 4 == 0:
        return [None] * count
    if shape % 4 == 1:
        return [TAGS[shape // 4 % len(TAGS)]] * count
    marks = (crc32c(mark_of(process, number, generation, index)) for index in range(count))
    return [(*TAGS, None)[mark // 4 % (len(TAGS) + 1)] for mark in marks]


LIMITS = Limits()
ATTEMPTS_MAX = 40
REPLY_TIMEOUT_S = 60
_GAPS = frozenset({Code.SEQUENCE_GAP, Code.SEQUENCE_CONFLICT, Code.SEQUENCE_FENCED})
_WAIT = frozenset({Code.STORAGE_STOPPED, Code.UNKNOWN_TOPIC})
"""Rejections that an operator heals: worth another attempt."""


@attrs.define(eq=False)
class WireBatch:
    """One send and how far it is. ``generation`` counts how often its topic was made anew."""

    number: int
    plan: SendPlan
    sequence: int = 0
    generation: int = 0
    attempt: int = 0
    finished: bool = False
    maybe_stored: bool = False
    sent_as: int = 0
    created_ms: int = 0


class WireProducer:
    """One producer of the plan."""

    def __init__(self, world: World, plan: ProducerPlan) -> None:
        self.world = world
        self.plan = plan
        self.done = False
        self.acknowledged = 0
        """Sends that were acknowledged."""
        self.next_offset = 0
        """The offset after what was acknowledged last."""
        self.last_code = ""
        """Why the last attempt that failed did."""
        self._producer_id = 0
        self._batches = [WireBatch(number, send) for number, send in enumerate(plan.sends)]
        self._in_flight: dict[int, WireBatch] = {}
        self._topic_id = b""
        self._partition = ""
        self._rewind = False
        self._moved = trio.Event()
        self._new_identity()

    def _new_identity(self) -> None:
        """Take a new producer id and number the unfinished batches from 0."""
        self._producer_id = self.world.new_producer_id() if self.plan.idempotent else 0
        sequence = 0
        for batch in self._batches:
            if not batch.finished:
                batch.sequence = sequence if self.plan.idempotent else 0
                sequence += len(batch.plan.sizes)

    async def run(self) -> None:
        """Send everything, over as many sessions as it takes."""
        with self.world.host(self.plan.name):
            backoff = Pauses()
            while any(not batch.finished for batch in self._batches) and not self.world.given_up:
                try:
                    async with connect(self.world) as session:
                        backoff.reset()
                        await self._use(session)
                except* WireError:  # sender and receiver may both meet the end of a stream
                    pass
                self._lost()
                await backoff.pause()
        self.done = True
        self.world.changed()

    async def _use(self, session: WireSession) -> None:
        self._set_topic(*await session.resolve(TOPIC))
        self._rewind = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, session)
            await self._send_all(session)
            nursery.cancel_scope.cancel()

    def _set_topic(self, topic_id: bytes, name: str) -> None:
        if self._topic_id and topic_id != self._topic_id:
            # another topic of the same name: what is unfinished becomes new sends with new contents
            for batch in self._batches:
                if not batch.finished:
                    batch.generation += 1
                    batch.attempt = 0
                    batch.maybe_stored = False
            self._new_identity()
        self._topic_id, self._partition = topic_id, f"{name}/{self.plan.partition}"

    # ---- sending ---------------------------------------------------------------------------------------------

    async def _send_all(self, session: WireSession) -> None:
        todo = deque(batch for batch in self._batches if not batch.finished)
        rewinds = Pauses()
        while todo or self._in_flight:
            if self._rewind:
                if self._in_flight:
                    await self._wait()
                    continue
                self._rewind = False
                await rewinds.pause()
                todo = deque(batch for batch in self._batches if not batch.finished)
                continue
            if not todo or len(self._in_flight) >= self.plan.window:
                await self._wait()
                continue
            batch = todo.popleft()
            if batch.finished:
                continue
            under_another_id = batch.maybe_stored and batch.sent_as != self._producer_id
            if batch.attempt >= ATTEMPTS_MAX or under_another_id:
                batch.finished = True
                self._new_identity()
                continue
            if batch.plan.pause_us and batch.attempt == 0:
                await trio.sleep(batch.plan.pause_us / 1e6)
                if self._rewind:
                    todo.appendleft(batch)
                    continue
            await self._send_one(session, batch)

    async def _wait(self) -> None:
        self._moved = trio.Event()
        with trio.move_on_after(REPLY_TIMEOUT_S) as scope:
            await self._moved.wait()
        if scope.cancelled_caught:
            raise SessionLostError("no reply in time")

    async def _send_one(self, session: WireSession, batch: WireBatch) -> None:
        batch.attempt += 1
        if batch.attempt == 1:
            batch.created_ms = self.world.clock.wall_ms()  # a retry is the same batch, byte for byte
        batch.sent_as = self._producer_id
        values, keys = messages_of(self.plan.name, batch.number, batch.generation, batch.plan.sizes)
        plan = self.plan
        tags = tags_of(plan.name, batch.number, batch.generation, len(values)) if plan.tagged else None
        data = encode_batch(
            values,
            keys=keys,
            tags=tags,
            created_ms=batch.created_ms,
            producer_id=self._producer_id,
            first_sequence=batch.sequence,
            limits=LIMITS,
        )
        if batch.plan.spoiled:
            data[-1] ^= 0xFF
        self.world.note(
            Invoked,
            process=self.plan.name,
            send=self._name(batch),
            attempt=batch.attempt,
            partition=self._partition,
            messages=tuple(map(digest_of, keys, values)),
            size_bytes=len(data),
            policy=batch.plan.policy,
            idempotent=self.plan.idempotent,
            one_way=batch.plan.one_way,
            tags=tuple(tag or "" for tag in tags or ()),
        )
        request_id = session.next_id()
        policy, one_way = SendPolicy[batch.plan.policy.upper()], batch.plan.one_way
        if one_way:
            batch.finished = True
        else:
            self._in_flight[request_id] = batch
        await session.send(Produce(request_id, self._topic_id, self.plan.partition, policy, one_way, data))

    def _name(self, batch: WireBatch) -> str:
        suffix = f"~{batch.generation}" if batch.generation else ""
        return f"{self.plan.name}.{batch.number}{suffix}"

    # ---- replies ---------------------------------------------------------------------------------------------

    async def _receive(self, session: WireSession) -> None:
        while True:
            reply = await session.receive()
            if isinstance(reply, Produced):
                batch = self._in_flight.pop(reply.request_id)
                batch.finished = True
                self.next_offset = reply.base_offset + len(batch.plan.sizes)
                mark = mark_of(self.plan.name, batch.number, batch.generation, 0)
                self.world.stored.append((self._partition, reply.base_offset, mark))
                self._end(
                    batch,
                    "acknowledged",
                    by=session.by,
                    offset=reply.base_offset,
                    epoch=reply.epoch,
                    level=reply.level.label,
                    copies=self.world.copies_stated(reply.copies),
                    duplicate=reply.duplicate,
                )
            elif isinstance(reply, Failed):
                self._failed(self._in_flight.pop(reply.request_id), reply)
                if reply.code == Code.NOT_PRIMARY:
                    raise SessionLostError(reply.text)  # another node is looked for
            self._moved.set()

    def _failed(self, batch: WireBatch, reply: Failed) -> None:
        name = code_name(reply.code)
        if 100 <= reply.code < 200:
            self._end(batch, "rejected", code=name)
            retryable = reply.code in _WAIT or Code(reply.code).retryable
            if reply.code in _GAPS and self.plan.idempotent:
                first = next(each for each in self._batches if not each.finished)
                if first is batch:
                    self._forgotten(batch)
                self._rewind = True
            elif retryable:
                self._rewind = True
            else:
                batch.finished = True
                if self.plan.idempotent:
                    self._rewind = True
                    self._new_identity()
        else:
            self._unknown(batch, name)
            if reply.code == Code.SEQUENCE_TOO_OLD:
                batch.finished = True
                self._new_identity()
            self._rewind = True

    def _forgotten(self, batch: WireBatch) -> None:
        """The broker expects another sequence: batches before this one were lost, as some fault allows."""
        if batch.maybe_stored:
            batch.finished = True
        self._new_identity()

    def _unknown(self, batch: WireBatch, code: str) -> None:
        self._end(batch, "unknown", code=code)
        batch.maybe_stored = True
        if not self.plan.retries:
            batch.finished = True
            if self.plan.idempotent:
                self._new_identity()

    def _lost(self) -> None:
        for batch in self._in_flight.values():
            self._unknown(batch, "connection-lost")
        self._in_flight.clear()

    def _end(self, batch: WireBatch, outcome: str, **fields: Any) -> None:
        self.world.note(
            Completed, process=self.plan.name, send=self._name(batch), attempt=batch.attempt, outcome=outcome, **fields
        )
        if outcome == "acknowledged":
            self.acknowledged += 1
            self.world.acknowledged()
        else:
            self.last_code = str(fields.get("code", ""))


async def send_once(
    world: World, name: str, partition: int, seconds_max: float, sizes: tuple[int, ...] = (60,), *, retries: bool = True
) -> WireProducer:
    """Send one message of each of ``sizes`` to a partition, until acknowledged or for so long; return the producer."""
    sends = tuple(SendPlan(sizes=(size,)) for size in sizes)
    plan = ProducerPlan(
        name=name, partition=partition, idempotent=False, window=len(sizes), retries=retries, sends=sends
    )
    producer = WireProducer(world, plan)
    with trio.move_on_after(seconds_max):
        await producer.run()
    return producer
