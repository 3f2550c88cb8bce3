"""Contract of a transport: links that carry ordered byte streams.

Invariants: bytes of a stream arrive in order and unchanged or not at all; a write that ends early tears the link
down; a reader that stops holds up its writer (back-pressure); everything observes cancellation; memory held per
stream is bounded. The protocol ends a direction with a frame of its own and never relies on half-close.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
import trio

from mqcore.abc._context import TransportContext
from mqcore.abc._storage import CONTRACT_VERSION
from mqcore.abc._tls import TlsOptions
from mqcore.errors import CommandNotPossibleError
from mqcore.ports import Buffer
from mqcore.url import Url

__all__ = ["ByteStream", "Link", "Listener", "Peer", "Transport", "TransportCapabilities"]


@attrs.frozen(kw_only=True)
class TransportCapabilities:
    """What a transport declares.

    ``half_close``: streams have a working ``send_eof``. ``multiplexed``: one link carries many streams; else every
    stream is a link of its own, and a further one presents the session id got on the first. ``encrypted``: nobody
    between the two ends can read or change what is sent. ``authenticated``: a listener with these options knows its
    peers by what they have shown, a certificate or the user of their process. ``local_only``: peers are on this
    machine. ``simulable``: sockets come from ``trio.socket`` only, so a model network can stand in. ``datagrams``: the
    streams travel in datagrams (UDP) to the host and port of the URL, not in a stream of the network. ``silence_ms``:
    the longest time until an end notices that the other one is gone without a word; 0: the system tells it, as of TCP.
    """

    contract_version: int = CONTRACT_VERSION
    half_close: bool = True
    multiplexed: bool = False
    encrypted: bool = False
    authenticated: bool = False
    local_only: bool = False
    simulable: bool = False
    datagrams: bool = False
    silence_ms: int = 0
    streams_max: int | None = None


@attrs.frozen(kw_only=True)
class Peer:
    """Who is at the other end, as far as the transport knows: typed, never parsed from text.

    ``address`` is for people. ``user_id``, ``group_id`` and ``process_id`` come from Unix credentials. ``tls_subject``
    (as RFC 4514 writes it, ``CN=alice,O=Example``) and ``tls_names`` (its alternative names, as ``DNS:host``) come from
    a certificate that was verified, and only from one.
    """

    address: str
    user_id: int | None = None
    group_id: int | None = None
    process_id: int | None = None
    tls_subject: str | None = None
    tls_names: tuple[str, ...] = ()


class ByteStream(trio.abc.Stream):
    """A Trio stream with the two calls that avoid copies. Trio's helpers work on it as on any stream."""

    @abstractmethod
    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Receive at least one byte into ``buffer`` and return how many; 0 at the end of the stream.

        No effect if cancelled. Raises ``trio.BrokenResourceError``, ``trio.ClosedResourceError``.
        """

    @abstractmethod
    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """Send ``buffers`` one after the other, all of them.

        Observes cancellation; lets others run where it has to wait and perhaps only there. If cancelled, part of them
        may have been sent and the stream is of no more use.
        """

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        """Send what goes without waiting, while no other task is sending; return how many bytes of ``buffers`` went.

        For a caller that cannot wait, or for whom it is cheaper: what is left, all of it if 0, it sends with
        ``send_buffers``, which also raises what is wrong with the stream. A stream that has no such call returns 0.
        """
        return 0


class Link(trio.abc.AsyncResource):
    """A connection to one peer."""

    peer: Peer

    @abstractmethod
    async def accept_stream(self) -> ByteStream:
        """Return the next stream that the peer opened; ``trio.EndOfChannel`` when there will be none.

        A link that is not multiplexed has exactly one.
        """

    @abstractmethod
    async def open_stream(self) -> ByteStream:
        """Open a stream to the peer: the first on a client's link is the one it was connected with.

        A transport without multiplexing connects again. Raises ``TransportError``.
        """

    def admit(self) -> None:
        """Be told, of a link that was accepted, that its peer is known now, or needs not be: it may use what it may.

        Until then a transport may hold a peer, which may be anybody, to less than its limits, where its context says
        that it is told (``TransportContext.admits``). Idempotent. A link that wraps another passes it on.
        """
        return

    def connection_of(self, stream: ByteStream) -> object:
        """Return what carries ``stream``, which this link opened; who the client is, it says once on each of those.

        A multiplexed link that may open further connections says which it was. It can be hashed and weakly referred to.
        """
        return self


class Listener(trio.abc.Listener[Link]):
    """Accepts links; works with ``trio.serve_listeners``. Survives "too many files": reported, waited out."""

    url: Url
    """The URL that a client connects to: with the port that was bound."""


class Transport(ABC):
    """A transport part, picked by the scheme of a URL. The constructor does no I/O."""

    options_class: ClassVar[type[Any]]

    def __init__(self, url: Url, options: Any, context: TransportContext) -> None:
        self.url = url
        self.options = options
        self.context = context

    @property
    @abstractmethod
    def capabilities(self) -> TransportCapabilities:
        """What this transport promises; constant for its life."""

    @property
    def is_loopback(self) -> bool:
        """Whether the URL's host is this machine's loopback, which no other machine reaches."""
        return self.url.is_loopback

    @property
    def files(self) -> TlsOptions:
        """The files that this end shows and believes; all of them unset for a transport that has no certificates."""
        return TlsOptions()

    def check_files(self) -> None:  # noqa: B027
        """Load the files that ``listen`` needs, and keep nothing of them: for who asks before a broker starts.

        Raises ``TransportError`` naming the file and the remedy. Blocks for as long as reading small files takes.
        """

    @abstractmethod
    async def listen(self) -> Listener:
        """Listen at the URL. Raises ``TransportError`` naming it and the remedy (port in use, no permission)."""

    @abstractmethod
    async def connect(self) -> Link:
        """Connect to the URL. Raises ``TransportError``. If cancelled, nothing stays open."""

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """Carry out ``operation``, a verb of this part's own, and return what to show for it.

        Raises ``CommandNotPossibleError`` for one that this part does not have. If cancelled, it may have happened.
        """
        raise CommandNotPossibleError(f"transport {self.url.scheme} has no operation {operation!r}")
