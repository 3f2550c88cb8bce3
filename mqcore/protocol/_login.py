"""A login: what a stream begins with where the client names itself, before its ``hello`` or ``follow``. No I/O.

Used as ``Connection`` is, and thrown away once it is over: ``accepted`` closes both sides, and what follows is
read by the machine of its first frame. Rules: the sides take turns, every frame is at most ``LOGIN_BYTES_MAX``, and
nothing may come behind the frame that the other side has to answer: before ``accepted`` nothing else is parsed. What a
mechanism's bytes mean is the authenticator's.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from mqcore.errors import RemoteProtocolError
from mqcore.ports import Buffer
from mqcore.protocol._connection import VERSION_MAX, VERSION_MIN
from mqcore.protocol._layout import LOGIN_BEGIN, PROTOCOL_MAGIC, frame, malformed, read_fixed, read_text
from mqcore.protocol._machine import Machine
from mqcore.protocol._messages import Fatal
from mqcore.protocol._readers import decode_fatal
from mqcore.protocol._state import Role, State, steps_of
from mqcore.protocol._writers import encode_fatal
from mqcore.protocol.codes import Code

__all__ = [
    "LOGIN_BYTES_MAX",
    "LOGIN_TRANSITIONS",
    "Accepted",
    "AuthResponse",
    "Challenge",
    "Login",
    "LoginBegin",
    "LoginKind",
    "LoginMessage",
    "Mechanism",
]

LOGIN_BYTES_MAX = 4096
"""Largest payload of any frame of a login."""
MECHANISMS_MAX = 16
MECHANISM_NAME_BYTES_MAX = 64
_BEGIN = struct.Struct("<8sHH")


class LoginKind(enum.IntEnum):
    """Number of a message kind in the frame header."""

    FATAL = 13
    LOGIN_BEGIN = LOGIN_BEGIN
    MECHANISM = 49
    AUTH_RESPONSE = 50
    CHALLENGE = 51
    ACCEPTED = 52


class LoginBegin(NamedTuple):
    """First frame of a client that names itself: the mechanisms that it can use, the best first."""

    version_min: int
    version_max: int
    mechanisms: tuple[str, ...]


class Mechanism(NamedTuple):
    """The broker's choice among them."""

    name: str


class AuthResponse(NamedTuple):
    """What the client says in its turn."""

    data: bytes

    def __repr__(self) -> str:
        return f"AuthResponse(<{len(self.data)} bytes>)"  # it may be a secret


class Challenge(NamedTuple):
    """What the broker says in its turn, while it is not satisfied."""

    data: bytes


class Accepted(NamedTuple):
    """The client is ``principal``; ``data`` is the mechanism's last word, by which some brokers prove themselves."""

    principal: str
    data: bytes


LoginMessage: TypeAlias = LoginBegin | Mechanism | AuthResponse | Challenge | Accepted | Fatal
"""What ``Login`` takes and gives: one frame each."""

_NOT_CLOSED = tuple(state for state in State if state is not State.CLOSED)

LOGIN_TRANSITIONS: dict[tuple[Role, State, LoginKind], State] = {
    (Role.CLIENT, State.START, LoginKind.LOGIN_BEGIN): State.GREETED,
    (Role.CLIENT, State.OPEN, LoginKind.AUTH_RESPONSE): State.GREETED,
    **{(Role.CLIENT, state, LoginKind.FATAL): State.CLOSED for state in _NOT_CLOSED if state is not State.START},
    (Role.BROKER, State.GREETED, LoginKind.MECHANISM): State.OPEN,
    (Role.BROKER, State.ENDED, LoginKind.CHALLENGE): State.OPEN,
    (Role.BROKER, State.ENDED, LoginKind.ACCEPTED): State.CLOSED,
    **{(Role.BROKER, state, LoginKind.FATAL): State.CLOSED for state in _NOT_CLOSED},
}
"""The state after sending a frame of a kind. ``open``: the client's turn; ``ended``: the broker's, after a response."""

_TIES = {
    LoginKind.LOGIN_BEGIN: State.GREETED,
    LoginKind.MECHANISM: State.OPEN,
    LoginKind.AUTH_RESPONSE: State.ENDED,
    LoginKind.CHALLENGE: State.OPEN,
    LoginKind.ACCEPTED: State.CLOSED,
}
_STEPS = {role: steps_of(role, role.other, LOGIN_TRANSITIONS, _TIES) for role in Role}


def _encode_begin(message: LoginBegin) -> list[Buffer]:
    fixed = _BEGIN.pack(PROTOCOL_MAGIC, message.version_min, message.version_max)
    return frame(LoginKind.LOGIN_BEGIN, fixed + " ".join(message.mechanisms).encode())


