"""Datagrams of a model network: sockets, and a way between them that loses, delays, repeats, reorders and cuts short.

A datagram that nobody is bound to get is answered, as by a kernel, with a refusal to a sender that is connected; one
that is larger than the way takes vanishes. Must not know what the bytes mean.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import random
import socket as stdlib_socket
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import attrs
import trio

from mqcore.testing._sockets import Address, NetworkHost

__all__ = ["DatagramWay", "DirectDatagrams", "ModelDatagramSocket"]

FAMILIES = (stdlib_socket.AF_INET, stdlib_socket.AF_INET6)
BYTES_MAX = 65_507
"""Most that a datagram over IPv4 carries."""
INBOX_BYTES = 212_992
"""What Linux lets a socket hold, unless told otherwise."""


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class NetworkOfDatagrams(Protocol):
    """What datagrams use of their network; see ``ModelNetwork``, which is one."""

    rng: random.Random

    def is_cut(self, source: str, destination: str) -> bool: ...

    def is_refused(self, host: str) -> bool: ...

    def delay_s(self) -> float: ...

    def address_of(self, family: int, address: object) -> Address: ...

    def note(self, kind: str, source: str, destination: str, size: int = 0) -> None: ...


@attrs.define(eq=False)
class DatagramWay:
    """How datagrams travel. The numbers may be changed at any time.

    ``loss``, ``duplication``, ``reordering`` and ``truncation`` are the probabilities, 0 to 1, that a datagram is lost,
    comes twice, is held back by up to ``held_back_s``, or loses its end. ``mtu_bytes`` is the longest that passes;
    ``inbox_bytes`` is what a socket holds before it drops. They come on top of the network's own latency and jitter.
    """

    network: NetworkOfDatagrams
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    truncation: float = 0.0
    held_back_s: float = 0.01
    mtu_bytes: int = BYTES_MAX
    inbox_bytes: int = INBOX_BYTES
    _sockets: dict[DirectDatagrams, None] = attrs.field(factory=dict, init=False)
    _at: dict[tuple[int, Address], DirectDatagrams] = attrs.field(factory=dict, init=False)
    _dark: dict[tuple[int, Address], str] = attrs.field(factory=dict, init=False)
    """Addresses of machines without power, which refuse nothing, with their names."""
    _rng: random.Random | None = attrs.field(default=None, init=False)
    _port: int = attrs.field(default=49_151, init=False)
    _numbers: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1 << 24), init=False)

    # ---- trouble ---------------------------------------------------------------------------------------------

    def calm(self) -> None:
        """Let everything through from now on."""
        self.loss = self.duplication = self.reordering = self.truncation = 0.0
        self.mtu_bytes = BYTES_MAX

    def rebind(self, host: str = "*") -> int:
        """Let others see the sockets of ``host`` at new ports, as behind a router that forgot them; return how many.

        Only those are moved that have sent and were not bound: nobody else is behind a router. What is sent to the old
        address arrives nowhere.
        """
        count = 0
        for socket in self._sockets:
            if socket.is_client and socket.seen_at is not None and host in ("*", socket.host.name):
                self._at.pop((socket.family, socket.seen_at), None)
                self._see(socket, self._free_address(socket.family, socket.seen_at[0]))
                self.network.note("rebind", socket.host.name, "")
                count += 1
        return count

    def kill_host(self, host: NetworkHost, *, silent: bool) -> int:
        """Close the sockets of ``host``; return how many. With ``silent`` nothing answers at their addresses."""
        mine = [socket for socket in self._sockets if socket.host is host]
        for socket in mine:
            if silent and socket.seen_at is not None:
                self._dark[socket.family, socket.seen_at] = host.name
            socket.close()
        return len(mine)

    def begin_life(self, name: str) -> None:
        """A machine is powered again: it refuses what nobody there gets."""
        self._dark = {key: dark for key, dark in self._dark.items() if dark != name}

    # ---- for the sockets -------------------------------------------------------------------------------------

    def new_socket(self, family: int, host: NetworkHost) -> ModelDatagramSocket:
        """Make a socket that is neither bound nor connected."""
        if family not in FAMILIES:
            raise _error(errno.EAFNOSUPPORT)
        if self._rng is None:
            self._rng = random.Random(self.network.rng.random())  # its own: what streams draw stays what it was
        direct = DirectDatagrams(self, family, host, next(self._numbers))
        self._sockets[direct] = None
        return ModelDatagramSocket(direct)

    def bind(self, socket: DirectDatagrams, address: Address) -> None:
        """Give ``socket`` an address of its own; port 0 is replaced by a free one."""
        if address[1] == 0:
            address = self._free_address(socket.family, address[0])
        if (socket.family, address) in self._at:
            raise _error(errno.EADDRINUSE)
        self._see(socket, address)

    def forget(self, socket: DirectDatagrams) -> None:
        """Drop a closed socket."""
        self._sockets.pop(socket, None)
        if socket.seen_at is not None and self._at.get((socket.family, socket.seen_at)) is socket:
            del self._at[socket.family, socket.seen_at]

    def send(self, source: DirectDatagrams, data: bytes, destination: Address) -> None:
        """Put ``data`` on its way. Raises ``OSError`` where a kernel would."""
        if len(data) > BYTES_MAX:
            raise _error(errno.EMSGSIZE)
        if source.seen_at is None:
            source.is_client = True
            self.bind(source, ("::1" if source.family == stdlib_socket.AF_INET6 else "127.0.0.1", 0))
        assert self._rng is not None
        target, name = self._target(source.family, destination), "*"
        if target is not None:
            name = target.host.name
        self.network.note("datagram", source.host.name, name, len(data))
        is_dark = (source.family, destination) in self._dark
        if is_dark or len(data) > self.mtu_bytes or self.network.is_cut(source.host.name, name) or self._is(self.loss):
            self._drop(source, name, len(data))
        elif target is None or self.network.is_refused(name):
            self.network.note("refuse", source.host.name, name)
            source.refuse()
        else:
            for _ in range(2 if self._is(self.duplication) else 1):
                piece = data[: self._rng.randrange(len(data) + 1)] if self._is(self.truncation) else data
                late_s = self._rng.random() * self.held_back_s if self._is(self.reordering) else 0.0
                target.take(trio.current_time() + self.network.delay_s() + late_s, piece, source)

    def is_lost_on_arrival(self, source: str, destination: DirectDatagrams, size: int) -> bool:
        """Say whether the network was cut while a datagram was on its way."""
        if not self.network.is_cut(source, destination.host.name):
            return False
        self.network.note("datagram-lost", source, destination.host.name, size)
        return True

    def note_full(self, source: DirectDatagrams, destination: DirectDatagrams, size: int) -> None:
        """A socket had no room."""
        self._drop(source, destination.host.name, size)

    # ---- inside ----------------------------------------------------------------------------------------------

    def _is(self, probability: float) -> bool:
        assert self._rng is not None
        return bool(probability) and self._rng.random() < probability

    def _drop(self, source: DirectDatagrams, name: str, size: int) -> None:
        self.network.note("datagram-lost", source.host.name, name, size)

    def _target(self, family: int, address: Address) -> DirectDatagrams | None:
        wildcard = "::" if family == stdlib_socket.AF_INET6 else "0.0.0.0"
        return self._at.get((family, address)) or self._at.get((family, (wildcard, *address[1:])))

    def _see(self, socket: DirectDatagrams, address: Address) -> None:
        socket.seen_at = address
        self._at[socket.family, address] = socket
        self._dark.pop((socket.family, address), None)

    def _free_address(self, family: int, ip: str) -> Address:
        rest = (0, 0) if family == stdlib_socket.AF_INET6 else ()
        for _ in range(16_384):
            self._port = 49_152 if self._port >= 65_535 else self._port + 1
            if (family, (ip, self._port, *rest)) not in self._at:
                return (ip, self._port, *rest)
        raise _error(errno.EADDRNOTAVAIL)


class DirectDatagrams:
    """A datagram socket whose calls do not wait, as one of the standard library that is not blocking.

    ``seen_at`` is the address that others see it at.
    """

    def __init__(self, way: DatagramWay, family: int, host: NetworkHost, number: int) -> None:
        self.family = family
        self.host = host
        self.seen_at: Address | None = None
        self.is_client = False
        self.peer: Address | None = None
        self._way = way
        self._number = number
        self._is_closed = False
        self._is_refused = False
        self._inbox: list[tuple[float, int, bytes, Address, str]] = []
        self._inbox_bytes = 0
        self._order = itertools.count()
        self._waits: trio.Event | None = None
        self._options: dict[tuple[int, int], Any] = {}

    def bind(self, address: Any) -> None:
        """Bind to (host, port)."""
        self._check_open()
        if self.seen_at is not None:
            raise _error(errno.EINVAL)
        self._way.bind(self, self._way.network.address_of(self.family, address))

    def connect(self, address: Any) -> None:
        """Send to, and get from, ``address`` only."""
        self._check_open()
        self.peer = self._way.network.address_of(self.family, address)

    def sendmsg(
        self, buffers: Iterable[Any], ancillary: Sequence[Any] = (), flags: int = 0, address: Any = None, /
    ) -> int:
        """Send ``buffers`` as one datagram; return its size. Never waits: what is too much is lost on the way."""
        self._check_open()
        if ancillary:
            raise _error(errno.EINVAL)
        if self._is_refused:
            self._is_refused = False
            raise _error(errno.ECONNREFUSED)
        destination = self.peer if address is None else self._way.network.address_of(self.family, address)
        if destination is None:
            raise _error(errno.EDESTADDRREQ)
        data = b"".join(bytes(buffer) for buffer in buffers)
        self._way.send(self, data, destination)
        return len(data)

    def recvmsg(self, size: int, ancillary_size: int = 0, flags: int = 0, /) -> tuple[bytes, list[Any], int, Address]:
        """Return the next datagram, up to ``size`` bytes of it, and its sender; ``BlockingIOError`` without one."""
        self._check_open()
        if self._is_refused:
            self._is_refused = False
            raise _error(errno.ECONNREFUSED)
        while self._inbox and self._inbox[0][0] <= trio.current_time():
            _, _, data, sender, host = heapq.heappop(self._inbox)
            self._inbox_bytes -= len(data)
            if self.peer not in (None, sender) or self._way.is_lost_on_arrival(host, self, len(data)):
                continue
            return data[:size], [], 0, sender
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    async def wait_readable(self) -> None:
        """Wait until there may be something. ``trio.ClosedResourceError`` when it is closed meanwhile."""
        await trio.lowlevel.checkpoint()
        while not self._is_refused:
            if self._is_closed:
                raise trio.ClosedResourceError("another task closed this socket")
            until = self._inbox[0][0] if self._inbox else float("inf")
            if until <= trio.current_time():
                return
            if self._waits is None:
                self._waits = trio.Event()
            with trio.move_on_at(until):
                await self._waits.wait()

    def take(self, arrives_at: float, data: bytes, source: DirectDatagrams) -> None:
        """A datagram is on its way here."""
        if self._inbox_bytes + len(data) > self._way.inbox_bytes:
            self._way.note_full(source, self, len(data))
            return
        assert source.seen_at is not None
        self._inbox_bytes += len(data)
        heapq.heappush(self._inbox, (arrives_at, next(self._order), data, source.seen_at, source.host.name))
        self._wake()

    def refuse(self) -> None:
        """Nobody gets what was sent: only a connected socket is told."""
        if self.peer is not None:
            self._is_refused = True
            self._wake()

    def close(self) -> None:
        """Close it; a task that waits is told. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._way.forget(self)
            self._inbox.clear()
            self._wake()

    def setblocking(self, flag: bool) -> None:
        """Only "no" is possible."""
        if flag:
            raise _error(errno.EOPNOTSUPP)

    def fileno(self) -> int:
        """A number that is never one of the kernel's, -1 when closed."""
        return -1 if self._is_closed else self._number

    def getsockname(self) -> Address:
        """The address that it is bound to."""
        self._check_open()
        return self.seen_at or (("::", 0, 0, 0) if self.family == stdlib_socket.AF_INET6 else ("0.0.0.0", 0))

    def setsockopt(self, level: int, option: int, value: Any, size: int | None = None) -> None:
        """Remember an option; none changes anything, and those of UDP are not there."""
        self._check_open()
        if level == stdlib_socket.IPPROTO_UDP:
            raise _error(errno.ENOPROTOOPT)
        self._options[level, option] = value

    def getsockopt(self, level: int, option: int, size: int | None = None) -> Any:
        """What ``setsockopt`` was told, or 0."""
        self._check_open()
        return self._options.get((level, option), 0)

    def _check_open(self) -> None:
        if self._is_closed:
            raise _error(errno.EBADF)

    def _wake(self) -> None:
        if self._waits is not None:
            self._waits.set()
            self._waits = None


