"""A client of ``mqcore.client`` in a world: on its clock, with chance of its own, over a transport that is watched.

The transport is an ordinary wrapper, ``SCHEME://?inner=URL``, which the client under test takes for the one inside. It
changes nothing: it reads along until the broker's greeting, which names node and epoch, so that the life which a stream
belongs to is known, and lets nothing through from a process that is dead.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, ClassVar

import attrs
import trio

from mqcore import client as library
from mqcore.abc import ByteStream, Link, TransportContext
from mqcore.errors import MqcoreError, ProtocolError
from mqcore.limits import Limits
from mqcore.links import PassThroughLink, PassThroughTransport
from mqcore.ports import Buffer
from mqcore.protocol import VERSION_MAX, VERSION_MIN, Connection, Hello, Role, Welcome
from mqcore.registry import create_transport, register, unregister
from mqcore.url import Url
from mqcore_conformance.clients._session import identity_of
from mqcore_conformance.histories import FIRST_NODE, NodeLife
from mqcore_conformance.world import World

GONE = (MqcoreError, trio.BrokenResourceError, trio.ClosedResourceError)
"""What ends a client: another one is made."""
PATIENCE_S = 5.0
"""How long a client waits for a broker before it asks for a connection all the same."""
RETRY_MS_MIN = 10
RETRY_MS_MAX = 500
"""A run is short: times like those of the suite's own clients."""


@contextlib.asynccontextmanager
async def connected(world: World, watcher: Watcher, name: str) -> AsyncIterator[library.Client]:
    """Give a client once there is a broker. Raises as ``mqcore.client.connect``."""
    with trio.move_on_after(PATIENCE_S):
        await world.until(lambda: world.is_serving)
    options: dict[str, Any] = {"retry_ms_min": RETRY_MS_MIN, "retry_ms_max": RETRY_MS_MAX, **world.client_options}
    async with library.connect(watcher.url, ports=world.ports_of(name), name=name, **options) as client:
        yield client


NOWHERE = NodeLife(FIRST_NODE, 0)
"""No life: nothing was greeted yet."""
_in_use: set[str] = set()


@attrs.frozen
class Greeting:
    """A stream was greeted: by which life, and how many events there were when it was opened."""

    by: NodeLife
    opened_at: int


class Watcher:
    """What is known of the streams of one client. ``url`` is where it connects to.

    ``main`` is the newest stream that a link began with, ``side`` the newest of the further ones.
    """

    def __init__(self, world: World, url: str) -> None:
        self.world = world
        self.url = url
        self.main = Greeting(NOWHERE, 0)
        self.side = Greeting(NOWHERE, 0)
        self.reigns: dict[int, NodeLife] = {}

    def reign_of(self, epoch: int) -> NodeLife:
        """Return the life that greeted this client last under ``epoch``."""
        return self.reigns.get(epoch, NOWHERE)


@contextlib.contextmanager
def watched(world: World) -> Iterator[Watcher]:
    """Give a watcher whose ``url`` leads to the broker of ``world`` while the block lasts."""
    # the scheme stands in error texts: it is the first free one, whatever ran before in this process
    scheme = next(name for name in map("watched-{}".format, itertools.count(1)) if name not in _in_use)
    watcher = Watcher(world, str(Url(scheme, "", {"inner": world.url})))
    register("transports", scheme, type("WatchedTransport", (WatchedTransport,), {"watcher": watcher}))
    _in_use.add(scheme)
    try:
        yield watcher
    finally:
        _in_use.discard(scheme)
        unregister("transports", scheme)


@attrs.frozen(kw_only=True)
class WatchedOptions:
    """``inner``: URL of the transport inside."""

    inner: str


class WatchedTransport(PassThroughTransport):
    """See the module. ``watcher`` is set by ``watched``."""

    options_class: ClassVar[type[Any]] = WatchedOptions
    watcher: ClassVar[Watcher]

    def __init__(self, url: Url, options: WatchedOptions, context: TransportContext) -> None:
        super().__init__(create_transport(options.inner, context))
        self.url, self.options = url, options

    async def connect(self) -> Link:
        return WatchedLink(await self.inner.connect(), self.watcher)


class WatchedLink(PassThroughLink):
    """A link inside, watched."""

    def __init__(self, inner: Link, watcher: Watcher) -> None:
        super().__init__(inner)
        self._watcher = watcher
        self._is_first = True

    async def open_stream(self) -> ByteStream:
        is_first, self._is_first = self._is_first, False
        opened_at = len(self._watcher.world.history)
        return WatchedStream(await self.inner.open_stream(), self._watcher, opened_at, is_first)

    def connection_of(self, stream: ByteStream) -> object:
        return self.inner.connection_of(stream.inner if isinstance(stream, WatchedStream) else stream)


class WatchedStream(ByteStream):
    """A stream inside, watched."""

    def __init__(self, inner: ByteStream, watcher: Watcher, opened_at: int, is_first: bool) -> None:
        self.inner = inner
        self._watcher = watcher
        self._opened_at = opened_at
        self._is_first = is_first
        self._by = watcher.world.present
        self._listening: Connection | None = Connection(Role.CLIENT, frame_bytes_max=Limits().frame_bytes_max)
        self._listening.send(Hello(VERSION_MIN, VERSION_MAX, "watcher"))

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """As inside, unless the broker's process is dead."""
        size = await self.inner.receive_into(buffer)
        if self._watcher.world.swallows(self._by):
            raise trio.BrokenResourceError("the broker's process is dead")
        if self._listening is not None:
            self._listen(self._listening, memoryview(buffer)[:size])
        return size

    def _listen(self, listening: Connection, data: memoryview) -> None:
        """Read along up to the greeting."""
        try:
            while data:
                into = listening.receive_buffer()
                count = min(len(into), len(data))
                into[:count] = data[:count]
                listening.received(count)
                data = data[count:]
                message = listening.next_message()
                if message is not None:
                    self._listening = None
                    if isinstance(message, Welcome):
                        self._greeted(message)
                    return
        except ProtocolError:
            self._listening = None  # the client will find out by itself

    def _greeted(self, welcome: Welcome) -> None:
        self._by = self._watcher.world.reign_of(identity_of(welcome), welcome.epoch)
        self._watcher.reigns[welcome.epoch] = self._by
        greeting = Greeting(self._by, self._opened_at)
        if self._is_first:
            self._watcher.main = greeting
        else:
            self._watcher.side = greeting

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As inside; nothing of mqcore's client receives like this."""
        return await self.inner.receive_some(max_bytes)

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        await self.inner.send_buffers(buffers)

    async def send_all(self, data: Buffer) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.inner.aclose()
