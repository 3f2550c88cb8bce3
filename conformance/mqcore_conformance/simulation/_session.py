"""A client of the suite's own: the wire protocol on a transport's stream, nothing else of mqcore's client.

It shares no code with the client under test, and tells apart what that one may not: the life of the broker that
answered. Must not know what is sent or judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from mqcore.abc import ByteStream
from mqcore.errors import MqcoreError, ProtocolError
from mqcore.limits import Limits
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Call,
    Code,
    Connection,
    Failed,
    Fatal,
    Hello,
    Message,
    Result,
    Role,
    Welcome,
)
from mqcore.registry import create_transport

if TYPE_CHECKING:
    from mqcore_conformance.simulation._surroundings import Surroundings

BACKOFF_S = 0.01
BACKOFF_S_MAX = 0.5

__all__ = ["Backoff", "CallFailed", "Session", "SessionLost"]


class SessionLost(Exception):
    """The connection is gone, for whatever reason."""


class Backoff:
    """Pauses between attempts: short at first, doubled each time, short again after ``reset``."""

    def __init__(self) -> None:
        self._seconds = BACKOFF_S

    def reset(self) -> None:
        """Begin with a short pause again."""
        self._seconds = BACKOFF_S

    async def pause(self) -> None:
        """Wait for the next pause."""
        await trio.sleep(self._seconds)
        self._seconds = min(2 * self._seconds, BACKOFF_S_MAX)


class CallFailed(Exception):
    """An administrative call was refused; ``code`` is the wire code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def code_name(code: int) -> str:
    """Return the stable name of a wire code."""
    return Code(code).label if code in Code._value2member_map_ else str(code)


class Session:
    """One stream to the broker. One task receives, one sends, or one does both in turn."""

    def __init__(self, world: Surroundings, stream: ByteStream, life: int) -> None:
        self.life = life
        self.welcome: Welcome
        self._world = world
        self._stream = stream
        self._connection = Connection(Role.CLIENT, frame_bytes_max=Limits().frame_bytes_max)
        self._request_id = 0
        self._sending = trio.Lock()

    @classmethod
    async def connect(cls, world: Surroundings) -> Session:
        """Connect and greet. Raises ``SessionLost``."""
        life = world.life
        try:
            link = await create_transport(world.url).connect()
            session = cls(world, await link.open_stream(), life)
        except (MqcoreError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise SessionLost(str(error)) from error
        try:
            await session.send(Hello(VERSION_MIN, VERSION_MAX, "conformance"))
            welcome = await session.receive()
        except BaseException:
            await session.aclose()
            raise
        if not isinstance(welcome, Welcome):
            await session.aclose()
            raise SessionLost(f"greeted with {welcome!r}")
        session.welcome = welcome
        session.life = world.life_of(welcome.node_id.hex()[:8], welcome.epoch)
        return session

    def next_id(self) -> int:
        """Return a request id that is not in flight."""
        self._request_id += 1
        return self._request_id

    async def send(self, message: Message) -> None:
        """Send one message. Raises ``SessionLost``."""
        try:
            buffers = self._connection.send(message)
            async with self._sending:
                await self._stream.send_buffers(buffers)
        except (ProtocolError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise SessionLost(f"{type(error).__name__}: {error}") from error

    async def receive(self) -> Message:
        """Return the next message. Views in it are valid until the next call. Raises ``SessionLost``."""
        connection = self._connection
        while True:
            try:
                message = connection.next_message()
                if message is not None:
                    break
                if connection.at_end:
                    raise SessionLost("the stream ended")
                connection.received(await self._stream.receive_into(connection.receive_buffer()))
            except (ProtocolError, OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise SessionLost(f"{type(error).__name__}: {error}") from error
            if self._world.swallows(self.life):
                raise SessionLost("the broker's process is dead")
        if isinstance(message, Fatal):
            raise SessionLost(f"{code_name(message.code)}: {message.text}")
        return message

    async def call(self, operation: str, arguments: Mapping[str, object]) -> object:
        """Make an administrative call while nothing else is in flight. Raises ``CallFailed``, ``SessionLost``."""
        request_id = self.next_id()
        await self.send(Call(request_id, operation, arguments))
        reply = await self.receive()
        if isinstance(reply, Result):
            return reply.value
        if isinstance(reply, Failed):
            raise CallFailed(reply.code, reply.text)
        raise SessionLost(f"a call was answered with {reply!r}")

    async def resolve(self, topic: str) -> tuple[bytes, str]:
        """Return the id of a topic and what its partitions are called in the history."""
        value = await self.call("topic.resolve", {"name": topic})
        assert isinstance(value, dict)
        topic_id = bytes.fromhex(str(value["id"]))
        return topic_id, self._world.name_topic(topic_id.hex(), topic)

    async def end_offsets(self, topic: str) -> list[int]:
        """Return the offset after the last message of each partition, visible yet or not."""
        value = await self.call("topic.describe", {"name": topic})
        assert isinstance(value, dict)
        return [int(log["end_offset"]) for log in value["logs"]]

    async def aclose(self) -> None:
        """Close the stream."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)