class ModelDatagramSocket(trio.socket.SocketType):
    """What ``trio.socket`` gives for datagrams while a model network is installed."""

    def __init__(self, direct: DirectDatagrams) -> None:
        super().__init__()
        self._direct = direct
        self.setsockopt, self.getsockopt = direct.setsockopt, direct.getsockopt  # type: ignore[method-assign,assignment]
        self.close, self.fileno, self.getsockname = direct.close, direct.fileno, direct.getsockname  # type: ignore[method-assign]

    def without_waiting(self) -> DirectDatagrams:
        """The same socket, with calls that do not wait: for a driver that takes many datagrams at a time."""
        return self._direct

    async def bind(self, address: Any) -> None:
        """Bind to (host, port)."""
        await trio.lowlevel.checkpoint()
        self._direct.bind(address)

    async def connect(self, address: Any) -> None:
        """Send to, and get from, ``address`` only."""
        await trio.lowlevel.checkpoint()
        self._direct.connect(address)

    async def send(self, data: Any, flags: int = 0, /) -> int:
        """Send a datagram to the peer."""
        await trio.lowlevel.checkpoint()
        return self._direct.sendmsg([data])

    async def sendto(self, data: Any, *flags_and_address: Any) -> int:
        """Send a datagram to an address."""
        await trio.lowlevel.checkpoint()
        return self._direct.sendmsg([data], (), 0, flags_and_address[-1])

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        """Receive a datagram. No effect if cancelled."""
        return (await self.recvfrom(buflen))[0]

    async def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Address]:
        """Receive a datagram, and its sender's address. No effect if cancelled."""
        while True:
            await self._direct.wait_readable()
            try:
                data, _, _, sender = self._direct.recvmsg(bufsize)
            except BlockingIOError:
                continue
            return data, sender

    def is_readable(self) -> bool:
        """Whether a datagram may be there."""
        return bool(self._direct._inbox)

    @property
    def family(self) -> stdlib_socket.AddressFamily:
        """Address family."""
        return stdlib_socket.AddressFamily(self._direct.family)

    @property
    def type(self) -> stdlib_socket.SocketKind:
        """Always datagrams."""
        return stdlib_socket.SOCK_DGRAM

    @property
    def proto(self) -> int:
        """Always 0."""
        return 0

    def __enter__(self) -> ModelDatagramSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
