"""Calls to the servers of an ensemble: members in turn, connections kept between calls, and what a failure means.

What coordinators and offset stores over a network have in common. A connection carries one exchange at a time, and one
whose exchange did not end in order is closed: an answer that is still on its way could be taken for that of another
call. Whether a write may have been applied is decided here. Must not know of any server's protocol.
"""

from __future__ import annotations

import select
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import attrs
import trio
from trio import socket as tsocket

from mqcore.abc import CellWrite, CoordinatorCell, CoordinatorContext, OffsetStoreContext, Url
from mqcore.errors import (
    ConfigurationError,
    CoordinatorConflictError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
    CoordinatorWentBackError,
    MqcoreError,
    OffsetStoreFencedError,
    OffsetStoreForeignError,
    OffsetStoreOutcomeUnknownError,
    OffsetStoreUnavailableError,
)

__all__ = [
    "COORDINATOR_ERRORS",
    "OFFSET_STORE_ERRORS",
    "Ensemble",
    "EnsembleErrors",
    "EnsembleMember",
    "Revision",
    "ServerConnection",
    "ServerFailureError",
    "ServerRefusalError",
    "cell_after",
    "client_tls",
    "is_readable",
    "open_stream",
    "parse_ensemble",
    "read_secret",
]

IDLE_CONNECTIONS_MAX = 4
"""Connections kept between calls; more are open only while more calls run beside each other."""
PAUSE_S_FIRST, PAUSE_S_MAX = 0.05, 2.0
"""Pause of a watch before it connects again: at first, and after enough failures in a row."""
SECRET_BYTES_MAX = 4_096

