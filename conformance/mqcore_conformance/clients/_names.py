"""Programs that send under the name of a producer: one process takes the name from the one before and goes on exactly.

The messages are numbered, and each is sent until it is stored once: a process that begins reads the last one that the
broker says is stored, and goes on with the next. A process that is told of a hole in what it sent ends as if it had
crashed. One that another has taken the name from does not know that, and goes on until it is refused.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs
import trio

from mqcore.batch import decode_batch, encode_batch, unpack_header
from mqcore.errors import MqcoreError
from mqcore.limits import Limits
from mqcore.protocol import Code, Failed, Fetch, Fetched, Produce, Produced, SendPolicy
from mqcore_conformance.clients._session import Pauses, SessionLostError, WireError, WireSession, code_name, connect
from mqcore_conformance.histories import Completed, Invoked, NameClaimed, digest_of
from mqcore_conformance.plans import TOPIC, NamePlan
from mqcore_conformance.world import World

LIMITS = Limits()
ANSWER_S = 3.0
READ_BYTES = 1_000_000
_HOLES = frozenset(
    {
        Code.SEQUENCE_GAP,
        Code.SEQUENCE_FENCED,
        Code.SEQUENCE_TOO_OLD,
        Code.SEQUENCE_CONFLICT,
        Code.LOST_FROM,
        Code.TOO_MANY_PRODUCERS,
    }
)
"""Answers after which a process cannot go on: what it had sent is not what the log has."""


class _CrashedError(Exception):
    """The process ends: the next one goes on from what is stored."""


class _FencedError(Exception):
    """Another process has the name."""


@attrs.frozen
class _Claimed:
    """What a process was given: who it is, and where it goes on."""

    process: str
    topic_id: bytes
    partition: str
    producer_id: int
    producer_epoch: int
    claim: bytes
    number: int


class NamedProgram:
    """One name of the plan, with all its processes. The same face as ``WireProducer``."""

    def __init__(self, world: World, plan: NamePlan) -> None:
        self.world = world
        self.plan = plan
        self.done = False
        self._begun = 0
        self._opened = 0
        self._attempts: Counter[int] = Counter()

    async def run(self) -> None:
        """Run the processes, each from its time on; over when all have ended, the last one with everything sent."""
        async with trio.open_nursery() as nursery:
            for number, begins_us in enumerate(self.plan.begins_us):
                nursery.start_soon(self._process, number, begins_us / 1e6)
        self.done = True
        self.world.changed()

    async def _process(self, number: int, begins_s: float) -> None:
        await trio.sleep(begins_s)
        self._begun = max(self._begun, number)
        backoff = Pauses()
        with self.world.host(f"{self.plan.name}-{number}"):
            # Whoever runs programs begins none anew that another one has replaced.
            while self._begun == number:
                try:
                    claimed = await self._open(number)
                    await self._send_all(claimed)
                except (WireError, _CrashedError, _FencedError):
                    await backoff.pause()
                else:
                    return

    async def _open(self, number: int) -> _Claimed:
        """Take the name, and find out where the process before had come to."""
        plan, asked_at = self.plan, len(self.world.history)
        about: dict[str, object] = {"name": plan.name, "topic": TOPIC}
        async with connect(self.world) as session:
            topic_id, topic = await session.resolve(TOPIC)
            given: Any = await self._soon(session, "producer.claim", about)
            described: Any = await self._soon(session, "producer.describe", {**about, "is_settled": True})
            if described["epoch"] != given["epoch"]:
                raise _FencedError
            self._opened += 1
            process = f"{plan.name}#{number}.{self._opened}"
            (state,) = [each for each in described["partitions"] if each["partition"] == plan.partition]
            last = state.get("last_offset")
            self.world.note(
                NameClaimed,
                by=session.by,
                process=process,
                name=plan.name,
                partition=f"{topic}/{plan.partition}",
                asked_at=asked_at,
                epoch=given["epoch"],
                last=-1 if last is None else last,
            )
            known = state.get("producer_epoch")
            return _Claimed(
                process=process,
                topic_id=topic_id,
                partition=f"{topic}/{plan.partition}",
                producer_id=given["producer_id"],
                producer_epoch=0 if known is None else known + 1,
                claim=bytes.fromhex(given["claim"]),
                number=0 if last is None else await self._number_at(session, topic_id, last) + 1,
            )

    async def _soon(self, session: WireSession, operation: str, arguments: dict[str, object]) -> dict[str, object]:
        with trio.move_on_after(ANSWER_S):
            return await session.call(operation, arguments)
        raise SessionLostError(f"{operation} was not answered in time")

    async def _number_at(self, session: WireSession, topic_id: bytes, offset: int) -> int:
        """Number of the message of the name that is stored at ``offset``."""
        place = topic_id, self.plan.partition, offset, 0
        await session.send(Fetch(session.next_id(), *place, READ_BYTES, 0))
        reply: object = None
        with trio.move_on_after(ANSWER_S):
            reply = await session.receive()
        value = _value_at(reply, offset) if isinstance(reply, Fetched) else None
        if value is None:
            raise SessionLostError(f"the last message of {self.plan.name} could not be read: {reply!r:.200}")
        name, _, number = value.rpartition(b".")
        if name != self.plan.name.encode():
            question = f"the last message of {self.plan.name} is where it is said to be"
            self.world.probe("G15", question, False, f"offset {offset} has {value!r:.80}")
            raise _CrashedError
        return int(number)

    # ---- sending ---------------------------------------------------------------------------------------------

    async def _send_all(self, claimed: _Claimed) -> None:
        backoff = Pauses()
        at = claimed.number
        while at < self.plan.messages:
            try:
                async with connect(self.world) as session:
                    while at < self.plan.messages:
                        await self._send(session, claimed, at)
                        at += 1
                        backoff.reset()
                        await trio.sleep(self.plan.pause_us / 1e6)
            except WireError:
                await backoff.pause()

    async def _send(self, session: WireSession, claimed: _Claimed, number: int) -> None:
        """Send one message and wait for its answer; raises unless it is acknowledged."""
        value = b"%s.%d" % (self.plan.name.encode(), number)
        data = encode_batch(
            [value],
            created_ms=self.world.clock.wall_ms(),
            producer_id=claimed.producer_id,
            producer_epoch=claimed.producer_epoch,
            first_sequence=number - claimed.number,
            limits=LIMITS,
        )
        self._attempts[number] += 1
        about: dict[str, Any] = {
            "process": claimed.process,
            "send": f"{self.plan.name}.{number}",
            "attempt": self._attempts[number],
        }
        self.world.note(
            Invoked,
            **about,
            partition=claimed.partition,
            messages=(digest_of(None, value),),
            size_bytes=len(data),
            idempotent=True,
        )
        outcome, fields = "unknown", dict[str, Any](code="connection-lost")
        try:
            place = claimed.topic_id, self.plan.partition, SendPolicy.TOPIC, False
            await session.send(Produce(session.next_id(), *place, data, claimed.claim))
            with trio.move_on_after(ANSWER_S):
                reply = await session.receive()
                outcome, fields = self._outcome_of(session, reply)
        finally:
            self.world.note(Completed, **about, outcome=outcome, **fields)
        if outcome == "acknowledged":
            self.world.acknowledged()
            return
        code = fields["code"]
        if code == Code.PRODUCER_FENCED.label:
            raise _FencedError
        if code in {each.label for each in _HOLES}:
            raise _CrashedError
        raise SessionLostError(code)  # sent again, the same bytes, as for a connection that broke

    def _outcome_of(self, session: WireSession, reply: object) -> tuple[str, dict[str, Any]]:
        if isinstance(reply, Produced):
            return "acknowledged", {
                "by": session.by,
                "offset": reply.base_offset,
                "epoch": reply.epoch,
                "level": reply.level.label,
                "copies": self.world.copies_stated(reply.copies),
                "duplicate": reply.duplicate,
            }
        if isinstance(reply, Failed):
            return "rejected" if 100 <= reply.code < 200 else "unknown", {"code": code_name(reply.code)}
        raise SessionLostError(f"a send was answered with {reply!r}")


def _value_at(reply: Fetched, offset: int) -> bytes | None:
    """The message at ``offset`` of what was read; None where it is not in it."""
    data = memoryview(b"".join(bytes(each) for each in reply.batches))
    try:
        while data:
            header = unpack_header(data)
            if header.base_offset <= offset < header.end_offset and not header.is_control:
                return bytes(decode_batch(data[: header.size], LIMITS).values[offset - header.base_offset])
            data = data[header.size :]
    except MqcoreError:
        return None
    return None
