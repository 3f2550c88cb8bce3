"""One connection as a pure state machine: bytes in, messages out, messages in, bytes out. No I/O, no clock, no trio.

Receiving, without a copy::

    size = await stream.receive_into(connection.receive_buffer())
    connection.received(size)                   # 0: the stream ended
    while (message := connection.next_message()) is not None:
        ...                                     # views in it are valid until the next receive_buffer()

Sending: ``await stream.send_buffers(connection.send(message))``. Broken rules raise: ``LocalProtocolError`` for this
side's, ``RemoteProtocolError`` (with the code to answer) for the peer's; after the latter the connection is over.

Credit: the broker grants a number of requests and of bytes in flight; every request spends, its reply returns. A client
asks ``may_send`` first; a broker refuses the peer that overdraws. One-way sends are not counted: the broker takes them
in before it reads on, so the transport holds their writer up.
"""

from __future__ import annotations

from mqcore.errors import LocalProtocolError, RemoteProtocolError
from mqcore.guarantees import Copy
from mqcore.ports import Buffer
from mqcore.protocol._frames import FRAME, FRAME_BYTES, HELLO_BYTES_MAX, FrameHead, decode, encode, encode_produced
from mqcore.protocol._messages import (
    Call,
    Failed,
    Fetch,
    Fetched,
    Hello,
    Kind,
    Message,
    Ping,
    Pong,
    Produce,
    Produced,
    Result,
    Welcome,
)
from mqcore.protocol._state import Role, State, next_states
from mqcore.protocol.codes import Code

__all__ = ["VERSION_MAX", "VERSION_MIN", "Connection"]

VERSION_MIN = 2
"""Oldest version of the protocol that is spoken."""
VERSION_MAX = 2
"""Newest version of the protocol that is spoken."""

_FIRST_FRAME = {
    Role.BROKER: (State.START, (Kind.HELLO,)),
    Role.CLIENT: (State.GREETED, (Kind.WELCOME, Kind.FATAL)),
}
"""By the role of who receives it: the state of the peer before its first frame, and the kinds that it may have."""
_BUFFER_BYTES_FIRST = 16 * 1024
_BUFFER_BYTES_BUSY = 256 * 1024

_KIND_OF: dict[type, Kind] = {
    message_type: Kind[message_type.__name__.upper()] for message_type in Message.__args__
}
_REQUESTS = frozenset({Kind.PRODUCE, Kind.FETCH, Kind.CALL, Kind.PING})
_REPLIES = frozenset({Kind.PRODUCED, Kind.FETCHED, Kind.RESULT, Kind.FAILED, Kind.PONG})
_PRODUCE = int(Kind.PRODUCE)
_CALL = int(Kind.CALL)


