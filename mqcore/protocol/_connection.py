"""One connection as a pure state machine: bytes in, messages out, messages in, bytes out. No I/O, no clock, no trio.

Receiving, without a copy::

    size = await stream.receive_into(connection.receive_buffer())
    connection.received(size)                   # 0: the stream ended
    while (message := connection.next_message()) is not None:
        ...                                     # views in it are valid until the next receive_buffer()

Sending: ``await stream.send_buffers(connection.send(message))``. Broken rules raise: ``LocalProtocolError`` for this
side's, ``RemoteProtocolError`` (with the code to answer) for the peer's; after the latter the connection is over: the
error is raised again and again, and nothing but one ``Fatal`` can be sent.

Credit: the broker grants a number of requests and of bytes in flight; every request spends, its reply returns. A client
asks ``may_send`` first; a broker refuses the peer that overdraws. One-way sends are not counted: the broker takes them
in before it reads on, so the transport holds their writer up.
"""

from __future__ import annotations

from mqcore.errors import LocalProtocolError, RemoteProtocolError
from mqcore.guarantees import Copy
from mqcore.ports import Buffer
from mqcore.protocol._follow_messages import FollowKind
from mqcore.protocol._layout import FRAME_BYTES, HELLO_BYTES_MAX, LOGIN_BEGIN, TEXT_BYTES_MAX
from mqcore.protocol._machine import Machine
from mqcore.protocol._messages import KIND_OF, Hello, Kind, Message, Welcome
from mqcore.protocol._readers import DECODERS
from mqcore.protocol._receive_buffer import BUFFER_BYTES_BUSY
from mqcore.protocol._state import STEPS, Role, State
from mqcore.protocol._writers import ENCODERS, encode_produced
from mqcore.protocol.codes import Code

__all__ = ["VERSION_MAX", "VERSION_MIN", "Connection"]

VERSION_MIN = 2
"""Oldest version of the protocol that is spoken."""
VERSION_MAX = 2
"""Newest version of the protocol that is spoken."""

CREDIT_MARGIN_BYTES = 64
"""What ``may_send`` adds to a payload: more than any request's header and fixed part."""

_REQUESTS = frozenset({Kind.PRODUCE, Kind.FETCH, Kind.CALL, Kind.PING, Kind.SYNC, Kind.COMMIT})
_REPLIES = frozenset({Kind.PRODUCED, Kind.FETCHED, Kind.RESULT, Kind.FAILED, Kind.PONG, Kind.SYNCED, Kind.COMMITTED})
_ADMINISTRATIVE = (Kind.CALL, Kind.SYNC, Kind.COMMIT)
_PRODUCE = int(Kind.PRODUCE)
_PRODUCED = int(Kind.PRODUCED)