def _encode_accepted(message: Accepted) -> list[Buffer]:
    name = message.principal.encode()
    return frame(LoginKind.ACCEPTED, struct.pack("<H", len(name)) + name + message.data)


def _decode_begin(flags: int, code: int, number: int, payload: memoryview) -> LoginBegin:
    magic, version_min, version_max = read_fixed(_BEGIN, payload, "login")
    if magic != PROTOCOL_MAGIC:
        raise RemoteProtocolError("the peer does not speak the mqcore protocol", code=Code.NOT_THIS_PROTOCOL)
    if not (version_min <= VERSION_MAX and version_max >= VERSION_MIN):
        raise RemoteProtocolError(
            f"the client speaks versions {version_min} to {version_max} of the protocol, this broker {VERSION_MIN} to "
            f"{VERSION_MAX}: use a client of the broker's release",
            code=Code.VERSION,
        )
    names = tuple(read_text(payload[_BEGIN.size :], "the names of mechanisms").split(" "))
    if not 1 <= len(names) <= MECHANISMS_MAX or any(not 1 <= len(name) <= MECHANISM_NAME_BYTES_MAX for name in names):
        raise malformed(
            f"a login names 1 to {MECHANISMS_MAX} mechanisms of 1 to {MECHANISM_NAME_BYTES_MAX} characters each"
        )
    return LoginBegin(version_min, version_max, names)


def _decode_mechanism(flags: int, code: int, number: int, payload: memoryview) -> Mechanism:
    return Mechanism(read_text(payload, "the name of a mechanism"))


def _decode_accepted(flags: int, code: int, number: int, payload: memoryview) -> Accepted:
    (size,) = read_fixed(struct.Struct("<H"), payload, "accepted")
    if len(payload) < 2 + size:
        raise malformed(f"accepted with a name of {size} bytes in a frame of {len(payload)}")
    return Accepted(read_text(payload[2 : 2 + size], "the principal"), bytes(payload[2 + size :]))


_ENCODERS: dict[int, Callable[[Any], list[Buffer]]] = {
    LoginKind.FATAL: encode_fatal,
    LoginKind.LOGIN_BEGIN: _encode_begin,
    LoginKind.MECHANISM: lambda message: frame(LoginKind.MECHANISM, message.name.encode()),
    LoginKind.AUTH_RESPONSE: lambda message: frame(LoginKind.AUTH_RESPONSE, bytes(message.data)),
    LoginKind.CHALLENGE: lambda message: frame(LoginKind.CHALLENGE, bytes(message.data)),
    LoginKind.ACCEPTED: _encode_accepted,
}
_DECODERS: dict[int, Callable[[int, int, int, memoryview], LoginMessage]] = {
    LoginKind.FATAL: decode_fatal,
    LoginKind.LOGIN_BEGIN: _decode_begin,
    LoginKind.MECHANISM: _decode_mechanism,
    LoginKind.AUTH_RESPONSE: lambda flags, code, number, payload: AuthResponse(bytes(payload)),
    LoginKind.CHALLENGE: lambda flags, code, number, payload: Challenge(bytes(payload)),
    LoginKind.ACCEPTED: _decode_accepted,
}
_KIND_OF: Mapping[type, LoginKind] = {
    LoginBegin: LoginKind.LOGIN_BEGIN,
    Mechanism: LoginKind.MECHANISM,
    AuthResponse: LoginKind.AUTH_RESPONSE,
    Challenge: LoginKind.CHALLENGE,
    Accepted: LoginKind.ACCEPTED,
    Fatal: LoginKind.FATAL,
}


class Login(Machine[LoginMessage]):
    """State of one login, seen from ``role``."""

    _kind_of = _KIND_OF
    _kinds = LoginKind
    _encoders = _ENCODERS
    _decoders = _DECODERS

    def __init__(self, role: Role) -> None:
        super().__init__(
            _STEPS[role],
            dict.fromkeys(map(int, LoginKind), LOGIN_BYTES_MAX),
            own_name=role.value,
            peer_name=role.other.value,
            peer_state_first=State.START if role is Role.BROKER else State.GREETED,
            buffer_bytes_max=2 * LOGIN_BYTES_MAX,
        )

    def _on_received(self, kind: int, number: int, size: int, message: LoginMessage) -> None:
        if self.bytes_pending and kind != LoginKind.FATAL:
            text = f"{self.bytes_pending} bytes behind a frame that has to be answered first"
            raise RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)

    def _on_sending(self, kind: int, message: LoginMessage, buffers: list[Buffer]) -> None:
        """Nothing is accounted for: the table says all."""