class Connection:
    """State of one connection, seen from ``role``.

    ``frame_bytes_max``: largest frame payload accepted from the peer. ``requests_in_flight_max`` and
    ``bytes_in_flight_max``: the credit that a broker grants (and enforces); a client learns them from the welcome.
    ``admin_bytes_max``: largest payload of a call, whose JSON takes many times its size once it is read.
    """

    def __init__(
        self,
        role: Role,
        *,
        frame_bytes_max: int,
        requests_in_flight_max: int = 0,
        bytes_in_flight_max: int = 0,
        buffer_bytes_max: int = _BUFFER_BYTES_BUSY,
        admin_bytes_max: int | None = None,
    ) -> None:
        self.role = role
        self.own_state = State.START
        self.peer_state = State.START
        self.requests_in_flight_max = requests_in_flight_max
        self.bytes_in_flight_max = bytes_in_flight_max
        self.peer_frame_bytes_max = frame_bytes_max
        self._frame_bytes_max = frame_bytes_max
        self._admin_bytes_max = frame_bytes_max if admin_bytes_max is None else admin_bytes_max
        self._buffer_bytes_busy = max(buffer_bytes_max, _BUFFER_BYTES_FIRST)
        self._in_flight: dict[int, int] = {}
        self._bytes_in_flight = 0
        self._buffer = bytearray(_BUFFER_BYTES_FIRST)
        self._view = memoryview(self._buffer)
        self._parsed = 0
        self._filled = 0
        self._needed = FRAME_BYTES
        self._at_end = False
        self._state_before_first_frame, self._first_kinds = _FIRST_FRAME[role]
        self._hot_kinds = _REQUESTS if role is Role.BROKER else _REPLIES

    # receiving

    def receive_buffer(self) -> memoryview:
        """Return where the next bytes go. Views given out with earlier messages become invalid."""
        pending = self._filled - self._parsed
        capacity = len(self._buffer)
        if self._needed > capacity or (self._filled == capacity and capacity < self._buffer_bytes_busy):
            # Grown as bytes arrive, never to a size that was only announced.
            wanted = max(min(self._needed, 2 * max(pending, capacity)), min(2 * capacity, self._buffer_bytes_busy))
            self._move_to(bytearray(wanted))
        elif self._parsed:
            if pending == 0:
                self._parsed = self._filled = 0
            elif capacity - self._filled < max(self._needed - pending, capacity // 4):
                self._view[:pending] = self._view[self._parsed : self._filled]
                self._parsed, self._filled = 0, pending
        if self._filled == len(self._buffer):
            self._move_to(bytearray(min(self._needed, 2 * len(self._buffer))))
        return self._view[self._filled :]

    def _move_to(self, buffer: bytearray) -> None:
        pending = self._filled - self._parsed
        view = memoryview(buffer)
        view[:pending] = self._view[self._parsed : self._filled]
        self._buffer, self._view = buffer, view
        self._parsed, self._filled = 0, pending

    def give_up_buffer(self) -> None:
        """Leave the receive buffer to whoever holds views of it and go on with a new one.

        For a receiver that keeps a message beyond the next ``receive_buffer``, without a copy of it.
        """
        self._move_to(bytearray(max(len(self._buffer), self._needed if self._needed <= len(self._buffer) else 0)))

    def shrink_buffer(self) -> None:
        """Go back to a small receive buffer, when nothing is pending: a connection at rest costs little memory."""
        if self._filled == self._parsed and len(self._buffer) > _BUFFER_BYTES_FIRST:
            self._move_to(bytearray(_BUFFER_BYTES_FIRST))
            self._needed = FRAME_BYTES

    @property
    def buffer_bytes(self) -> int:
        """Size of the receive buffer now."""
        return len(self._buffer)

    @property
    def bytes_pending(self) -> int:
        """Bytes received that are not part of a whole message yet."""
        return self._filled - self._parsed

    def received(self, size: int) -> None:
        """Tell that ``size`` bytes were written to the receive buffer; 0 means that the stream ended."""
        if size == 0:
            self._at_end = True
        self._filled += size

    @property
    def at_end(self) -> bool:
        """Whether the peer's stream ended."""
        return self._at_end

    def next_message(self) -> Message | None:
        """Return the next whole message, or None when more bytes are needed.

        Raises ``RemoteProtocolError`` for a malformed, oversized, unexpected or overdrawn frame, and when the stream
        ended inside one.
        """
        pending = self._filled - self._parsed
        if pending < FRAME_BYTES:
            self._needed = FRAME_BYTES
            self._check_not_cut(pending)
            return None
        length, kind_number, flags, code, request_id = FRAME.unpack_from(self._buffer, self._parsed)
        limit = self._frame_bytes_max
        if self.peer_state is self._state_before_first_frame:
            if kind_number not in self._first_kinds:
                text = f"the {self.role.other.value} does not speak the mqcore protocol: check the address"
                raise RemoteProtocolError(text, code=Code.NOT_THIS_PROTOCOL)
            limit = HELLO_BYTES_MAX
        if length > limit:
            raise RemoteProtocolError(f"frame of {length} bytes; at most {limit}", code=Code.FRAME_TOO_LARGE)
        if length > self._admin_bytes_max and kind_number == _CALL:
            raise RemoteProtocolError(
                f"call of {length} bytes; at most {self._admin_bytes_max} (limit admin_bytes_max)",
                code=Code.FRAME_TOO_LARGE,
            )
        size = FRAME_BYTES + length
        if pending < size:
            self._needed = size
            self._check_not_cut(pending)
            return None
        begin = self._parsed + FRAME_BYTES
        self._parsed += size
        self._needed = FRAME_BYTES
        head = FrameHead(length, kind_number, flags, code, request_id)
        message = decode(head, self._view[begin : begin + length])
        if kind_number in self._hot_kinds and self.peer_state is State.OPEN and self.own_state is State.OPEN:
            self._take_in_hot(kind_number, request_id, size, message)
        else:
            self._take_in(Kind(kind_number), request_id, size, message)
        return message

    def _take_in_hot(self, kind_number: int, request_id: int, size: int, message: Message) -> None:
        """What ``_take_in`` does for requests and replies of an open connection, which move no state."""
        if self.role is Role.BROKER:
            if not (kind_number == _PRODUCE and message.one_way):  # type: ignore[union-attr]
                self._spend(request_id, size)
        elif self._return(request_id) is None:
            raise RemoteProtocolError(f"a reply to request {request_id}, which nobody made", Code.UNEXPECTED_FRAME)

    def _check_not_cut(self, pending: int) -> None:
        if self._at_end and pending:
            raise RemoteProtocolError(f"the stream ended {pending} bytes into a frame", code=Code.MALFORMED_FRAME)

    def _take_in(self, kind: Kind, request_id: int, size: int, message: Message) -> None:
        states = next_states(self.role.other, self.peer_state, self.own_state, kind)
        if states is None:
            raise RemoteProtocolError(
                f"{kind.name.lower()} is not allowed while the {self.role.other.value} is {self.peer_state.value}",
                code=Code.UNEXPECTED_FRAME,
            )
        self.peer_state, self.own_state = states
        if kind in _REQUESTS:
            if not (kind is Kind.PRODUCE and message.one_way):  # type: ignore[union-attr]
                self._spend(request_id, size)
        elif kind in _REPLIES:
            if self._return(request_id) is None:
                raise RemoteProtocolError(f"a reply to request {request_id}, which nobody made", Code.UNEXPECTED_FRAME)
        elif isinstance(message, Hello):
            if not (message.version_min <= VERSION_MAX and message.version_max >= VERSION_MIN):
                raise RemoteProtocolError(
                    f"the client speaks versions {message.version_min} to {message.version_max} of the protocol, this "
                    f"broker {VERSION_MIN} to {VERSION_MAX}: use a client of the broker's release",
                    code=Code.VERSION,
                )
        elif isinstance(message, Welcome):
            if not VERSION_MIN <= message.version <= VERSION_MAX:
                raise RemoteProtocolError(
                    f"the broker chose version {message.version} of the protocol, this client speaks {VERSION_MIN} to "
                    f"{VERSION_MAX}: use a client of the broker's release",
                    code=Code.VERSION,
                )
            self.requests_in_flight_max = message.requests_in_flight_max
            self.bytes_in_flight_max = message.bytes_in_flight_max
            self.peer_frame_bytes_max = message.frame_bytes_max

    # credit

    def _spend(self, request_id: int, size: int) -> None:
        if request_id in self._in_flight:
            raise RemoteProtocolError(f"request id {request_id} is in flight already", code=Code.UNEXPECTED_FRAME)
        if len(self._in_flight) >= self.requests_in_flight_max:
            raise RemoteProtocolError(
                f"more than {self.requests_in_flight_max} requests in flight", code=Code.CREDIT_EXCEEDED
            )
        if self._in_flight and self._bytes_in_flight + size > self.bytes_in_flight_max:
            raise RemoteProtocolError(
                f"more than {self.bytes_in_flight_max} bytes in flight", code=Code.CREDIT_EXCEEDED
            )
        self._in_flight[request_id] = size
        self._bytes_in_flight += size

    def _return(self, request_id: int) -> int | None:
        size = self._in_flight.pop(request_id, None)
        if size is not None:
            self._bytes_in_flight -= size
        return size

    @property
    def requests_in_flight(self) -> int:
        """Requests that have no reply yet."""
        return len(self._in_flight)

    @property
    def bytes_in_flight(self) -> int:
        """Bytes of the requests that have no reply yet."""
        return self._bytes_in_flight

    def may_send(self, payload_bytes: int) -> bool:
        """Whether a request with about ``payload_bytes`` fits the credit now. One request alone always does."""
        if not self._in_flight:
            return True
        return (
            len(self._in_flight) < self.requests_in_flight_max
            and self._bytes_in_flight + payload_bytes + 64 <= self.bytes_in_flight_max
        )

    # sending

    def send(self, message: Message) -> list[Buffer]:
        """Return the bytes of ``message``, to be sent in this order, and move the state.

        Raises ``LocalProtocolError`` when it is not allowed now; then nothing changed.
        """
        if self.own_state is State.OPEN and type(message) is Produce and self.role is Role.CLIENT:
            buffers = encode(message)
            if not message.one_way:
                self._spend_own(message.request_id, len(buffers[0]) + len(buffers[1]))
            return buffers
        kind = _KIND_OF[type(message)]
        states = next_states(self.role, self.own_state, self.peer_state, kind)
        if states is None:
            raise LocalProtocolError(f"{kind.name.lower()} cannot be sent while {self.own_state.value}")
        if isinstance(message, Produce | Fetch | Call | Ping):
            buffers = encode(message)
            if not (isinstance(message, Produce) and message.one_way):
                self._spend_own(message.request_id, sum(map(len, buffers)))
        elif isinstance(message, Produced | Fetched | Result | Failed | Pong):
            if self._return(message.request_id) is None:
                raise LocalProtocolError(f"request {message.request_id} is not in flight")
            buffers = encode(message)
        else:
            buffers = encode(message)
        self.own_state, self.peer_state = states
        return buffers

    def send_produced(
        self, request_id: int, base_offset: int, epoch: int, duplicate: bool, copies: tuple[Copy, ...]
    ) -> bytes:
        """The same as ``send(Produced(...))``, for the broker's hot path."""
        if self._return(request_id) is None or self.own_state is not State.OPEN:
            raise LocalProtocolError(f"request {request_id} is not in flight")
        return encode_produced(request_id, base_offset, epoch, duplicate, copies)

    def _spend_own(self, request_id: int, size: int) -> None:
        if request_id in self._in_flight:
            raise LocalProtocolError(f"request id {request_id} is in flight already")
        if not self.may_send(size - 64):
            raise LocalProtocolError("the request does not fit the credit; ask may_send first")
        if size - FRAME_BYTES > self.peer_frame_bytes_max:
            raise LocalProtocolError(f"frame of {size} bytes; the peer takes {self.peer_frame_bytes_max}")
        self._in_flight[request_id] = size
        self._bytes_in_flight += size

    def send_failed(self) -> None:
        """Tell that what ``send`` returned could not be written: the connection is over."""
        self.own_state = State.CLOSED
