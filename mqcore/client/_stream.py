"""One stream to a broker: the handshake, requests coalesced into few writes, answers handed to who asked.

The shell around ``mqcore.protocol.Connection``. Must not know of topics, batches or reconnecting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import trio

from mqcore.abc import Buffer, ByteStream
from mqcore.errors import BrokenLinkError, RemoteProtocolError
from mqcore.limits import Limits
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Connection,
    End,
    Failed,
    Fatal,
    Fetched,
    Hello,
    Message,
    Ping,
    Pong,
    Produced,
    Result,
    Role,
    Welcome,
)

__all__ = ["Asker", "RequestStream", "greet"]

JOIN_BYTES_MAX = 64 * 1024
"""Up to here small frames are joined for one plain send, which costs less than a gathering one."""
UNSENT_BYTES_MAX = 8 * 1024 * 1024
REQUEST_IDS = 1 << 32


class Asker(Protocol):
    """What waits for the answer to a request."""

    owner: Any
    """Has ``answered(asker, message)``."""


class _Ponged:
    """Takes the answer to a ping and forgets it: that something came is all that matters."""

    def __init__(self) -> None:
        self.owner = self

    def answered(self, asker: object, message: object) -> None:
        """Nothing to do."""


_PONGED = _Ponged()


async def greet(stream: ByteStream, *, name: str, session: bytes, limits: Limits) -> RequestStream:
    """Shake hands on a fresh stream. Raises ``RemoteProtocolError``, ``BrokenLinkError``.

    ``session``: 16 bytes that an earlier stream of this client got, or empty. If cancelled, the stream is of no more
    use.
    """
    connection = Connection(Role.CLIENT, frame_bytes_max=limits.frame_bytes_max)
    try:
        await stream.send_buffers(connection.send(Hello(VERSION_MIN, VERSION_MAX, name, session)))
        while (message := connection.next_message()) is None:
            if connection.at_end:
                raise BrokenLinkError("the server hung up during the handshake: is it a broker of mqcore?")
            connection.received(await stream.receive_into(connection.receive_buffer()))
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise BrokenLinkError(f"the connection broke during the handshake: {error}") from error
    if isinstance(message, Fatal):
        raise RemoteProtocolError(f"the server refused the connection: {message.text}", code=message.code)
    assert isinstance(message, Welcome)
    return RequestStream(stream, connection, message)


class RequestStream:
    """A greeted stream: any number of tasks ask, one receives (``receive``), whoever finds it idle sends (``flush``).

    ``requests`` are the unanswered ones by id; ``received_at`` is when something was last received.
    """

    def __init__(self, stream: ByteStream, connection: Connection, welcome: Welcome) -> None:
        self.welcome = welcome
        self.connection = connection
        self.requests: dict[int, Any] = {}
        self.received_at = trio.current_time()
        self.is_ending = False
        self.is_sending = False
        self._stream = stream
        self._unsent: list[Buffer] = []
        self._unsent_bytes = 0
        self._next_id = 1

    # sending

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way in either direction."""
        return not self.requests and not self.is_sending and not self._unsent

    def may_send(self, size: int) -> bool:
        """Whether the broker's credit, and this side's memory, allow a request of ``size`` bytes now."""
        return self._unsent_bytes < UNSENT_BYTES_MAX and not self.is_ending and self.connection.may_send(size)

    def next_id(self) -> int:
        """Return a request id that is not in flight."""
        request_id = self._next_id
        while request_id in self.requests:
            request_id = (request_id + 1) % REQUEST_IDS
        self._next_id = (request_id + 1) % REQUEST_IDS
        return request_id

    def ask(self, message: Message, asker: Any = None) -> None:
        """Queue a request; its answer goes to ``asker.owner.answered(asker, message)`` (None: there will be none)."""
        buffers = self.connection.send(message)
        if asker is not None:
            self.requests[message.request_id] = asker  # type: ignore[union-attr]
        self._unsent += buffers
        self._unsent_bytes += sum(map(len, buffers))

    def ping(self) -> None:
        """Ask the peer whether it lives."""
        if self.may_send(0):
            self.ask(Ping(self.next_id()), _PONGED)

    @property
    def has_unsent(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._unsent)

    async def flush(self) -> None:
        """Send what is queued, unless somebody is sending already, who then sends this too.

        Raises Trio's errors of a broken or closed stream. If cancelled, what was not sent stays queued; a part of it
        may have been sent, then the stream is closed.
        """
        if self.is_sending:
            return
        self.is_sending = True
        try:
            while self._unsent:
                buffers, self._unsent = self._unsent, []
                size, self._unsent_bytes = self._unsent_bytes, 0
                try:
                    await self._stream.send_buffers(buffers if size > JOIN_BYTES_MAX else [b"".join(buffers)])
                except trio.Cancelled:
                    self._unsent[:0] = buffers
                    self._unsent_bytes += size
                    raise
        finally:
            self.is_sending = False

    # receiving

    async def receive(self, after: Callable[[], None]) -> None:
        """Hand answers to their askers until the stream ends or breaks; ``after`` runs after each read's answers.

        Raises Trio's errors of a broken or closed stream, ``RemoteProtocolError``, ``BrokenLinkError`` with the
        broker's reason. Never sends, so it never waits for a peer that waits for it.
        """
        connection, stream, requests = self.connection, self._stream, self.requests
        while True:
            size = await stream.receive_into(connection.receive_buffer())
            connection.received(size)
            self.received_at = trio.current_time()
            while (message := connection.next_message()) is not None:
                kind = type(message)
                if kind is Produced or kind in _ANSWERS:
                    asker = requests.pop(message.request_id)  # type: ignore[union-attr]
                    asker.owner.answered(asker, message)
                else:
                    self._take_other(message)
            after()
            if size == 0:
                raise BrokenLinkError("the server closed the connection")

    async def receive_message(self) -> Message | None:
        """Return the next message, for a stream that one task uses alone; views in it hold until the next call.

        None when the stream ended. No effect if cancelled. Raises as ``receive``.
        """
        connection = self.connection
        while (message := connection.next_message()) is None:
            if connection.at_end:
                return None
            connection.received(await self._stream.receive_into(connection.receive_buffer()))
        if isinstance(message, Fatal | End):
            self._take_other(message)
            return await self.receive_message()
        return message

    def _take_other(self, message: Message) -> None:
        if isinstance(message, End):
            self.is_ending = True
        elif isinstance(message, Fatal):
            raise BrokenLinkError(f"the server ended the connection: {message.text}")
        else:
            raise AssertionError(message)

    async def aclose(self) -> None:
        """Close the stream, even if this is cancelled."""
        await trio.aclose_forcefully(self._stream)


_ANSWERS = frozenset({Failed, Fetched, Result, Pong})
