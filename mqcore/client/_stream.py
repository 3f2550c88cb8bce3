"""One stream to a broker: the handshake, requests coalesced into few writes, replies handed to their callbacks.

The shell around ``mqcore.protocol.Connection``. Must not know of topics, batches or reconnecting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs
import trio

from mqcore.abc import Buffer, ByteStream
from mqcore.client._bell import wait_in, wake
from mqcore.errors import BrokenLinkError, RemoteProtocolError, TransportError
from mqcore.limits import Limits
from mqcore.pieces import PIECE_BYTES, in_pieces
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Call,
    Commit,
    Committed,
    Connection,
    End,
    Failed,
    Fatal,
    Fetch,
    Fetched,
    Hello,
    Message,
    Ping,
    Pong,
    Produce,
    Produced,
    Result,
    Role,
    Sync,
    Synced,
    Welcome,
)
from mqcore.sockets import buffers_after

__all__ = ["LINK_ERRORS", "OnReply", "RequestStream", "greet"]

OnReply: TypeAlias = Callable[[Message | None], None]
"""Takes the reply to a request; None when the connection broke before it."""

LINK_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, BrokenLinkError, RemoteProtocolError)
"""What a stream raises when the connection is over."""
JOIN_BYTES_MAX = 64 * 1024
"""Up to here small frames are joined for one plain send, which costs less than a gathering one."""
UNSENT_BYTES_MAX = 8 * 1024 * 1024
REQUEST_IDS = 1 << 32
PRODUCE_OVERHEAD_BYTES = 64
"""More than a produce frame adds to its batch."""


def _forget(_: Message | None) -> None:
    """The reply to a ping: that something came is all that matters."""


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
        if isinstance(error.__cause__, TransportError):  # the transport knows why, and whether trying again helps
            raise error.__cause__ from None
        raise BrokenLinkError(f"the connection broke during the handshake: {error}") from error
    if isinstance(message, Fatal):
        raise RemoteProtocolError(f"the server refused the connection: {message.text}", code=message.code)
    assert isinstance(message, Welcome)
    return RequestStream(stream, connection, message, limits)


class RequestStream:
    """A greeted stream: any number of tasks request, one receives (``receive``), any that finds it idle sends.

    ``requests`` are the callbacks of the unanswered ones by id. ``active_at`` is when bytes were last received, or
    taken by the link of a large send. ``limits`` are what client and server both allow. ``on_credit`` is called when
    a request was refused for want of credit and replies came since, ``on_left_over`` when a cancelled ``flush`` left
    something unsent.
    """

    def __init__(self, stream: ByteStream, connection: Connection, welcome: Welcome, limits: Limits) -> None:
        self.welcome = welcome
        self.connection = connection
        limits = limits.within(welcome.limits)
        # A produce frame is a little more than its batch: a batch at its own limit may not fit the broker's frames.
        self.batch_bytes_max = min(limits.batch_bytes_max, limits.frame_bytes_max - PRODUCE_OVERHEAD_BYTES)
        self.limits = attrs.evolve(limits, batch_bytes_max=self.batch_bytes_max)
        self.requests: dict[int, OnReply] = {}
        self.unsent: list[Buffer] = []
        self.active_at = trio.current_time()
        self.why_over: Exception | None = None
        self.is_ending = False
        self.is_sending = False
        self.on_credit: Callable[[], None] | None = None
        self.on_left_over: Callable[[], None] | None = None
        self._wants_credit = False
        self._waiting: trio.CancelScope | None = None
        self._is_interrupted = False
        self._stream = stream
        self._unsent_bytes = 0
        self._next_id = 1

    # sending

    def may_send(self, size: int) -> bool:
        """Whether the broker's credit, and this side's memory, allow a request of ``size`` bytes now."""
        if self._unsent_bytes < UNSENT_BYTES_MAX and not self.is_ending and self.connection.may_send(size):
            return True
        self._wants_credit = True
        return False

    def next_id(self) -> int:
        """Return a request id that is not in flight."""
        request_id = self._next_id
        while request_id in self.requests:
            request_id = (request_id + 1) % REQUEST_IDS
        self._next_id = (request_id + 1) % REQUEST_IDS
        return request_id

    def request(self, message: Call | Fetch | Ping | Sync | Commit, on_reply: OnReply | None = None) -> None:
        """Queue a request with an id of ``next_id``; without ``on_reply`` its reply is read by ``receive_message``."""
        self._queue(self.connection.send(message))
        if on_reply is not None:
            self.requests[message.request_id] = on_reply

    def produce(
        self,
        topic_id: bytes,
        partition: int,
        policy: int,
        batch: bytearray,
        on_reply: OnReply | None,
        claim: bytes = b"",
    ) -> None:
        """Queue a batch; one-way without ``on_reply``: it is never answered. ``claim``: of a named producer."""
        if on_reply is None:
            self._queue(self.connection.send(Produce(0, topic_id, partition, 0, True, batch, claim)))
            return
        request_id = self._next_id
        while request_id in self.requests:  # as in ``next_id``
            request_id = (request_id + 1) % REQUEST_IDS
        self._next_id = (request_id + 1) % REQUEST_IDS
        buffers = self.connection.send(Produce(request_id, topic_id, partition, policy, False, batch, claim))
        self.requests[request_id] = on_reply
        self.unsent += buffers
        self._unsent_bytes += len(buffers[0]) + len(buffers[1])

    def _queue(self, buffers: list[Buffer]) -> None:
        self.unsent += buffers
        self._unsent_bytes += sum(map(len, buffers))

    def ping(self) -> None:
        """Ask the peer whether it lives."""
        if self.may_send(0):
            self.request(Ping(self.next_id()), _forget)

    async def call(self, operation: str, arguments: dict[str, object]) -> Message | None:
        """Request an administrative operation and return the reply; None when the connection broke before it.

        If cancelled, it may have been done.
        """
        return await self.ask(Call(self.next_id(), operation, arguments))

    async def round_trip(self) -> float | None:
        """Ask the peer whether it lives, and return how long the answer took, in s; None when the connection broke."""
        begin = trio.current_time()
        answer = await self.ask(Ping(self.next_id()))
        return None if answer is None else trio.current_time() - begin

    async def ask(self, request: Call | Ping | Sync | Commit) -> Message | None:
        """Send a request with an id of ``next_id`` and return the reply; None when the connection broke before it.

        If cancelled, it may have been carried out.
        """
        replies: list[Message | None] = []
        waiting: list[trio.lowlevel.Task] = []

        def on_reply(message: Message | None) -> None:
            replies.append(message)
            wake(waiting)

        self.request(request, on_reply)
        await self.flush()
        while not replies:
            await wait_in(waiting)
        return replies[0]

    def flush_now(self) -> None:
        """Send what is queued as far as it goes without waiting; what is left stays queued for ``flush``."""
        if self.is_sending or not self.unsent:
            return
        buffers, size = self.unsent, self._unsent_bytes
        sent = self._stream.send_now((b"".join(buffers),) if size <= JOIN_BYTES_MAX else buffers)
        self._unsent_bytes = size - sent
        self.unsent = [*buffers_after(buffers, sent)] if sent < size else []

    async def flush(self) -> None:
        """Send what is queued, unless another task is sending already, which then sends this too.

        A connection that breaks by it is closed, which the receiving task finds. If cancelled, what was not sent stays
        queued; a part of it may have been sent, then the stream is closed.
        """
        if self.is_sending:
            return
        self.is_sending = True
        try:
            while self.unsent:
                buffers, self.unsent = self.unsent, []
                size, self._unsent_bytes = self._unsent_bytes, 0
                try:
                    if size <= JOIN_BYTES_MAX:
                        await self._stream.send_buffers((b"".join(buffers),))
                    elif size <= PIECE_BYTES:
                        await self._stream.send_buffers(buffers)
                    else:
                        await self._send_in_pieces(buffers)
                except trio.Cancelled:
                    self.unsent[:0] = buffers
                    self._unsent_bytes += size
                    if self.on_left_over is not None:
                        self.on_left_over()
                    raise
        except LINK_ERRORS:
            await self.aclose()
        finally:
            self.is_sending = False

    async def _send_in_pieces(self, buffers: list[Buffer]) -> None:
        """Send so that progress can be seen: a time limit is for silence, never for the size of a message."""
        has_sent = False
        try:
            for piece in in_pieces(buffers):
                await self._stream.send_buffers(piece)
                has_sent = True
                self.active_at = trio.current_time()
        except trio.Cancelled:
            if has_sent:  # what would follow a part of a frame could only be garbage to the peer
                await self.aclose()
            raise

    # receiving

    async def receive(self) -> None:
        """Call the callbacks of replies until the stream ends or breaks, which ``why_over`` tells then.

        Never sends, so it never waits for a peer that waits for it.
        """
        connection, stream, requests = self.connection, self._stream, self.requests
        try:
            while True:
                size = await stream.receive_into(connection.receive_buffer())
                connection.received(size)
                self.active_at = trio.current_time()
                while (message := connection.next_message()) is not None:
                    if type(message) in _REPLIES:
                        requests.pop(message.request_id)(message)  # type: ignore[union-attr]
                    else:
                        self._take_other(message)
                if self._wants_credit:
                    self._wants_credit = False
                    if self.on_credit is not None:
                        self.on_credit()
                if size == 0:
                    raise BrokenLinkError("the server closed the connection")
        except LINK_ERRORS as error:
            self.why_over = error

    def broken(self) -> None:
        """Tell every callback that there will be no reply."""
        requests, self.requests = self.requests, {}
        for on_reply in requests.values():
            on_reply(None)

    async def receive_message(self, silence_s: float) -> Message | None:
        """Return the next message, for a stream that one task uses alone; views in it hold until the next call.

        None when the stream ended (``is_at_end``) or after ``interrupt``. ``silence_s``: how long nothing at all may
        come, in seconds; then ``BrokenLinkError``. No effect if cancelled. Raises Trio's errors of a broken or closed
        stream, ``RemoteProtocolError``, ``BrokenLinkError``.
        """
        connection = self.connection
        while True:
            while (message := connection.next_message()) is None:
                if connection.at_end:
                    return None
                self._is_interrupted = False
                with trio.move_on_after(silence_s) as self._waiting:
                    connection.received(await self._stream.receive_into(connection.receive_buffer()))
                if self._waiting.cancelled_caught:
                    if self._is_interrupted:
                        return None
                    raise BrokenLinkError(f"the server has been silent for {silence_s:g} s")
            if type(message) is not Fatal and type(message) is not End:
                return message
            self._take_other(message)

    @property
    def is_at_end(self) -> bool:
        """Whether the server ended the stream."""
        return self.connection.at_end

    def interrupt(self) -> None:
        """Have the task that waits in ``receive_message`` return. No effect while none waits."""
        if self._waiting is not None and not self._waiting.cancel_called:
            self._is_interrupted = True
            self._waiting.cancel()

    def _take_other(self, message: Message) -> None:
        if isinstance(message, End):
            self.is_ending = True
        elif isinstance(message, Fatal):
            raise RemoteProtocolError(f"the server ended the connection: {message.text}", code=message.code)
        else:
            raise AssertionError(message)

    async def aclose(self) -> None:
        """Close the stream, even if this is cancelled."""
        await trio.aclose_forcefully(self._stream)


_REPLIES = frozenset({Produced, Failed, Fetched, Result, Pong, Synced, Committed})
