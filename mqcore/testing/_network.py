"""A model network: sockets in memory, on virtual time, that break when and how a test says.

Trio's own socket functions use it inside ``installed()``; so do transports that take their sockets from
``trio.socket``. Sockets belong to *hosts* (names, ``host()``), between which the network can be cut, stalled and
reset. Everything random comes from the given generator. Must not know what the bytes mean.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import ipaddress
import os
import random
import socket as stdlib_socket
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import attrs
import trio

from mqcore.testing._datagrams import DatagramWay, ModelDatagramSocket
from mqcore.testing._pipes import Pipe
from mqcore.testing._sockets import Address, ModelSocket, NetworkHost

__all__ = ["ModelNetwork", "NetworkEvent"]

EVENTS_KEPT = 10_000
PORT_FIRST, PORT_LAST = 49_152, 65_535
PIECE_BYTES_SMALL = 16
Then = Literal["reset", "close", "stall"]


class NetworkEvent(NamedTuple):
    """What happened: ``kind``, hosts and bytes.

    Kinds are connect, accept, send, receive, close, reset, refuse; datagram, datagram-lost and rebind.
    """

    time_s: float
    kind: str
    source: str
    destination: str
    size: int


@attrs.define
class _Break:
    source: str
    destination: str
    byte_count: int
    then: Then


class ModelNetwork(trio.abc.SocketFactory, trio.abc.HostnameResolver):
    """A network of stream sockets (IPv4, IPv6, Unix) and of datagrams, whose own trouble is ``datagrams``.

    All hosts share one space of addresses, loopback included.

    ``buffer_bytes`` is what one direction of a connection holds before its sender waits; ``latency_s`` and a random
    part up to ``jitter_s`` is how long bytes travel; with ``pieces`` every send and receive takes a random part of
    what it could. The attributes may be changed at any time. ``names`` resolves host names, ``credentials`` (process,
    user and group id by host) is what a Unix peer sees.
    """

    def __init__(
        self,
        rng: random.Random | int = 0,
        *,
        buffer_bytes: int = 65_536,
        latency_s: float = 0.0,
        jitter_s: float = 0.0,
        pieces: bool = False,
    ) -> None:
        self.rng = random.Random(rng) if isinstance(rng, int) else rng
        self.buffer_bytes = buffer_bytes
        self.latency_s = latency_s
        self.jitter_s = jitter_s
        self.pieces = pieces
        self.names = {"localhost": "127.0.0.1"}
        self.credentials: dict[str, tuple[int, int, int]] = {}
        self.events: deque[NetworkEvent] = deque(maxlen=EVENTS_KEPT)
        self.counts: Counter[str] = Counter()
        self.witnesses: Counter[str] = Counter()
        self._hosts: dict[str, NetworkHost] = {}
        self._current: contextvars.ContextVar[NetworkHost | None] = contextvars.ContextVar("model_host", default=None)
        self._cuts: set[tuple[str, str]] = set()
        self._refused: set[str] = set()
        self._breaks: list[_Break] = []
        self._accept_errors: list[int] = []
        self._sockets: dict[int, ModelSocket] = {}
        self._listeners: dict[tuple[int, object], ModelSocket] = {}
        self._vanished: dict[str, list[ModelSocket]] = {}
        self._port = PORT_FIRST - 1
        self._file_number = 1 << 20
        self._changed = trio.Event()
        self.datagrams = DatagramWay(self)

    # ---- use -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def installed(self) -> Iterator[ModelNetwork]:
        """Let every Trio socket made in this Trio run, while the block lasts, be one of this network."""
        factory = trio.socket.set_custom_socket_factory(self)
        resolver = trio.socket.set_custom_hostname_resolver(self)
        try:
            yield self
        finally:
            trio.socket.set_custom_socket_factory(factory)
            trio.socket.set_custom_hostname_resolver(resolver)

    @contextlib.contextmanager
    def host(self, name: str) -> Iterator[NetworkHost]:
        """Let sockets made in the block, and in tasks started in it, belong to the host ``name``.

        After ``kill_host`` the next use of the name is its next life.
        """
        life = self._hosts.get(name)
        if life is None:
            life = self._hosts[name] = NetworkHost(name)
            self.datagrams.begin_life(name)
            for socket in self._vanished.pop(name, ()):
                socket.reset()
        token = self._current.set(life)
        try:
            yield life
        finally:
            self._current.reset(token)

    def socket(
        self, family: int | None = None, type: int | None = None, proto: int | None = None
    ) -> ModelSocket | ModelDatagramSocket:
        """See ``trio.abc.SocketFactory``."""
        host = self._current.get()
        if host is None:
            with self.host("local") as host:
                pass  # entered to be made: what belongs to no host would be spared by cuts and kills of all
        elif not host.alive:
            raise OSError(errno.ENETDOWN, f"the host {host.name} was killed")
        if type == stdlib_socket.SOCK_DGRAM:
            return self.datagrams.new_socket(family or stdlib_socket.AF_INET, host)
        return self.new_socket(family or stdlib_socket.AF_INET, host)

    # ---- trouble ---------------------------------------------------------------------------------------------

    def cut(self, source: str = "*", destination: str = "*", *, both_ways: bool = True) -> None:
        """Let nothing arrive from ``source`` at ``destination`` (``*``: any) until ``heal``; neither end is told.

        As with TCP, what was sent meanwhile arrives later; datagrams are lost.
        """
        self._cuts.add((source, destination))
        if both_ways:
            self._cuts.add((destination, source))
        self.witnesses["cut"] += 1
        self.wake_all()

    def heal(self) -> None:
        """End every cut and every stall; a connection that ``break_next`` stalled has lost bytes, and is reset."""
        self._cuts.clear()
        for socket in list(self._sockets.values()):
            for pipe in (socket.inbound, socket.outbound):
                if pipe is not None:
                    pipe.end_stall()
        self.wake_all()

    def calm(self) -> None:
        """End all trouble: cuts, stalls, refusals, and what was planned for later connections."""
        self._breaks.clear()
        self._accept_errors.clear()
        self.datagrams.calm()
        self.accept_again()
        self.heal()

    def stall(self, host: str) -> None:
        """Let ``host`` neither send nor hear anything until ``heal``, as one that does not run."""
        self.cut("*", host)

    def reset(self, source: str = "*", destination: str = "*") -> int:
        """Break every connection between the two hosts; return how many. What is unread is lost at both ends."""
        count = 0
        for socket in list(self._sockets.values()):
            pipe = socket.outbound
            if pipe is None or pipe.error or not _like(source, pipe.source):
                continue
            if _like(destination, pipe.destination):
                socket.reset()
                count += bool(pipe.error)
        self.witnesses["reset"] += count
        return count

    def refuse(self, host: str = "*") -> None:
        """Let every connect to listeners of ``host`` be refused until ``accept_again``."""
        self._refused.add(host)

    def accept_again(self) -> None:
        """End every ``refuse``."""
        self._refused.clear()

    def break_next(self, byte_count: int, *, source: str = "*", destination: str = "*", then: Then = "reset") -> None:
        """Let the next connection that ``source`` makes to ``destination``, or gets from it, break in that direction.

        After ``byte_count`` bytes from ``source`` the connection is reset, closed (the reader sees the end) or stalled.
        """
        self._breaks.append(_Break(source, destination, byte_count, then))

    def fail_accept(self, error: int = errno.EMFILE, times: int = 1) -> None:
        """Let the next ``times`` calls of ``accept`` raise ``OSError(error)``."""
        self._accept_errors += [error] * times
        self.wake_all()

    def kill_host(self, name: str, *, silent: bool = False) -> int:
        """Kill everything on a host; return how many sockets it had.

        Its sockets are closed as the kernel of a dead process does: peers see the end, or a reset if something was
        unread. With ``silent`` (its power is cut) they hear nothing until the host's next life.
        """
        host = self._hosts.pop(name, None)
        if host is None:
            return 0
        host.alive = False
        mine = [socket for socket in self._sockets.values() if socket.host is host]
        for socket in mine:
            if silent:
                peer = socket.vanish()
                if peer is not None:
                    self._vanished.setdefault(name, []).append(peer)
            else:
                socket.close()
        self.witnesses["kill-host"] += 1
        return len(mine) + self.datagrams.kill_host(host, silent=silent)

    # ---- for sockets and pipes of this package ---------------------------------------------------------------

    def is_cut(self, source: str, destination: str) -> bool:
        """Say whether bytes from ``source`` cannot reach ``destination`` now."""
        cuts = self._cuts
        if not cuts:
            return False
        pairs = ((source, destination), (source, "*"), ("*", destination), ("*", "*"))
        held = any(pair in cuts for pair in pairs)
        if held:
            self.witnesses["held"] += 1  # who asks has something to send
        return held

    def is_refused(self, host: str) -> bool:
        """Say whether nobody is let in at ``host`` now."""
        return not self._refused.isdisjoint(("*", host))

    def delay_s(self) -> float:
        """Return how long the next bytes travel."""
        return self.latency_s + self.rng.random() * self.jitter_s if self.jitter_s else self.latency_s

    def piece(self, size: int) -> int:
        """Return how much of ``size`` the next operation takes."""
        if not self.pieces or size < 2:
            return size
        return self.rng.randint(1, size if self.rng.random() < 0.5 else min(size, PIECE_BYTES_SMALL))

    def note(self, kind: str, source: str, destination: str, size: int = 0) -> None:
        """Count and remember what happened."""
        self.counts[kind] += 1
        self.events.append(NetworkEvent(trio.current_time(), kind, source, destination, size))

    def new_socket(self, family: int, host: NetworkHost) -> ModelSocket:
        """Make an unconnected socket."""
        self._file_number += 1
        socket = ModelSocket(self, family, host, self._file_number)
        self._sockets[self._file_number] = socket
        return socket

    def forget(self, socket: ModelSocket, number: int) -> None:
        """Drop a closed socket, and its address if it listened or was bound."""
        self._sockets.pop(number, None)
        key = (socket.family_number, socket.bound)
        if self._listeners.get(key) is socket:
            del self._listeners[key]
            self.wake_connecting()

    def bind(self, socket: ModelSocket, address: Address) -> Address:
        """Give ``socket`` an address of its own; port 0 is replaced by a free one."""
        if not isinstance(address, str) and address[1] == 0:
            address = (address[0], self._free_port(), *address[2:])
        key = (socket.family_number, address)
        if key in self._listeners:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self._listeners[key] = socket
        return address

    def client_address(self, family: int, peer: Address) -> Address:
        """Return the address of a connecting socket that was not bound."""
        if isinstance(peer, str):
            return ""
        loopback = "::1" if family == stdlib_socket.AF_INET6 else "127.0.0.1"
        return (loopback, self._free_port(), *peer[2:])

    async def find_listener(self, socket: ModelSocket, address: Address) -> ModelSocket:
        """Return the listener at ``address``; wait while the network is cut or its backlog is full."""
        while True:
            listener = self._listener_at(socket.family_number, address)
            name = listener.host.name if listener is not None else "*"
            cut = self.is_cut(socket.host.name, name) or self.is_cut(name, socket.host.name)
            if not cut:
                if listener is None or not listener.listening or self.is_refused(name):
                    self.note("refuse", socket.host.name, name)
                    missing = listener is None and isinstance(address, str)
                    number = errno.ENOENT if missing else errno.ECONNREFUSED
                    raise OSError(number, os.strerror(number))
                if listener.has_room():
                    return listener
            await self._changed.wait()

    def join(self, client: ModelSocket, listener: ModelSocket) -> ModelSocket:
        """Connect ``client`` to a new socket of the listener's host and return that one."""
        server = self.new_socket(client.family_number, listener.host)
        local = isinstance(client.peer, str)
        there = Pipe(self, client.host.name, server.host.name, local)
        back = Pipe(self, server.host.name, client.host.name, local)
        there.peer, back.peer = back, there
        client.outbound, client.inbound = there, back
        server.outbound, server.inbound = back, there
        server.bound, server.peer = client.peer, client.bound
        for pipe in (there, back):
            self._plan_break(pipe)
        self.note("connect", client.host.name, server.host.name)
        return server

    def next_accept_error(self) -> int:
        """Return the error of the next ``accept``, or 0."""
        return self._accept_errors.pop(0) if self._accept_errors else 0

    def wake_connecting(self) -> None:
        """Let those who wait for a listener look again."""
        self._changed.set()
        self._changed = trio.Event()

    def wake_all(self) -> None:
        """Let everybody who waits look again."""
        self.wake_connecting()
        for socket in list(self._sockets.values()):
            socket.wake()

    # ---- names -----------------------------------------------------------------------------------------------

    def address_of(self, family: int, address: object) -> Address:
        """Check ``address`` (as given to bind and connect) and resolve its host name."""
        if family == stdlib_socket.AF_UNIX:
            if not isinstance(address, str | bytes | os.PathLike):
                raise TypeError(f"the address of a Unix socket is a path, not {address!r}")
            return os.fsdecode(address)
        if not isinstance(address, tuple) or len(address) < 2 or not 0 <= int(address[1]) <= 65_535:
            raise OverflowError(f"the address of a socket is (host, port) with a port up to 65535, not {address!r}")
        default = "::" if family == stdlib_socket.AF_INET6 else "0.0.0.0"
        ip = self._resolve(str(address[0]) or default)
        if (ipaddress.ip_address(ip).version == 6) != (family == stdlib_socket.AF_INET6):
            raise stdlib_socket.gaierror(stdlib_socket.EAI_ADDRFAMILY, f"{ip} is not of this socket's family")
        return (ip, int(address[1]), 0, 0) if family == stdlib_socket.AF_INET6 else (ip, int(address[1]))

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """See ``trio.abc.HostnameResolver``: knows ``names`` and nothing else."""
        await trio.lowlevel.checkpoint()
        ip = self._resolve((host or b"localhost").decode("ascii"))
        return stdlib_socket.getaddrinfo(ip, port, family, type, proto, flags | stdlib_socket.AI_NUMERICHOST)

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        """See ``trio.abc.HostnameResolver``: answers with numbers."""
        await trio.lowlevel.checkpoint()
        return str(sockaddr[0]), str(sockaddr[1])

    def _resolve(self, name: str) -> str:
        try:
            return ipaddress.ip_address(self.names.get(name, name)).compressed
        except ValueError:
            raise stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, f"the model network knows no {name}") from None

    # ---- inside ----------------------------------------------------------------------------------------------

    def _listener_at(self, family: int, address: Address) -> ModelSocket | None:
        found = self._listeners.get((family, address))
        if found is None and not isinstance(address, str):
            wildcard = "::" if family == stdlib_socket.AF_INET6 else "0.0.0.0"
            found = self._listeners.get((family, (wildcard, *address[1:])))
        return found

    def _free_port(self) -> int:
        used = {key[1][1] for key in self._listeners if isinstance(key[1], tuple)}
        for _ in range(PORT_LAST - PORT_FIRST + 1):
            self._port = PORT_FIRST if self._port >= PORT_LAST else self._port + 1
            if self._port not in used:
                return self._port
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    def _plan_break(self, pipe: Pipe) -> None:
        for plan in self._breaks:
            if _like(plan.source, pipe.source) and _like(plan.destination, pipe.destination):
                self._breaks.remove(plan)
                pipe.break_after(plan.byte_count, plan.then)
                return


def _like(pattern: str, name: str) -> bool:
    return pattern in ("*", name)
