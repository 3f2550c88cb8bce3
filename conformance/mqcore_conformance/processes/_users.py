"""A producer and a consumer of ``mqcore.client``, used as its users do, and what they asked and saw as events.

The client retries by itself, so that a send is one attempt with one outcome here, however often it went out. Must not
know where events go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import attrs
import trio

from mqcore.client import Client, Consumer, Delivery
from mqcore.client import Producer as ClientProducer
from mqcore.errors import BatchUndecodableError, MessagesMissingError, MqcoreError, OutcomeUnknownError, RejectedError
from mqcore.nurseries import one_error
from mqcore_conformance.histories import (
    Completed,
    Event,
    Fetched,
    FetchFailed,
    Invoked,
    ReadBatch,
    Seeked,
    digest_of,
)
from mqcore_conformance.plans import ConsumerPlan, LibraryPlan, ProducerPlan, SendPlan

__all__ = ["RealConsumer", "RealProducer"]

DELIVERY_TIMEOUT_MS_MAX = 30_000
CONNECT_TIMEOUT_MS = 5_000
WAIT_MS = 2_000
AGAIN_S = 0.05

_GONE = (MqcoreError, trio.BrokenResourceError, trio.ClosedResourceError)
Connect = Callable[..., AbstractAsyncContextManager[Client]]


class Notebook(Protocol):
    """Where events go, and what names them."""

    url: str

    def record(self, event: Event) -> None:
        """Add an event."""

    def now_us(self) -> int:
        """Microseconds since the start."""
        ...

    def name_topic(self, topic_id: str, name: str) -> str:
        """Return what a topic is called in the history."""
        ...

    def life_of(self, node: str, epoch: int) -> int:
        """Return a number for the life that reigns under ``epoch`` on the storage ``node``."""
        ...


class RealProducer:
    """One producer of the plan, over as many connections as it takes."""

    def __init__(self, notebook: Notebook, plan: ProducerPlan, topic: str, connect: Connect) -> None:
        self.notebook = notebook
        self.plan = plan
        self.topic = topic
        self._connect = connect
        self._next = 0
        self._partition = ""
        self._singly = plan.library is not None and plan.library.singly

    async def run(self) -> None:
        """Send everything once; what is on its way when a producer cannot go on stays unknown."""
        library = self.plan.library or LibraryPlan()
        while self._next < len(self.plan.sends):
            try:
                async with self._connect(
                    self.notebook.url, connect_timeout_ms=CONNECT_TIMEOUT_MS, retry_ms_min=10, retry_ms_max=500
                ) as client:
                    found = await client.admin.resolve_topic(self.topic)
                    name = self.notebook.name_topic(str(found["id"]), self.topic)
                    self._partition = f"{name}/{self.plan.partition}"
                    async with client.producer(
                        self.topic,
                        batches_in_flight_max=self.plan.window,
                        delivery_timeout_ms=min(library.delivery_timeout_ms, DELIVERY_TIMEOUT_MS_MAX),
                        linger_ms=library.linger_ms,
                    ) as producer:
                        await self._send_all(producer)
            except _GONE:
                await trio.sleep(AGAIN_S)

    async def _send_all(self, producer: ClientProducer) -> None:
        room = trio.Semaphore(2 * self.plan.window)
        with one_error():
            async with trio.open_nursery() as nursery:
                await self._send_rest(nursery, producer, room)

    async def _send_rest(self, nursery: trio.Nursery, producer: ClientProducer, room: trio.Semaphore) -> None:
        while self._next < len(self.plan.sends):
            await room.acquire()
            number, self._next = self._next, self._next + 1
            send = self.plan.sends[number]
            if send.pause_us:
                await trio.sleep(send.pause_us / 1e6)
            name = f"{self.plan.name}.{number}"
            pieces: list[tuple[str, tuple[int, ...]]]
            if self._singly:
                pieces = [(f"{name}.{index}", (size,)) for index, size in enumerate(send.sizes)]
            else:
                pieces = [(name, send.sizes)]
            waiting: list[tuple[str, list[Delivery]]] = []
            for piece, sizes in pieces:
                deliveries = await self._send(producer, piece, attrs.evolve(send, sizes=sizes))
                if deliveries is not None:
                    waiting.append((piece, deliveries))
            nursery.start_soon(self._wait_all, waiting, room)

    async def _send(self, producer: ClientProducer, name: str, send: SendPlan) -> list[Delivery] | None:
        """Hand one batch, or one message, to the client. None when there is nothing to wait for."""
        values, keys = _messages(name, send.sizes)
        self.notebook.record(
            Invoked(
                time_us=self.notebook.now_us(),
                process=self.plan.name,
                send=name,
                attempt=1,
                partition=self._partition,
                messages=tuple(map(digest_of, keys, values)),
                size_bytes=sum(map(len, values)),
                policy="topic" if send.one_way else send.policy,
                idempotent=True,
                one_way=send.one_way,
            )
        )
        if send.one_way:
            for value, key in zip(values, keys, strict=True):
                await producer.send_one_way(value, key, partition=self.plan.partition)
            return None
        await producer.wait_for_room(sum(map(len, values)))
        return producer.post_many(values, keys, self.plan.partition, policy=send.policy)  # type: ignore[arg-type]

    async def _wait_all(self, waiting: Sequence[tuple[str, list[Delivery]]], room: trio.Semaphore) -> None:
        for name, deliveries in waiting:
            await self._wait(name, deliveries)
        room.release()

    async def _wait(self, name: str, deliveries: Sequence[Delivery]) -> None:
        """Tell what became of a batch. One that the client cut in two is told by its whole: known if all of it is."""
        outcome, fields, expected = "acknowledged", dict[str, object](), 0
        for index, delivery in enumerate(deliveries):
            try:
                receipt = await delivery.wait()
            except RejectedError as error:
                outcome = "rejected" if len(deliveries) == 1 else "unknown"
                fields = {"code": error.name}
                break
            except OutcomeUnknownError:
                outcome, fields = "unknown", {"code": "not-answered"}
                break
            if index == 0:
                fields = {
                    "offset": receipt.offset,
                    "epoch": receipt.epoch,
                    "level": receipt.level.label,
                    "duplicate": receipt.duplicate,
                    "life": self.notebook.life_of(receipt.nodes[0][:8], receipt.epoch),
                }
                expected = receipt.offset
            elif (receipt.offset, receipt.epoch) != (expected, fields["epoch"]):
                outcome, fields = "unknown", {"code": "cut-in-two"}
                break
            expected += receipt.count
        self.notebook.record(
            Completed(
                time_us=self.notebook.now_us(),
                process=self.plan.name,
                send=name,
                attempt=1,
                outcome=outcome,  # type: ignore[arg-type]
                **fields,  # type: ignore[arg-type]
            )
        )


def _messages(name: str, sizes: Sequence[int]) -> tuple[list[bytes], list[bytes | None]]:
    """Values and keys: what is too short to be unique by itself has a key that is."""
    values: list[bytes] = []
    keys: list[bytes | None] = []
    for index, size in enumerate(sizes):
        mark = f"{name}.{index}.".encode()
        values.append(b"x" * size if size < len(mark) else mark + b"v" * (size - len(mark)))
        keys.append(mark if size < len(mark) else None)
    return values, keys


class RealConsumer:
    """One consumer of the plan: reads until it is cancelled."""

    def __init__(self, notebook: Notebook, plan: ConsumerPlan, topic: str, connect: Connect) -> None:
        self.notebook = notebook
        self.plan = plan
        self.topic = topic
        self._connect = connect
        self._topic_id = ""
        self._partition = ""
        self._position = (0, 0)

    async def run(self) -> None:
        """Read, from where it stood, over as many connections as it takes."""
        await trio.sleep(self.plan.begins_us / 1e6)
        while True:
            try:
                async with self._connect(
                    self.notebook.url, connect_timeout_ms=CONNECT_TIMEOUT_MS, retry_ms_min=10, retry_ms_max=500
                ) as client:
                    await self._read(client)
            except _GONE:
                await trio.sleep(AGAIN_S)

    async def _read(self, client: Client) -> None:
        found = await client.admin.resolve_topic(self.topic)
        if found["id"] != self._topic_id:
            self._topic_id = str(found["id"])
            name = self.notebook.name_topic(self._topic_id, self.topic)
            self._partition, self._position = f"{name}/{self.plan.partition}", (0, 0)
        number = self.plan.partition
        async with client.consumer(
            self.topic, [number], {number: self._position}, fetch_bytes=self.plan.bytes_max, wait_ms=WAIT_MS
        ) as consumer:
            while True:
                await self._read_batch(consumer)
                self._position = consumer.positions[number]
                if self.plan.pause_us:
                    await trio.sleep(self.plan.pause_us / 1e6)

    async def _read_batch(self, consumer: Consumer) -> None:
        offset, epoch = self._position
        try:
            batch = await consumer.next_batch()
        except MessagesMissingError as error:
            self._seeked(error.position, "diverged" if error.reason == "loss" else "below-start")
            return
        except BatchUndecodableError as error:
            self.notebook.record(
                FetchFailed(
                    time_us=self.notebook.now_us(),
                    process=self.plan.name,
                    partition=self._partition,
                    asked_at=0,
                    life=self._life(consumer),
                    offset=offset,
                    epoch=epoch,
                    code="damaged",
                    point=error.first_offset,
                    until=error.next_offset,
                )
            )
            self._seeked(error.next_offset, "damaged")
            return
        messages = tuple(map(digest_of, batch.keys or [None] * len(batch), batch.values))
        self.notebook.record(
            Fetched(
                time_us=self.notebook.now_us(),
                process=self.plan.name,
                partition=self._partition,
                asked_at=0,
                life=self._life(consumer),
                offset=offset,
                epoch=epoch,
                next_offset=batch.next_offset,
                start_offset=0,
                committed_offset=batch.next_offset,
                batches=(ReadBatch(base_offset=batch.offset, epoch=batch.epoch, messages=messages),),
            )
        )

    def _seeked(self, offset: int, why: str) -> None:
        now_us = self.notebook.now_us()
        self.notebook.record(
            Seeked(time_us=now_us, process=self.plan.name, partition=self._partition, offset=offset, why=why)
        )

    def _life(self, consumer: Consumer) -> int:
        """The life that answered. Users have no use for it, so that the client keeps it to itself."""
        stream = consumer._stream
        assert stream is not None, "a batch that was handed over came through the stream that is open"
        return self.notebook.life_of(stream.welcome.node_id.hex()[:8], stream.welcome.epoch)
