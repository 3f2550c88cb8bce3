"""A client of the suite's own: the wire protocol on a transport's stream, nothing else of mqcore's client.

It shares no code with the client under test, and distinguishes what that one may not: the life of the broker that
answered. Must not know what is sent or judged.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Mapping

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
from mqcore_conformance.histories import NodeLife
from mqcore_conformance.world import World

BACKOFF_S = 0.01
BACKOFF_S_MAX = 0.5
CONNECT_TIMEOUT_S = 5
NODE_TIMEOUT_S = 1
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class WireError(Exception):
    """What ends a use of a session."""


class SessionLostError(WireError):
    """The connection is gone, for whatever reason."""


class CallFailedError(WireError):
    """An administrative call was refused; ``code`` is the wire code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Pauses:
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


def code_name(code: int) -> str:
    """Return the stable name of a wire code."""
    return Code(code).label if code in Code._value2member_map_ else str(code)


def identity_of(welcome: Welcome) -> str:
    """Return what a storage is called in the history: the beginning of its node id."""
    return welcome.node_id.hex()[:8]


@contextlib.asynccontextmanager
async def connect(world: World, url: str = "") -> AsyncIterator[WireSession]:
    """Give a session with the broker that serves, and close it. ``url``: where, if not where clients reach it.

    Of a set it is the primary, which is looked for among its nodes.

    Raises ``SessionLostError``.
    """
    session = None
    with trio.move_on_after(CONNECT_TIMEOUT_S):
        await world.until(lambda: world.is_serving or world.given_up)
        if world.given_up:
            raise SessionLostError("the broker does not start any more")
        session = await (WireSession.open(world, url, is_any=True) if url else _open_primary(world))
    if session is None:
        raise SessionLostError("could not connect in time")
    try:
        yield session
    finally:
        await session.aclose()


async def _open_primary(world: World) -> WireSession:
    urls = world.urls
    if len(urls) == 1:
        return await WireSession.open(world, urls[0], is_any=True)
    why = "no node"
    for url in urls:
        with trio.move_on_after(NODE_TIMEOUT_S):  # one that is stopped takes a connection, and answers nothing
            try:
                return await WireSession.open(world, url)
            except SessionLostError as error:
                why = str(error)
    raise SessionLostError(f"no primary among {len(urls)} nodes: {why}")


class WireSession:
    """One stream to the broker. One task receives, one sends, or one does both in turn."""

    def __init__(self, world: World, stream: ByteStream, by: NodeLife) -> None:
        self.by = by
        self.welcome: Welcome
        self._world = world
        self._stream = stream
        self._connection = Connection(Role.CLIENT, frame_bytes_max=Limits().frame_bytes_max)
        self._request_id = 0
        self._sending = trio.Lock()

    @classmethod
    async def open(cls, world: World, url: str, *, is_any: bool = False) -> WireSession:
        """Connect and greet. Raises ``SessionLostError``, also for a replica unless ``is_any``."""
        by = world.present
        try:
            link = await create_transport(url).connect()
            session = cls(world, await link.open_stream(), by)
        except (MqcoreError, *_GONE) as error:
            raise SessionLostError(str(error)) from error
        try:
            await session.send(Hello(VERSION_MIN, VERSION_MAX, "conformance"))
            welcome = await session.receive()
            if not isinstance(welcome, Welcome):
                raise SessionLostError(f"greeted with {welcome!r}")
            if welcome.role != "primary" and not is_any:
                raise SessionLostError(f"{welcome.node_name} is no primary")
        except BaseException:
            await session.aclose()
            raise
        session.welcome = welcome
        if welcome.role == "primary":
            session.by = world.reign_of(identity_of(welcome), welcome.epoch)
        else:
            session.by = world.life_of(identity_of(welcome))
        return session

    def next_id(self) -> int:
        """Return a request id that is not in flight."""
        self._request_id += 1
        return self._request_id

    async def send(self, message: Message) -> None:
        """Send one message. Raises ``SessionLostError``."""
        try:
            buffers = self._connection.send(message)
            async with self._sending:
                await self._stream.send_buffers(buffers)
        except (ProtocolError, *_GONE) as error:
            raise SessionLostError(f"{type(error).__name__}: {error}") from error

    async def receive(self, silence_s: float = math.inf) -> Message:
        """Return the next message. Views in it are valid until the next call. Raises ``SessionLostError``.

        ``silence_s``: how long nothing may arrive; a long answer that comes slowly is no silence.
        """
        try:
            with trio.fail_after(silence_s) as silent:
                message = await self._next(silent, silence_s)
        except trio.TooSlowError:
            raise SessionLostError("no answer in time: the broker's machine may be gone without a word") from None
        except (ProtocolError, *_GONE) as error:
            raise SessionLostError(f"{type(error).__name__}: {error}") from error
        if isinstance(message, Fatal):
            raise SessionLostError(f"{code_name(message.code)}: {message.text}")
        return message

    async def _next(self, silent: trio.CancelScope, silence_s: float) -> Message:
        connection = self._connection
        while (message := connection.next_message()) is None:
            if connection.at_end:
                raise SessionLostError("the stream ended")
            connection.received(await self._stream.receive_into(connection.receive_buffer()))
            silent.deadline = trio.current_time() + silence_s
            if self._world.swallows(self.by):
                raise SessionLostError("the broker's process is dead")
        return message

    async def call(self, operation: str, arguments: Mapping[str, object]) -> dict[str, object]:
        """Make an administrative call that is answered with an object or nothing; else as ``ask``."""
        value = await self.ask(operation, arguments)
        if not isinstance(value, dict | None):
            raise SessionLostError(f"{operation} was answered with {value!r}")
        return value or {}

    async def ask(self, operation: str, arguments: Mapping[str, object]) -> object:
        """Make an administrative call while nothing else is in flight, and return what it was answered with.

        Raises ``CallFailedError`` when it is refused, ``SessionLostError``.
        """
        await self.send(Call(self.next_id(), operation, arguments))
        reply = await self.receive()
        if isinstance(reply, Failed):
            raise CallFailedError(reply.code, reply.text)
        if not isinstance(reply, Result):
            raise SessionLostError(f"{operation} was answered with {reply!r}")
        return reply.value

    async def resolve(self, topic: str) -> tuple[bytes, str]:
        """Return the id of a topic and what its partitions are called in the history."""
        topic_id = str((await self.call("topic.resolve", {"name": topic}))["id"])
        return bytes.fromhex(topic_id), self._world.name_topic(topic_id, topic)

    async def end_offsets(self, topic: str) -> list[int]:
        """Return the offset after the last message of each partition, visible yet or not."""
        logs = (await self.call("topic.describe", {"name": topic}))["logs"]
        assert isinstance(logs, list)
        return [int(log["end_offset"]) for log in logs]

    async def aclose(self) -> None:
        """Close the stream."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)
