"""One QUIC connection: its streams, the credit between both sides, and an end at which nothing is lost."""

from __future__ import annotations

import math
from collections import deque

import trio

from mqcore.abc import ByteStream, Link, Peer
from mqcore.errors import TransportError
from mqcore.ports import Buffer
from mqcore_quic._config import QuicOptions
from mqcore_quic._control import ALL_HERE, CREDIT, GOODBYE, WINDOW, ControlRecord, ControlRecords
from mqcore_quic._driver import EngineDriver
from mqcore_quic._engine import HandshakeDone, IdAdded, IdRemoved, LinkEnded, QuicEngine, StreamArrived, StreamReset
from mqcore_quic._numbers import StreamNumbers
from mqcore_quic._outlet import LinkEndpoint
from mqcore_quic._refusals import CODE_DONE, CODE_TOO_MUCH, EXPIRED, ending_in_words
from mqcore_quic._silence import GOODBYE_SECONDS
from mqcore_quic._stream import CODE_CANCELLED, PREAMBLE, QuicStream
from mqcore_quic._waiting import WaitingTasks
from mqcore_quic._windows import StreamWindow, full_window

__all__ = ["QuicLink"]


class QuicLink(EngineDriver["QuicLink"], Link):
    """A connection to ``peer``; for both sides.

    ``window_bytes`` is what ``engine`` may hold out of order; ``unknown_bytes_max`` all that comes before ``admit``.
    """

    def __init__(
        self,
        engine: QuicEngine,
        outlet: LinkEndpoint[QuicLink],
        options: QuicOptions,
        peer: Peer,
        *,
        is_client: bool,
        now: float,
        window_bytes: int | None = None,
        unknown_bytes_max: int | None = None,
    ) -> None:
        super().__init__(engine, outlet, options, peer, now=now, unknown_bytes_max=unknown_bytes_max)
        self.window_bytes = window_bytes or full_window(options.window_bytes)
        self._window = StreamWindow(options.window_bytes)
        if unknown_bytes_max is not None:
            engine.limit_held(min(self.window_bytes, unknown_bytes_max))
        self._is_client = is_client
        self._streams: dict[int, QuicStream] = {}
        self._accepted: deque[QuicStream] = deque()
        self._waiting = WaitingTasks(lambda: self._dead is not None)
        self._dead: BaseException | None = None
        self._is_closing = False
        self._control_id: int | None = None
        self._control = ControlRecords()
        self._opened = 0
        self._numbers = StreamNumbers()
        self._peer_opened: int | None = None
        self._said_goodbye = False
        self._said_goodbye_at = now
        self._said_all_here = False
        self._all_is_there = False
        self._expires_at = math.inf

    def _this(self) -> QuicLink:
        return self

    # what the engine tells

    def _handle_events(self) -> None:
        for event in self.engine.events():
            if self.is_gone:  # an id that it is given now would never be taken back
                return
            kind = type(event)
            if kind is StreamArrived:
                self._on_arrived(event)  # type: ignore[arg-type]
            elif kind is HandshakeDone:
                self.is_ready = True
                self._expires_at = trio.current_time() + self.engine.peer_expires_in()
                self._outlet.ready(self)
                if self._unknown_left is None:
                    self._tell_window()
                self._waiting.look()
            elif kind is LinkEnded:
                self._end(ending_in_words(event, self.peer.address))  # type: ignore[arg-type]
            elif kind is IdAdded:
                self._outlet.add_id(event.connection_id, self)  # type: ignore[union-attr]
            elif kind is IdRemoved:
                self._outlet.remove_id(event.connection_id)  # type: ignore[union-attr]
            else:
                stream_id: int = event.stream_id  # type: ignore[union-attr]
                # What was lost of a stream that was reset is never sent again: it has begun, or it never does.
                stream = self._streams.get(stream_id) or self._new_from_peer(stream_id)
                if stream is not None:
                    stream.reset() if kind is StreamReset else stream.refused()
                    self.ended(stream)
                    self._say_all_here()
        if self._waiting:
            self._waiting.look()  # there may be room for another stream, or less to wait for at the end

    def _on_arrived(self, event: StreamArrived) -> None:
        stream_id = event.stream_id
        if stream_id & 2:
            self._on_control(event.data)
            return
        if self._silence.heard_at >= self._expires_at:  # no timer: one that is silent does nothing under its old name
            self.fail(EXPIRED)
            return
        stream = self._streams.get(stream_id)
        if stream is None:
            stream = self._new_from_peer(stream_id)
            if stream is None:
                return
        stream.arrived(event.data, is_end=event.is_end)
        if stream.unread > self._options.window_bytes:
            self.fail("more was sent on a stream than its credit allows", CODE_TOO_MUCH)
        elif event.is_end:
            self.ended(stream)
            self._say_all_here()

    def _new_from_peer(self, stream_id: int) -> QuicStream | None:
        is_ours = (stream_id & 1) == (0 if self._is_client else 1)
        number = stream_id >> 2
        if is_ours or stream_id & 2 or number in self._numbers:
            return None  # of a stream that is over, or carries records
        at_once = sum(not each.is_ours for each in self._streams.values()) + self._numbers.left_out_with(number)
        if at_once >= self._options.streams_max:
            self.fail(f"more than {self._options.streams_max} streams at once (streams_max)", CODE_TOO_MUCH)
            return None
        self._numbers.take(number)
        stream = self._streams[stream_id] = QuicStream(self, stream_id, self._window.sending, is_ours=False)
        self._accepted.append(stream)
        self._waiting.look()
        return stream

    def _on_control(self, data: bytes) -> None:
        for kind, first, second in self._control.take(data):
            if kind == CREDIT:
                stream = self._streams.get(first)
                if stream is not None:
                    if second > stream.written:
                        self.fail("credit for more than was sent")
                        return
                    stream.credit(second, self._window.sending)
            elif kind == WINDOW:
                self._window.told(first)
                for stream in self._streams.values():
                    stream.credit(stream.peer_read, self._window.sending)
            elif kind == GOODBYE:
                self._peer_opened = first
                self._say_all_here()
            elif kind == ALL_HERE:
                self._all_is_there = True
            else:
                self.fail(f"a control record of kind {kind}")
                return

    def _end(self, error: BaseException) -> None:
        if self._dead is None:
            self._dead = error
        for stream in list(self._streams.values()):
            stream.wake()
        self._waiting.look()
        if not self.is_gone:
            self.is_gone = True
            self._outlet.forget(self)

    # what streams ask

    def write(self, stream: QuicStream, data: Buffer, *, is_end: bool = False) -> None:
        """See ``StreamOwner``."""
        try:
            self.engine.write(stream.stream_id, data, is_end=is_end)
        except Exception as error:
            if self._dead is None and not is_end:
                raise trio.BrokenResourceError(f"the stream cannot be written: {error}") from error

    def consumed(self, stream: QuicStream) -> None:
        """See ``StreamOwner``."""
        if stream.read - stream.told >= self._window.step and not stream.has_end:
            stream.told = stream.read
            self._tell(CREDIT, stream.stream_id, stream.read)
            self.flush()
        self.ended(stream)

    def _tell(self, kind: int, first: int, second: int = 0) -> None:
        if self._dead is not None:
            return
        if self._control_id is None:
            self._control_id = self.engine.open_stream(is_one_way=True)
            if self._control_id is None:
                self.fail("the peer allows no control stream")
                return
        try:
            self.engine.write(self._control_id, ControlRecord(kind, first, second).packed())
        except Exception as error:  # closed by the peer, which the engine tells when it has drained
            self._end(TransportError(f"{self.peer.address}: the connection is over ({error})"))

    def abandon(self, stream: QuicStream, *, sends: bool, reads: bool) -> None:
        """See ``StreamOwner``."""
        if self._dead is None:
            try:
                if sends:
                    self.engine.abort(stream.stream_id, CODE_CANCELLED)
                if reads:
                    self.engine.refuse(stream.stream_id, CODE_CANCELLED)
            except Exception:  # the engine knows the stream no more, which is what was asked for
                pass
            self.flush()

    def ended(self, stream: QuicStream) -> None:
        """See ``StreamOwner``: what is over in both directions, and read, is forgotten."""
        if stream.is_ended and stream.has_end and (stream.closed or not stream.unread):
            self._streams.pop(stream.stream_id, None)
            self._waiting.look()

    def why_dead(self) -> BaseException | None:
        """See ``StreamOwner``."""
        return self._dead

    # the contract

    def admit(self) -> None:
        """See ``Link``."""
        if self._unknown_left is not None:
            self._unknown_left = None
            self.engine.limit_held(self.window_bytes)
            if self.is_ready:
                self._tell_window()
                self.flush()

    def _tell_window(self) -> None:
        self._window.has_told = True
        self._tell(WINDOW, self._options.window_bytes)

    async def until_ready(self) -> None:
        """Wait for the handshake. Raises ``TransportError``."""
        await self._waiting.until(lambda: self.is_ready)
        if self._dead is not None:
            raise self._dead

    async def accept_stream(self) -> ByteStream:
        """See ``Link``."""
        stream: QuicStream | None = None

        def takes() -> bool:
            nonlocal stream
            if self._accepted and not self._is_closing:
                stream = self._accepted.popleft()
            return stream is not None or self._is_closing or self._has_all

        await self._waiting.until(takes)
        if stream is None:
            raise trio.EndOfChannel
        return stream

    @property
    def _has_all(self) -> bool:
        """Whether the peer has said goodbye, and every stream that it opened is here."""
        return self._peer_opened is not None and self._numbers.has_all_below(self._peer_opened)

    async def open_stream(self) -> ByteStream:
        """See ``Link``. Waits while the peer allows no more streams."""
        await trio.lowlevel.checkpoint()
        stream: QuicStream | None = None

        def opens() -> bool:
            nonlocal stream
            stream = None if self._is_closing else self.open_now()
            return stream is not None or self._is_closing

        await self._waiting.until(opens)
        if stream is None and self._is_closing:
            raise trio.ClosedResourceError("the link is closed")
        if stream is None:
            raise TransportError(str(self._dead))
        return stream

    def open_now(self) -> QuicStream | None:
        """Open a stream; None where the peer allows no more of them now, or the connection is over.

        Raises ``trio.ClosedResourceError``.
        """
        if self._is_closing:
            raise trio.ClosedResourceError("the link is closed")
        stream_id = None if self._dead is not None else self.engine.open_stream()
        if stream_id is None:
            return None
        self._opened += 1
        stream = self._streams[stream_id] = QuicStream(self, stream_id, self._window.sending, is_ours=True)
        self.engine.write(stream_id, PREAMBLE)
        self.flush()
        return stream

    async def aclose(self) -> None:
        """Close every stream, let the peer have what was sent, and end the connection.

        A peer that says nothing for a second does not get it, nor one that takes longer than ``idle_timeout_ms``.
        It is ended even if this is cancelled. Idempotent.
        """
        if not self._is_closing:
            self._is_closing = True
            for stream in list(self._streams.values()):
                stream.close()
            self._waiting.look()
        try:
            if self._dead is None and self.is_ready:
                self._say_goodbye()
                await self._wait_for_all()
        finally:
            if self._dead is None:
                self._shut(CODE_DONE, "")
                self._end(trio.ClosedResourceError("the link is closed"))
            await self._outlet.ended()
        await trio.lowlevel.checkpoint()

    async def _wait_for_all(self) -> None:
        until = trio.current_time() + self._options.idle_timeout_ms / 1000
        while not self._all_is_there and self._dead is None:
            at = min(until, max(self._silence.heard_at, self._said_goodbye_at) + GOODBYE_SECONDS)
            if trio.current_time() >= at:
                return
            with trio.move_on_at(at):
                await self._waiting.until(lambda: self._all_is_there)

    def _say_all_here(self) -> None:
        """Answer a goodbye once nothing of what it followed is still on its way."""
        if self._has_all and not self._said_all_here and all(each.has_end for each in self._streams.values()):
            self._said_all_here = True
            self._tell(ALL_HERE, 0)

    def _say_goodbye(self) -> None:
        if not self._said_goodbye:
            self._said_goodbye = True
            self._said_goodbye_at = trio.current_time()
            self._tell(GOODBYE, self._opened)
            self.flush()
