"""What every framed stream has in common: bytes in, messages out, messages in, bytes out, by a table of states.

A machine is a ``ReceiveBuffer`` with a table of steps, decoders and encoders; credit and what a message means are the
subclass's. Rule: after a broken rule nothing is parsed any more. Must not know of any particular kind but ``fatal``.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from mqcore.errors import LocalProtocolError, RemoteProtocolError
from mqcore.ports import Buffer
from mqcore.protocol._layout import FRAME, FRAME_BYTES
from mqcore.protocol._receive_buffer import ReceiveBuffer
from mqcore.protocol._state import State, Steps
from mqcore.protocol.codes import Code

__all__ = ["Machine"]

M = TypeVar("M")

_BROKEN = (State.ERROR, State.ERROR)
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
"""What an alert and a handshake of TLS begin with, whatever its version (RFC 8446 section 5.1)."""


class Machine(ReceiveBuffer, Generic[M]):
    """One stream, seen from one end. Subclasses say what a frame costs and means (``_on_received``, ``_on_sending``).

    ``error`` is the rule that the peer broke, once it did.
    """

    # Set by the subclass: kind by type of message, and how its bytes are written and read.
    _kind_of: Mapping[type, int]
    _kinds: type[enum.IntEnum]
    _encoders: Mapping[int, Callable[[Any], list[Buffer]]]
    _decoders: Mapping[int, Callable[[int, int, int, memoryview], M]]

    def __init__(
        self,
        steps: Mapping[tuple[State, State], Steps],
        payload_bytes_max: Mapping[int, int],
        *,
        own_name: str,
        peer_name: str,
        peer_state_first: State,
        buffer_bytes_max: int,
    ) -> None:
        super().__init__(FRAME_BYTES, buffer_bytes_max)
        self.error: RemoteProtocolError | None = None
        self._own_name = own_name
        self._peer_name = peer_name
        self._peer_state_first = peer_state_first
        self._steps = steps
        self._payload_bytes_max = payload_bytes_max
        self._enter((State.START, State.START))

    def _enter(self, states: tuple[State, State]) -> None:
        self._states = states
        self.own_state, self.peer_state = states
        self._sends, self._receives = self._steps[states]

    # receiving

    def next_message(self) -> M | None:
        """Return the next whole message, or None when more bytes are needed.

        Raises ``RemoteProtocolError`` for a malformed, oversized, unexpected or overdrawn frame, and when the stream
        ended inside one; from then on every call raises the same error, whatever else arrived.
        """
        if self.error is not None:
            raise self.error
        try:
            pending = self._filled - self._parsed
            if pending < FRAME_BYTES:
                self._needed = FRAME_BYTES
                if self._at_end and pending:
                    raise self._cut(pending)
                return None
            length, kind, flags, code, number = FRAME.unpack_from(self._buffer, self._parsed)
            # Kind and length are judged before the payload is there: who announces nonsense is not waited for.
            states = self._receives.get(kind)
            if states is None:
                raise self._unexpected(kind)
            if length > self._payload_bytes_max[kind]:
                raise self._too_large(kind, length)
            size = FRAME_BYTES + length
            if pending < size:
                self._needed = size
                if self._at_end:
                    raise self._cut(pending)
                return None
            begin = self._parsed + FRAME_BYTES
            self._parsed += size
            self._needed = FRAME_BYTES
            message = self._decoders[kind](flags, code, number, self._view[begin : begin + length])
            if states != self._states:
                self._enter(states)
            self._on_received(kind, number, size, message)
        except RemoteProtocolError as error:
            self._break(error)
            raise
        return message

    def _on_received(self, kind: int, number: int, size: int, message: M) -> None:
        """Account for a message of ``size`` bytes; ``number`` is the last field of its header."""
        raise NotImplementedError

    def _break(self, error: RemoteProtocolError) -> None:
        self.error = error
        self._drop_received()
        if self.own_state is not State.CLOSED:
            self._enter(_BROKEN)

    def _cut(self, pending: int) -> RemoteProtocolError:
        return RemoteProtocolError(f"the stream ended {pending} bytes into a frame", code=Code.MALFORMED_FRAME)

    def _unexpected(self, kind: int) -> RemoteProtocolError:
        """Why a frame of ``kind`` is refused: the table does not have it now."""
        if self.peer_state is self._peer_state_first:
            return self._foreign()
        if kind not in self._decoders:
            return RemoteProtocolError(f"unknown frame kind {kind}", code=Code.MALFORMED_FRAME)
        return RemoteProtocolError(
            f"{self._name(kind)} is not allowed while the {self._peer_name} is {self.peer_state.value}",
            code=Code.UNEXPECTED_FRAME,
        )

    def _foreign(self) -> RemoteProtocolError:
        """Why the first frame is refused: it is no frame of this protocol."""
        if self._is_tls():
            text = f"the {self._peer_name} speaks TLS and this end does not: use tls:// on both ends, or on neither"
        else:
            text = f"the {self._peer_name} does not speak the mqcore protocol: check the address"
        return RemoteProtocolError(text, code=Code.NOT_THIS_PROTOCOL)

    def _is_tls(self) -> bool:
        return bytes(self._view[self._parsed : self._parsed + 2]) in _TLS_RECORDS

    def _name(self, kind: int) -> str:
        return self._kinds(kind).name.lower().replace("_", "-")

    def _too_large(self, kind: int, length: int) -> RemoteProtocolError:
        if self.peer_state is self._peer_state_first and self._is_tls():
            return self._foreign()
        limit = self._payload_bytes_max[kind]
        return RemoteProtocolError(f"frame of {length} bytes; at most {limit}", code=Code.FRAME_TOO_LARGE)

    # sending

    def send(self, message: M) -> list[Buffer]:
        """Return the bytes of ``message``, to be sent in this order, and move the state.

        Raises ``LocalProtocolError`` when it is not allowed now; then nothing changed. It leaves the stream as it is,
        unlike the peer's errors: not a byte of it was written, so the peer has seen no rule broken.
        """
        kind = self._kind_of[type(message)]
        states = self._sends.get(kind)
        if states is None:
            raise LocalProtocolError(
                f"{self._name(kind)} cannot be sent while the {self._own_name} is {self.own_state.value}"
            )
        buffers = self._encoders[kind](message)
        self._on_sending(kind, message, buffers)
        if states != self._states:
            self._enter(states)
        return buffers

    def _on_sending(self, kind: int, message: M, buffers: list[Buffer]) -> None:
        """Account for ``message``, or raise ``LocalProtocolError`` before anything changed."""
        raise NotImplementedError
