"""Names of listeners within one Trio run, and links between them. Two ``trio.run`` of one process never meet."""

from __future__ import annotations

from collections import deque

import trio

from mqcore.abc import Link, Listener, Peer, Transport, TransportCapabilities, TransportContext, Url
from mqcore.errors import ConfigurationError, TransportError
from mqcore.links import StreamLink
from mqcore_inproc._config import InprocOptions
from mqcore_inproc._stream import InprocStream, stream_pair

__all__ = ["InprocTransport"]

_CAPABILITIES = TransportCapabilities(half_close=True, local_only=True, simulable=True)
_listeners: trio.lowlevel.RunVar[dict[str, InprocListener]] = trio.lowlevel.RunVar("mqcore_inproc.listeners")


def _names() -> dict[str, InprocListener]:
    try:
        return _listeners.get()
    except LookupError:
        names: dict[str, InprocListener] = {}
        _listeners.set(names)
        return names


class InprocTransport(Transport):
    """The transport part of the scheme ``inproc``."""

    options_class = InprocOptions

    def __init__(self, url: Url, options: InprocOptions, context: TransportContext) -> None:
        super().__init__(url, options, context)
        if not url.rest:
            raise ConfigurationError(f"{url}: needs a name, as in inproc://broker")
        self._buffer_bytes: int = options.buffer_bytes
        self._backlog: int = options.backlog

    @property
    def capabilities(self) -> TransportCapabilities:
        """What streams in memory promise."""
        return _CAPABILITIES

    async def listen(self) -> Listener:
        """Take the name. Raises ``TransportError`` when a listener of this Trio run has it. No effect if cancelled."""
        await trio.lowlevel.checkpoint()
        name = self.url.rest
        if name in _names():
            raise TransportError(f"cannot listen {self.url}: the name is in use in this program: choose another")
        listener = _names()[name] = InprocListener(Url(self.url.scheme, name), self._backlog)
        return listener

    async def connect(self) -> Link:
        """Connect to the listener of that name. Raises ``TransportError``. If cancelled, nothing stays open."""
        stream = await self._connect_stream()
        return StreamLink(stream, Peer(address=str(self.url)), self._connect_stream)

    async def _connect_stream(self) -> InprocStream:
        await trio.lowlevel.checkpoint()
        listener = _names().get(self.url.rest)
        if listener is None:
            known = ", ".join(sorted(_names())) or "none"
            raise TransportError(
                f"cannot connect {self.url}: nothing listens there in this program (listening: {known});"
                " the name is known only inside the trio.run of its broker"
            )
        ours, theirs = stream_pair(self._buffer_bytes)
        await listener.offer(theirs)
        return ours


class InprocListener(Listener):
    """Accepts the links that are offered under its name; at most ``backlog`` wait."""

    def __init__(self, url: Url, backlog: int) -> None:
        self.url = url
        self._backlog = backlog
        self._waiting: deque[InprocStream] = deque()
        self._acceptors = trio.lowlevel.ParkingLot()
        self._connectors = trio.lowlevel.ParkingLot()
        self._closed = False

    async def offer(self, stream: InprocStream) -> None:
        """Queue the server's end of a new link; waits while the backlog is full. No effect if cancelled."""
        while len(self._waiting) >= self._backlog and not self._closed:
            await self._connectors.park()
        if self._closed:
            raise TransportError(f"cannot connect {self.url}: its listener was closed: start it again")
        self._waiting.append(stream)
        self._acceptors.unpark()

    async def accept(self) -> Link:
        """Accept the next link. No link is lost if cancelled."""
        await trio.lowlevel.checkpoint()
        while not self._waiting and not self._closed:
            await self._acceptors.park()
        if self._closed:
            raise trio.ClosedResourceError("the listener is closed")
        self._connectors.unpark()
        return StreamLink(self._waiting.popleft(), Peer(address=str(self.url)))

    async def aclose(self) -> None:
        """Give the name up and drop what waits to be accepted. Idempotent."""
        self._closed = True
        if _names().get(self.url.rest) is self:
            del _names()[self.url.rest]
        while self._waiting:
            self._waiting.popleft().close()
        self._acceptors.unpark_all()
        self._connectors.unpark_all()
        await trio.lowlevel.checkpoint()