class Connection(Machine[Message]):
    """State of one connection, seen from ``role``.

    ``frame_bytes_max``: largest frame payload accepted from the peer. ``requests_in_flight_max`` and
    ``bytes_in_flight_max``: the credit that a broker grants (and enforces); a client learns them from the welcome.
    ``admin_bytes_max``: largest payload of a call or of what a group's member says, which takes many times its size
    once it is read.
    """

    _kind_of = KIND_OF
    _kinds = Kind
    _encoders = ENCODERS
    _decoders = DECODERS

    def __init__(
        self,
        role: Role,
        *,
        frame_bytes_max: int,
        requests_in_flight_max: int = 0,
        bytes_in_flight_max: int = 0,
        buffer_bytes_max: int = BUFFER_BYTES_BUSY,
        admin_bytes_max: int | None = None,
    ) -> None:
        self.role = role
        self.requests_in_flight_max = requests_in_flight_max
        self.bytes_in_flight_max = bytes_in_flight_max
        self.peer_frame_bytes_max = frame_bytes_max
        self._in_flight: dict[int, int] = {}
        self._bytes_in_flight = 0
        limits = dict.fromkeys(map(int, Kind), frame_bytes_max)
        limits.update({Kind.HELLO: HELLO_BYTES_MAX, Kind.WELCOME: HELLO_BYTES_MAX, Kind.FATAL: TEXT_BYTES_MAX})
        if admin_bytes_max is not None:
            limits.update(dict.fromkeys(_ADMINISTRATIVE, admin_bytes_max))
        super().__init__(
            STEPS[role],
            limits,
            own_name=role.value,
            peer_name=role.other.value,
            peer_state_first=State.START if role is Role.BROKER else State.GREETED,
            buffer_bytes_max=buffer_bytes_max,
        )

    # receiving

    def _on_received(self, kind: int, number: int, size: int, message: Message) -> None:
        if kind in _REQUESTS:
            # Credit is spent here and not in a function of its own: this runs for every frame.
            if kind == _PRODUCE and message.one_way:  # type: ignore[union-attr]
                return
            in_flight = self._in_flight
            if number in in_flight or len(in_flight) >= self.requests_in_flight_max:
                raise self._refusal_of_request(number)
            # One request alone always passes: a credit below the frame limit would else refuse a frame for ever.
            if in_flight and self._bytes_in_flight + size > self.bytes_in_flight_max:
                text = f"more than {self.bytes_in_flight_max} bytes in flight"
                raise RemoteProtocolError(text, code=Code.CREDIT_EXCEEDED)
            in_flight[number] = size
            self._bytes_in_flight += size
        elif kind in _REPLIES:
            spent = self._in_flight.pop(number, None)
            if spent is None:
                raise RemoteProtocolError(f"a reply to request {number}, which is not in flight", Code.UNEXPECTED_FRAME)
            self._bytes_in_flight -= spent
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
            limits = message.limits
            self.requests_in_flight_max = limits["requests_in_flight_max"]
            self.bytes_in_flight_max = limits["bytes_in_flight_max"]
            self.peer_frame_bytes_max = limits["frame_bytes_max"]

    def _unexpected(self, kind: int) -> RemoteProtocolError:
        if kind == LOGIN_BEGIN and self.role is Role.BROKER and self.peer_state is State.START:
            text = "this broker knows no users: connect without a user or a token, or configure its authenticators"
            return RemoteProtocolError(text, code=Code.UNKNOWN_MECHANISM)
        if kind == FollowKind.FOLLOW and self.role is Role.BROKER and self.peer_state is State.START:
            text = "a replica wants to follow, and this stream is for clients: this broker takes no replicas"
            return RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)
        return super()._unexpected(kind)

    def _too_large(self, kind: int, length: int) -> RemoteProtocolError:
        if kind not in _ADMINISTRATIVE or length > self._payload_bytes_max[Kind.PRODUCE]:
            return super()._too_large(kind, length)
        limit = self._payload_bytes_max[kind]
        text = f"{self._name(kind)} of {length} bytes; at most {limit} (limit admin_bytes_max)"
        return RemoteProtocolError(text, code=Code.FRAME_TOO_LARGE)

    # credit

    def _refusal_of_request(self, request_id: int) -> RemoteProtocolError:
        if request_id in self._in_flight:
            return RemoteProtocolError(f"request id {request_id} is in flight already", code=Code.UNEXPECTED_FRAME)
        return RemoteProtocolError(
            f"more than {self.requests_in_flight_max} requests in flight", code=Code.CREDIT_EXCEEDED
        )

    @property
    def requests_in_flight(self) -> int:
        """Requests that have no reply yet."""
        return len(self._in_flight)

    def may_send(self, payload_bytes: int) -> bool:
        """Whether a request with about ``payload_bytes`` fits the credit now. One request alone always does."""
        if not self._in_flight:
            return True
        return (
            len(self._in_flight) < self.requests_in_flight_max
            and self._bytes_in_flight + payload_bytes + CREDIT_MARGIN_BYTES <= self.bytes_in_flight_max
        )

    # sending

    def _on_sending(self, kind: int, message: Message, buffers: list[Buffer]) -> None:
        if kind in _REQUESTS:
            if not (kind == _PRODUCE and message.one_way):  # type: ignore[union-attr]
                self._spend_own(message.request_id, sum(map(len, buffers)))  # type: ignore[union-attr]
        elif kind in _REPLIES:
            self._return(message.request_id)  # type: ignore[union-attr]

    def send_produced(
        self, request_id: int, base_offset: int, epoch: int, duplicate: bool, copies: tuple[Copy, ...]
    ) -> bytes:
        """Return the bytes of a ``Produced``, as ``send`` does: for the hot path, where no message need be built."""
        in_flight = self._in_flight
        if request_id not in in_flight or _PRODUCED not in self._sends:
            raise LocalProtocolError(f"request {request_id} is not in flight on a stream that is open")
        self._bytes_in_flight -= in_flight.pop(request_id)
        return encode_produced(request_id, base_offset, epoch, duplicate, copies)

    def _return(self, request_id: int) -> None:
        size = self._in_flight.pop(request_id, None)
        if size is None:
            raise LocalProtocolError(f"request {request_id} is not in flight")
        self._bytes_in_flight -= size

    def _spend_own(self, request_id: int, size: int) -> None:
        if request_id in self._in_flight:
            raise LocalProtocolError(f"request id {request_id} is in flight already")
        if self._in_flight and (
            len(self._in_flight) >= self.requests_in_flight_max
            or self._bytes_in_flight + size > self.bytes_in_flight_max
        ):
            raise LocalProtocolError("the request does not fit the credit; ask may_send first")
        if size - FRAME_BYTES > self.peer_frame_bytes_max:
            raise LocalProtocolError(f"frame of {size} bytes; the peer takes {self.peer_frame_bytes_max}")
        self._in_flight[request_id] = size
        self._bytes_in_flight += size
