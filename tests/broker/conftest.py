"""A client that speaks the protocol and nothing more: no retries, no batching, no code of ``mqcore.client``."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import mqcore.broker
from mqcore.batch import decode_batch, encode_batch, unpack_header
from mqcore.limits import Limits
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Call,
    Connection,
    Fetch,
    Fetched,
    Hello,
    Message,
    Produce,
    Role,
    Welcome,
)
from mqcore.registry import create_transport

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # ``alone``, found beside these tests

LIMITS = Limits()


class RawClient:
    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.connection = Connection(Role.CLIENT, frame_bytes_max=LIMITS.frame_bytes_max)
        self.welcome: Welcome | None = None
        self.next_id = 1

    async def send(self, *messages: Message) -> None:
        await self.stream.send_all(b"".join(bytes(p) for m in messages for p in self.connection.send(m)))

    async def receive(self) -> Any:
        """The next message, or None at the end of the stream."""
        while True:
            message = self.connection.next_message()
            if message is not None:
                if isinstance(message, Fetched):  # its batches are views of the receive buffer
                    message = message._replace(batches=tuple(bytes(each) for each in message.batches))
                return message
            size = await self.stream.receive_into(self.connection.receive_buffer())
            if size == 0:
                return None
            self.connection.received(size)

    async def greet(self, session: bytes = b"") -> Any:
        await self.send(Hello(VERSION_MIN, VERSION_MAX, "raw", session))
        message = await self.receive()
        if isinstance(message, Welcome):
            self.welcome = message
        return message

    def id(self) -> int:
        self.next_id += 1
        return self.next_id

    async def call(self, operation: str, /, **arguments: Any) -> Any:
        await self.send(Call(self.id(), operation, arguments))
        return await self.receive()

    async def create(self, name: str, partitions: int = 1, **config: Any) -> bytes:
        result = await self.call("topic.create", name=name, partitions=partitions, config=config)
        return bytes.fromhex(result.value["id"])

    async def produce(self, topic: bytes, values: Sequence[bytes], *, partition: int = 0, **keys: Any) -> Any:
        await self.send(self.produce_message(topic, values, partition=partition, **keys))
        return await self.receive()

    def produce_message(
        self,
        topic: bytes,
        values: Sequence[bytes],
        *,
        partition: int = 0,
        policy: int = 0,
        one_way: bool = False,
        **keys: Any,
    ) -> Produce:
        batch = encode_batch(values, created_ms=0, limits=LIMITS, **keys)
        return Produce(0 if one_way else self.id(), topic, partition, policy, one_way, batch)

    async def fetch(
        self,
        topic: bytes,
        offset: int,
        *,
        partition: int = 0,
        epoch: int = 0,
        wait_ms: int = 0,
        tags: Sequence[str] = (),
        bytes_max: int = 1 << 20,
    ) -> Any:
        encoded = tuple(tag.encode() for tag in tags)
        await self.send(Fetch(self.id(), topic, partition, offset, epoch, bytes_max, wait_ms, tags=encoded))
        return await self.receive()

    async def read_all(self, topic: bytes, *, partition: int = 0, offset: int = 0) -> list[tuple[int, bytes]]:
        """Every (offset, value) from ``offset`` to the committed offset."""
        found: list[tuple[int, bytes]] = []
        while True:
            reply = await self.fetch(topic, offset, partition=partition)
            found += messages_of(reply)
            if reply.next_offset >= reply.committed_offset:
                return [entry for entry in found if entry[0] >= 0]
            offset = reply.next_offset


def messages_of(fetched: Any) -> list[tuple[int, bytes]]:
    data = b"".join(bytes(each) for each in fetched.batches)
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        header = unpack_header(memoryview(data)[at:])
        if not header.is_control:
            values = decode_batch(memoryview(data)[at : at + header.size], LIMITS).values
            found += list(enumerate((bytes(value) for value in values), header.base_offset))
        at += header.size
    return found


class Setup:
    """A broker on some storage, listening in process, and raw clients of it."""

    def __init__(self, broker: mqcore.broker.Node) -> None:
        self.broker = broker

    @asynccontextmanager
    async def client(self, *, greet: bool = True, url: str | None = None) -> AsyncIterator[RawClient]:
        async with await create_transport(url or self.broker.urls[0]).connect() as link:
            client = RawClient(await link.open_stream())
            if greet:
                await client.greet()
            yield client


@asynccontextmanager
async def _broker(
    storage: str = "memory://", *, listen: Sequence[str] = ("inproc://broker",), **keys: Any
) -> AsyncIterator[Setup]:
    async with mqcore.broker.open_broker(storage=storage, listen=list(listen), **keys) as broker:
        yield Setup(broker)


@asynccontextmanager
async def _raw_client(url: str) -> AsyncIterator[RawClient]:
    async with await create_transport(url).connect() as link:
        client = RawClient(await link.open_stream())
        await client.greet()
        yield client


@pytest.fixture
def raw_client() -> Any:
    """``async with raw_client(url) as client`` gives a raw client of whoever listens there."""
    return _raw_client


@pytest.fixture
def open_setup() -> Any:
    """``async with open_setup(storage, ...) as setup`` gives a running broker with raw clients."""
    return _broker


@pytest.fixture
def run_virtual() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run an async test on virtual time, with no real I/O."""

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with trio.fail_after(3600):
                await main()

        trio.run(bounded, clock=trio.testing.MockClock(autojump_threshold=0))

    return run


@pytest.fixture
def run_real() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run an async test on real files and sockets, bounded to 30 s."""

    def run(main: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            with trio.fail_after(30):
                await main()

        trio.run(bounded)

    return run