# A server that is cut off without a word is noticed by the kernel: a watch only listens and would wait for ever.
_KEEPALIVE = (
    (tsocket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (tsocket.IPPROTO_TCP, "TCP_NODELAY", 1),
    (tsocket.IPPROTO_TCP, "TCP_KEEPIDLE", 2),
    (tsocket.IPPROTO_TCP, "TCP_KEEPINTVL", 1),
    (tsocket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
    (tsocket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 5_000),
)

T = TypeVar("T")


@attrs.frozen
class EnsembleMember:
    """Where one server of an ensemble listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class ServerFailureError(Exception):
    """A connection is of no more use: closed, not opened, or its server wrote what it must not. Stays in the part."""


class ServerRefusalError(Exception):
    """A server answered in order that it did not do what it was asked. Stays in the part.

    ``sure``: what was asked is certainly not applied and never will be. ``elsewhere``: another member may do it.
    """

    def __init__(self, text: str, *, sure: bool, elsewhere: bool) -> None:
        super().__init__(text)
        self.sure = sure
        self.elsewhere = elsewhere


class ServerConnection(ABC):
    """An open connection to a member. ``sent``: whether a byte of the present exchange may have reached the server."""

    sent = False

    @abstractmethod
    def is_usable(self) -> bool:
        """Whether it can carry another exchange, as far as this side knows. Does no I/O that could wait."""

    @abstractmethod
    def close(self) -> None:
        """Close it at once, without a word to the server. Idempotent."""


@attrs.frozen(kw_only=True)
class EnsembleErrors:
    """What a contract calls what may become of a call.

    ``unreachable``: not done and never will be. ``unknown``: a write was sent and not answered; ``settled_by`` says
    what a caller does then. ``answers``: errors that are answers like any other, after which a connection goes on.
    """

    unreachable: type[MqcoreError]
    unknown: type[MqcoreError]
    settled_by: str
    answers: tuple[type[MqcoreError], ...]


COORDINATOR_ERRORS = EnsembleErrors(
    unreachable=CoordinatorUnreachableError,
    unknown=CoordinatorOutcomeUnknownError,
    settled_by="write again with the same expectation",
    answers=(CoordinatorConflictError, CoordinatorWentBackError),
)
"""Those of a coordinator."""
OFFSET_STORE_ERRORS = EnsembleErrors(
    unreachable=OffsetStoreUnavailableError,
    unknown=OffsetStoreOutcomeUnknownError,
    settled_by="the same commit again, or the next one, settles it",
    answers=(OffsetStoreFencedError, OffsetStoreForeignError),
)
"""Those of an offset store."""

C = TypeVar("C", bound=ServerConnection)
_FAILURES = (ServerFailureError, OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError)


class Ensemble(Generic[C]):
    """The members behind one URL. ``open_connection`` connects to one and is cancelled when that takes too long."""

    def __init__(
        self,
        url: Url,
        members: list[EnsembleMember],
        context: CoordinatorContext | OffsetStoreContext,
        open_connection: Callable[[EnsembleMember], Awaitable[C]],
        errors: EnsembleErrors = COORDINATOR_ERRORS,
    ) -> None:
        self._errors = errors
        self._where = f"{url.scheme}://{','.join(map(str, members))}"
        self._members = members
        self._random = context.ports.random
        self._timeout_s = context.call_timeout_ms / 1000
        self._open_connection = open_connection
        # Nodes that are configured alike must not all ask the first member.
        self._at = self._random.randrange(len(members))
        self._idle: list[tuple[int, C]] = []
        self._open: set[C] = set()
        self._closed = False

    async def call(self, what: str, exchange: Callable[[C], Awaitable[T]], *, writes: bool = False) -> T:
        """Return what ``exchange`` returns over a connection to some member; ``what`` names the call in errors.

        A member that fails is passed over, and what was asked is asked of the next one: of a call that ``writes`` only
        while nothing can have been applied. Raises ``errors.unreachable``, and with ``writes`` ``errors.unknown``;
        passes on ``errors.answers``. If cancelled, or failed, the connection is closed.
        """
        deadline = trio.current_time() + self._timeout_s
        problems: list[str] = []
        for left in range(len(self._members), 0, -1):
            if self._closed:
                raise self._errors.unreachable(f"{self._where}: {what}: it was closed")
            now = trio.current_time()
            # A member that takes connections and never answers may cost its share only, or one frozen member of three
            # would use up the time of every read.
            share = now + (deadline - now) / left
            member = self._at
            try:
                return await self._attempt(member, exchange, share, deadline if writes else share)
            except _NotDoneError as error:
                problem = f"{self._members[member]}: {error}"
                if writes and not error.sure:
                    raise self._errors.unknown(
                        f"{self._where}: {what}: sent, and what became of it is not known ({problem}): it may be "
                        f"applied later still; {self._errors.settled_by}"
                    ) from error.__cause__
                problems.append(problem)
                if not error.elsewhere:
                    break
        raise self._errors.unreachable(
            f"{self._where}: {what}: not done ({'; '.join(problems)}): check the servers, and what the URL says of them"
        )

    async def _attempt(
        self, member: int, exchange: Callable[[C], Awaitable[T]], connect_until: float, until: float
    ) -> T:
        connection = self._kept(member)
        done = False
        try:
            if connection is None:
                with trio.fail_at(connect_until):
                    connection = await self._open_to(member)
            connection.sent = False
            with trio.fail_at(until):
                result = await exchange(connection)
            done = True
            return result
        except self._errors.answers:
            done = True  # an answer like any other
            raise
        except ServerRefusalError as refusal:
            self._leave(member)
            raise _NotDoneError(str(refusal), refusal.sure, refusal.elsewhere) from refusal
        except trio.Cancelled:
            self._leave(member)  # whom the caller may have waited for in vain
            raise
        except _FAILURES as error:
            self._leave(member)
            sent = connection is not None and connection.sent
            raise _NotDoneError(_in_words(error), sure=not sent, elsewhere=True) from error
        finally:
            if connection is not None:
                if done and len(self._idle) < IDLE_CONNECTIONS_MAX and not self._closed:
                    self._idle.append((member, connection))
                else:
                    self._close(connection)

    def _kept(self, member: int) -> C | None:
        """Take a connection to ``member`` that was kept; those that cannot be used any more are closed."""
        found: C | None = None
        for kept in list(self._idle):
            place, connection = kept
            usable = place == member and connection.is_usable()
            if usable and found is not None:
                continue
            self._idle.remove(kept)
            if usable:
                found = connection
            else:
                self._close(connection)
        return found

    async def _open_to(self, member: int) -> C:
        connection = await self._open_connection(self._members[member])
        self._open.add(connection)
        if self._closed:
            self._close(connection)
            raise ServerFailureError("it was closed")
        return connection

    def _close(self, connection: C) -> None:
        self._open.discard(connection)
        connection.close()

    def _leave(self, member: int) -> None:
        """Ask the next member from now on, unless a call that ran beside this one has already gone there."""
        if self._at == member:
            self._at = (member + 1) % len(self._members)

    async def watch(self, follow: Callable[[C], Awaitable[None]], changed: Callable[[], None]) -> None:
        """Run ``follow`` over a connection of its own, again and again, until cancelled.

        ``changed`` is called at once; ``follow`` calls it when it listens, and for each change. Raises nothing.
        """
        changed()
        pause_s = PAUSE_S_FIRST
        member = self._at
        while True:
            began = trio.current_time()
            connection: C | None = None
            try:
                with trio.fail_after(self._timeout_s):
                    connection = await self._open_to(member)
                await follow(connection)
            except (*_FAILURES, ServerRefusalError):
                member = (member + 1) % len(self._members)
            finally:
                if connection is not None:
                    self._close(connection)
            # A server that takes the connection and ends it at once is no better than one that takes none.
            if trio.current_time() - began > PAUSE_S_MAX:
                pause_s = PAUSE_S_FIRST
            await trio.sleep(pause_s * self._random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, PAUSE_S_MAX)

    def error_text(self, what: str, text: str) -> str:
        """Return ``text`` with the members and the call before it, as every error of a call says."""
        return f"{self._where}: {what}: {text}"

    def conflict(self, what: str) -> CoordinatorConflictError:
        """Return the error of a write whose expectation did not hold."""
        return CoordinatorConflictError(
            f"{self._where}: {what}: the cells are not what it expected; read them again, then decide anew"
        )

    def close(self) -> None:
        """Close every connection; exchanges under way fail. Idempotent."""
        self._closed = True
        self._idle.clear()
        for connection in list(self._open):
            self._close(connection)


class Revision:
    """The highest number seen of those that a server's state never takes back, and what a lower one means (R14)."""

    def __init__(self, url: Url) -> None:
        self._url = url
        self.highest = 0

    def check(self, what: str, shown: int, highest_before: int) -> None:
        """Take in a number that an answer shows; ``highest_before``: ``highest`` when the call began.

        Calls run beside each other, so an answer may show less than one that overtook it; less than was known before
        its call began it may not. Raises ``CoordinatorWentBackError``.
        """
        self.highest = max(self.highest, shown)
        if shown < highest_before:
            raise CoordinatorWentBackError(
                f"{self._url.scheme}://{self._url.rest}: {what}: at revision {shown}, after {highest_before}: an older "
                "state was restored; restart the nodes of the set, then run mqcore cluster recover NODE"
            )


class _NotDoneError(Exception):
    def __init__(self, text: str, sure: bool, elsewhere: bool) -> None:
        super().__init__(text)
        self.sure = sure
        self.elsewhere = elsewhere


def _in_words(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError):
        return "no answer in time"
    if isinstance(error, trio.ClosedResourceError):
        return "the connection was closed here"
    if isinstance(error, trio.BrokenResourceError):
        return f"the connection broke ({error.__cause__ or error})"
    return str(error) or type(error).__name__


def parse_ensemble(url: Url, default_port: int, default_path: str) -> tuple[list[EnsembleMember], str]:
    """Return the members and the path, without its first slash, of ``SCHEME://HOST[:PORT],HOST[:PORT].../PATH``.

    Raises ``ConfigurationError`` that names the URL; but not a URL with a password in it, which must not be logged.
    """
    authority, _, path = url.rest.partition("/")
    if "@" in authority:
        raise ConfigurationError(
            f"{url.scheme}://...@{authority.rpartition('@')[2]}: a URL has no user or password: it is shown in logs; "
            "use the options user and password_file"
        )
    members = []
    for text in authority.split(","):
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            host, port = text, str(default_port)
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or "[" in host:
            raise ConfigurationError(
                f"{url}: {text!r} is not HOST:PORT; write {url.scheme}://HOST:PORT,HOST:PORT/{default_path}"
            )
        members.append(EnsembleMember(host, int(port)))
    if len(set(members)) < len(members):
        raise ConfigurationError(f"{url}: a server is listed twice; list every server of the ensemble once")
    return members, path.strip("/") or default_path


def read_secret(option: str, path: str | None) -> str:
    """Return the first line of a file that holds a password; empty when there is no ``path``.

    Raises ``ConfigurationError`` that names the ``option`` and the path, never what the file holds.
    """
    if path is None:
        return ""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(SECRET_BYTES_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(f"{option} = {path!r} cannot be read: {reason}") from None
    secret = text.split("\n", 1)[0].removesuffix("\r")
    if not secret or len(text) > SECRET_BYTES_MAX:
        raise ConfigurationError(
            f"{option} = {path!r}: expected a password in its first line, the file at most {SECRET_BYTES_MAX} bytes"
        )
    return secret


def client_tls(ca_file: str | None, certificate_file: str | None, key_file: str | None) -> ssl.SSLContext:
    """Return how a client checks a server's certificate and shows its own, if it has one.

    Without ``ca_file`` the system's authorities count. Raises ``ConfigurationError`` that names the files.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if certificate_file is not None:
            context.load_cert_chain(certificate_file, key_file)
    except OSError as error:
        named = ", ".join(name for name in (ca_file, certificate_file, key_file) if name)
        raise ConfigurationError(f"TLS with {named}: {error}; check that these are PEM files that match") from None
    return context


async def open_stream(
    member: EnsembleMember, tls: ssl.SSLContext | None
) -> trio.SocketStream | trio.SSLStream[trio.SocketStream]:
    """Connect to ``member``, over TLS if told. Raises ``OSError``, ``trio.BrokenResourceError``.

    If cancelled, nothing stays open.
    """
    stream = await trio.open_tcp_stream(member.host, member.port)
    try:
        for level, name, value in _KEEPALIVE:
            option = getattr(tsocket, name, None)
            if option is not None:
                stream.socket.setsockopt(level, option, value)
        if tls is None:
            return stream
        secured = trio.SSLStream(stream, tls, server_hostname=member.host, https_compatible=True)
        await secured.do_handshake()
        return secured
    except BaseException:
        stream.socket.close()
        raise


def is_readable(descriptor: int) -> bool:
    """Whether there is something to read at a socket, or it is closed: its end, or bytes that no exchange asked for.

    A kept connection of which this is true is of no more use. Without this look a server's restart would cost the next
    write its certainty.
    """
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def cell_after(before: CoordinatorCell, write: CellWrite | None) -> CoordinatorCell:
    """Return a cell as a write that was applied left it."""
    return before if write is None else CoordinatorCell(write.value, write.write_id)
