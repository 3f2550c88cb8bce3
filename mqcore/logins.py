"""The client's end of logins: a transport whose links log in on their streams before anything else is said on them.

One wrapper for all who connect: clients, nodes that ask one another, replicas. Must not know what is said afterwards,
nor how any mechanism works.
"""

from __future__ import annotations

import weakref

import attrs
import trio

from mqcore.abc import (
    ByteStream,
    Credentials,
    Link,
    LoginClient,
    LoginRefusedError,
    Transport,
)
from mqcore.errors import BrokenLinkError, ConfigurationError, PluginInvalidError, RemoteProtocolError
from mqcore.links import PassThroughLink, PassThroughTransport
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Accepted,
    AuthResponse,
    Challenge,
    Code,
    Fatal,
    Login,
    LoginBegin,
    LoginMessage,
    Mechanism,
    Role,
)
from mqcore.registry import find, installed

__all__ = ["transport_as"]

_TURNS_MAX = 8
_OF_SOMEBODY = frozenset({Code.LOGIN_FAILED, Code.TOO_MANY_LOGINS})
"""Refusals that are about who logs in, not about how."""


def transport_as(credentials: Credentials | None, transport: Transport) -> Transport:
    """Return ``transport``, whose links log in with ``credentials`` where there are some.

    Raises ``ConfigurationError`` when they fit no mechanism that is installed, or are a token for a link that others
    on the way could read.
    """
    if credentials is None:
        return transport
    abilities = transport.capabilities
    if not (abilities.encrypted or abilities.local_only or transport.is_loopback):
        if credentials.password is None:
            raise ConfigurationError(
                f"{transport.url}: a token is sent as it is, and this link is not encrypted: use tls:// or a password"
            )
        # Not offered beside the password either: the other end, or whoever is in between, chooses among what is.
        credentials = attrs.evolve(credentials, token=None)
    mechanisms = tuple(_clients(credentials))
    if not mechanisms:
        raise ConfigurationError(f"no mechanism takes these credentials: {credentials}")
    return _LoginTransport(transport, credentials)


def _clients(credentials: Credentials) -> dict[str, LoginClient]:
    """Return the client's end by mechanism, of those that can use ``credentials``; a password before a token."""
    found: dict[str, LoginClient] = {}
    for part in installed("authenticators"):
        try:
            client = find("authenticators", part.name).client(credentials)
        except PluginInvalidError:
            continue  # another part's defect: the broker says if it was the one that was needed
        if client is not None:
            found[part.name] = client
    return found


class _LoginTransport(PassThroughTransport):
    """Connects as ``inner`` does, as somebody. Who listens is told by the other end who that is."""

    def __init__(self, inner: Transport, credentials: Credentials) -> None:
        super().__init__(inner)
        self._credentials = credentials

    async def connect(self) -> Link:
        """Connect; the login is on the link's first stream, or on each where a link has no others."""
        link = await self.inner.connect()
        return _LoginLink(link, self._credentials, self.inner)


class _LoginLink(PassThroughLink):
    def __init__(self, inner: Link, credentials: Credentials, transport: Transport) -> None:
        super().__init__(inner)
        self._credentials = credentials
        self._transport = transport
        self._known: weakref.WeakSet[object] = weakref.WeakSet()
        self._turn = trio.Lock()

    @property
    def _as_whom(self) -> str:
        """Whom this end said that it is: the broker's answer does not tell a user that is not from a wrong password."""
        user = self._credentials.user
        return " (with a token)" if user is None else f" (user {user!r})"

    async def open_stream(self) -> ByteStream:
        """Open a stream on which this end is known. Raises ``RemoteProtocolError`` when the broker refuses it."""
        # One after the other: a stream that is opened while another logs in would be taken for one without a login.
        async with self._turn:
            stream = await self.inner.open_stream()
            connection = self.inner.connection_of(stream)
            if connection in self._known:
                return stream
            try:
                timeout_s = self._transport.context.limits.handshake_timeout_ms / 1000
                with trio.fail_after(timeout_s):
                    await _log_in(stream, self._credentials)
            except BaseException as error:
                await trio.aclose_forcefully(stream)
                if isinstance(error, trio.TooSlowError):
                    raise BrokenLinkError(f"{self._transport.url}: no answer to the login in time") from None
                if isinstance(error, LoginRefusedError):
                    text = f"{self._transport.url}: {error}{self._as_whom}"
                    raise RemoteProtocolError(text, code=Code.LOGIN_FAILED) from None
                if isinstance(error, RemoteProtocolError) and error.code in _OF_SOMEBODY:
                    raise RemoteProtocolError(f"{error}{self._as_whom}", code=error.code) from None
                raise
            # Identity belongs to the connection: its further streams are this one's.
            if self._transport.capabilities.multiplexed:
                self._known.add(connection)
            return stream


async def _log_in(stream: ByteStream, credentials: Credentials) -> None:
    machine = Login(Role.CLIENT)
    clients = _clients(credentials)
    try:
        await stream.send_buffers(machine.send(LoginBegin(VERSION_MIN, VERSION_MAX, tuple(clients))))
        chosen = await _receive(stream, machine)
        if not isinstance(chosen, Mechanism) or chosen.name not in clients:
            raise LoginRefusedError("the broker chose a mechanism that was not offered")
        client = clients[chosen.name]
        response = client.begin()
        for _ in range(_TURNS_MAX):
            await stream.send_buffers(machine.send(AuthResponse(response)))
            message = await _receive(stream, machine)
            if isinstance(message, Accepted):
                client.finish(message.data)
                return
            assert isinstance(message, Challenge)
            response = client.answer(message.data)
        raise LoginRefusedError(f"the broker has not decided after {_TURNS_MAX} turns")
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise BrokenLinkError(f"the connection broke during the login: {error}") from error


async def _receive(stream: ByteStream, machine: Login) -> LoginMessage:
    while (message := machine.next_message()) is None:
        if machine.at_end:
            raise BrokenLinkError("the server hung up during the login: is it a broker of mqcore?")
        machine.received(await stream.receive_into(machine.receive_buffer()))
    if isinstance(message, Fatal):
        raise RemoteProtocolError(f"the server refused the connection: {message.text}", code=message.code)
    return message
