"""A socket of a model network: what ``trio.socket`` gives while the network is installed.

Translates the calls of a stream socket to the two pipes of its connection; the network knows who is where.
"""

from __future__ import annotations

import errno
import operator
import os
import socket as stdlib_socket
import struct
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import attrs
import trio

from mqcore.testing._pipes import NetworkOfPipe, Pipe

__all__ = ["Address", "ModelSocket", "NetworkHost"]

Address: TypeAlias = str | tuple[Any, ...]

CREDENTIALS = struct.Struct("3i")
CREDENTIALS_DEFAULT = (1000, 1000, 1000)
FAMILIES = (stdlib_socket.AF_INET, stdlib_socket.AF_INET6, stdlib_socket.AF_UNIX)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@attrs.define(eq=False)
class NetworkHost:
    """One life of a host: after it was killed its tasks can make no more sockets."""

    name: str
    alive: bool = True


class NetworkOfSocket(NetworkOfPipe, Protocol):
    """What a socket uses of its network; see ``ModelNetwork``, which is one."""

    credentials: dict[str, tuple[int, int, int]]

    def bind(self, socket: ModelSocket, address: Address) -> Address: ...

    def address_of(self, family: int, address: object) -> Address: ...

    def client_address(self, family: int, peer: Address) -> Address: ...

    async def find_listener(self, socket: ModelSocket, address: Address) -> ModelSocket: ...

    def join(self, client: ModelSocket, listener: ModelSocket) -> ModelSocket: ...

    def forget(self, socket: ModelSocket, number: int) -> None: ...

    def next_accept_error(self) -> int: ...

    def note(self, kind: str, source: str, destination: str, size: int = 0) -> None: ...

    def wake_connecting(self) -> None: ...


class ModelSocket(trio.socket.SocketType):
    """A stream socket in memory. It has no descriptor: ``fileno`` is a number that is never one of the kernel's."""

    def __init__(self, network: NetworkOfSocket, family: int, host: NetworkHost, number: int) -> None:
        super().__init__()
        if family not in FAMILIES:
            raise _error(errno.EAFNOSUPPORT)
        self.family_number = int(family)
        self.host = host
        self.bound: Address | None = None
        self.peer: Address | None = None
        self.inbound: Pipe | None = None
        self.outbound: Pipe | None = None
        self.listening = False
        self._network = network
        self._number = number
        self._closed = False
        self._backlog = 0
        self._waiting: deque[ModelSocket] = deque()
        self._accept_waits: trio.Event | None = None
        self._options: dict[tuple[int, int], Any] = {}
        self._shut_down = False

    # ---- connecting ------------------------------------------------------------------------------------------

    async def bind(self, address: Any) -> None:
        """Bind to (host, port) or a path; makes no file."""
        self._check_open()
        if self.bound is not None:
            raise _error(errno.EINVAL)
        await trio.lowlevel.checkpoint()
        self.bound = self._network.bind(self, self._network.address_of(self.family_number, address))

    def listen(self, backlog: int = 128) -> None:
        """Listen."""
        self._check_open()
        if self.bound is None:
            self.bound = self._network.bind(self, self._network.address_of(self.family_number, ("", 0)))
        self._backlog = max(1, backlog)
        self.listening = True
        self._network.wake_connecting()

    def has_room(self) -> bool:
        """Say whether one more connection may wait to be accepted."""
        return len(self._waiting) < self._backlog

    async def accept(self) -> tuple[trio.socket.SocketType, Any]:
        """Accept the next connection. No effect if cancelled."""
        self._check_open()
        if not self.listening:
            raise _error(errno.EINVAL)
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("another task closed this socket")
            number = self._network.next_accept_error()
            if number:
                raise _error(number)
            if self._waiting:
                break
            if self._accept_waits is None:
                self._accept_waits = trio.Event()
            await self._accept_waits.wait()
        socket = self._waiting.popleft()
        self._network.note("accept", self.host.name, "")
        self._network.wake_connecting()
        return socket, socket.peer

    async def connect(self, address: Any) -> None:
        """Connect to a listener. If cancelled the socket is closed."""
        self._check_open()
        if self.outbound is not None:
            raise _error(errno.EISCONN)
        peer = self._network.address_of(self.family_number, address)
        try:
            await trio.lowlevel.checkpoint()
            listener = await self._network.find_listener(self, peer)
            delay_s = 2 * self._network.delay_s()
            if delay_s:
                await trio.sleep(delay_s)
                # Asked for again: it may have gone, or been cut off, while the greeting was on its way.
                listener = await self._network.find_listener(self, peer)
        except trio.Cancelled:
            self.close()
            raise
        self._check_open()
        self.peer = peer
        if self.bound is None:
            self.bound = self._network.client_address(self.family_number, peer)
        listener.enqueue(self._network.join(self, listener))

    def enqueue(self, socket: ModelSocket) -> None:
        """Let ``socket`` wait to be accepted."""
        self._waiting.append(socket)
        self.wake()

    # ---- bytes -----------------------------------------------------------------------------------------------

    async def send(self, data: Any, flags: int = 0, /) -> int:
        """Send some of ``data``; return how many bytes. No effect if cancelled."""
        pipe = self._connected(self.outbound)
        if isinstance(data, bytes):
            count = await pipe.send(data)
        else:
            with memoryview(data) as view, view.cast("B") as bytes_view:
                count = await pipe.send(bytes_view)
        self._network.note("send", pipe.source, pipe.destination, count)
        return count

    async def sendmsg(
        self,
        buffers: Iterable[Any],
        ancdata: Iterable[tuple[int, int, Any]] = (),
        flags: int = 0,
        address: Any = None,
        /,
    ) -> int:
        """Send some of ``buffers``, which are taken as one; no ancillary data."""
        if address is not None or (ancdata and list(ancdata)):
            raise _error(errno.EOPNOTSUPP)
        taken: list[Any] = []
        size = 0
        for buffer in buffers:
            taken.append(buffer)
            size += len(buffer) if isinstance(buffer, bytes) else memoryview(buffer).nbytes
            if size >= self._network.buffer_bytes:
                break  # the rest would be joined only to be handed back: no send takes more than the buffer holds
        return await self.send(b"".join(taken))

    async def recv(self, buflen: int, flags: int = 0, /) -> bytes:
        """Receive up to ``buflen`` bytes; none at the end. No effect if cancelled."""
        return bytes(await self._receive(buflen))

    async def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into ``buffer``; return how many bytes, 0 at the end. No effect if cancelled."""
        with memoryview(buffer) as view, view.cast("B") as bytes_view:
            data = await self._receive(nbytes or len(bytes_view))
            bytes_view[: len(data)] = data
        return len(data)

    async def wait_writable(self) -> None:
        """Wait until ``send`` would not wait."""
        await self._connected(self.outbound).wait_writable()

    def is_readable(self) -> bool:
        """Say whether ``recv`` would not wait."""
        return self._connected(self.inbound).readable()

    def shutdown(self, flag: int) -> None:
        """End one direction or both."""
        outbound, inbound = self._connected(self.outbound), self._connected(self.inbound)
        if flag in (stdlib_socket.SHUT_WR, stdlib_socket.SHUT_RDWR):
            self._shut_down = True
            outbound.end()
        if flag in (stdlib_socket.SHUT_RD, stdlib_socket.SHUT_RDWR):
            inbound.receive_ended = True
            inbound.wake()

    @property
    def did_shutdown_SHUT_WR(self) -> bool:
        """Whether the sending direction was ended."""
        return self._shut_down

    # ---- the end ---------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close; a task that waits on the socket gets ``trio.ClosedResourceError``. Idempotent."""
        if self._closed:
            return
        self._forget()
        if self.outbound is not None and self.inbound is not None:
            self._network.note("close", self.outbound.source, self.outbound.destination)
            self.outbound.close_sender()
            self.inbound.close_receiver()
        for socket in self._waiting:
            socket.reset()
            socket.close()
        self._waiting.clear()
        self.wake()

    def reset(self) -> None:
        """Break the connection at both ends; unread bytes are lost."""
        if self.outbound is not None and self.inbound is not None:
            self._network.note("reset", self.outbound.source, self.outbound.destination)
            self.outbound.fail(errno.ECONNRESET)
            self.inbound.fail(errno.ECONNRESET)

    def vanish(self) -> ModelSocket | None:
        """Stop existing without a word to the peer; return a socket by which it can be reset later."""
        self._forget()
        if self.outbound is None or self.inbound is None:
            self.wake()
            return None
        self.outbound.silence()
        self.inbound.silence()
        ghost = ModelSocket(self._network, self.family_number, self.host, -1)
        ghost.outbound, ghost.inbound = self.outbound, self.inbound
        self.outbound.abandon_sender()
        self.inbound.abandon_receiver()
        return ghost

    def wake(self) -> None:
        """Let the tasks that wait on the socket look again."""
        if self._accept_waits is not None:
            self._accept_waits.set()
            self._accept_waits = None
        for pipe in (self.outbound, self.inbound):
            if pipe is not None:
                pipe.wake()

    def _forget(self) -> None:
        self._closed = True
        self.listening = False
        self._network.forget(self, self._number)

    def __enter__(self) -> ModelSocket:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # ---- what it is ------------------------------------------------------------------------------------------

    @property
    def family(self) -> stdlib_socket.AddressFamily:
        """Address family."""
        return stdlib_socket.AddressFamily(self.family_number)

    @property
    def type(self) -> stdlib_socket.SocketKind:
        """Always a stream."""
        return stdlib_socket.SOCK_STREAM

    @property
    def proto(self) -> int:
        """Always 0."""
        return 0

    def fileno(self) -> int:
        """A number of its own, -1 when closed."""
        return -1 if self._closed else self._number

    def getsockname(self) -> Any:
        """The address it is bound to."""
        self._check_open()
        if self.bound is not None:
            return self.bound
        return {stdlib_socket.AF_INET: ("0.0.0.0", 0), stdlib_socket.AF_INET6: ("::", 0, 0, 0)}.get(self.family, "")

    def getpeername(self) -> Any:
        """The address it is connected to."""
        self._connected(self.outbound)
        return self.peer

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> Any:
        """Options that mean something here; others are what ``setsockopt`` was told, or 0."""
        self._check_open()
        self._check_option(level)
        if level == stdlib_socket.SOL_SOCKET:
            if optname == stdlib_socket.SO_ACCEPTCONN:
                return int(self.listening)
            if optname == stdlib_socket.SO_TYPE:
                return int(stdlib_socket.SOCK_STREAM)
            if optname in (stdlib_socket.SO_SNDBUF, stdlib_socket.SO_RCVBUF):
                return self._network.buffer_bytes
            if optname == stdlib_socket.SO_PEERCRED:
                return self._peer_credentials()
        value = self._options.get((level, optname), 0)
        if buflen is None:
            return value
        return (value if isinstance(value, bytes) else int(value).to_bytes(4, "little"))[:buflen]

    def setsockopt(self, level: int, optname: int, value: Any, optlen: int | None = None) -> None:
        """Remember an option; none changes anything."""
        self._check_open()
        self._check_option(level)
        self._options[level, optname] = value if isinstance(value, int) else bytes(value or b"")

    def get_inheritable(self) -> bool:
        """Never."""
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """Only "no" is possible."""
        if inheritable:
            raise _error(errno.EOPNOTSUPP)

    def __repr__(self) -> str:
        return f"<ModelSocket {self.host.name} {self.bound!r} -> {self.peer!r}{' closed' if self._closed else ''}>"

    # ---- inside ----------------------------------------------------------------------------------------------

    async def _receive(self, size_max: int) -> bytearray:
        pipe = self._connected(self.inbound)
        if operator.index(size_max) < 0:
            raise ValueError(f"cannot receive {size_max} bytes")
        data = await pipe.receive(size_max)
        self._network.note("receive", pipe.source, pipe.destination, len(data))
        return data

    def _check_open(self) -> None:
        if self._closed:
            raise _error(errno.EBADF)

    def _check_option(self, level: int) -> None:
        if self.family_number == stdlib_socket.AF_UNIX and level == stdlib_socket.IPPROTO_TCP:
            raise _error(errno.EOPNOTSUPP)

    def _connected(self, pipe: Pipe | None) -> Pipe:
        self._check_open()
        if pipe is None:
            raise _error(errno.ENOTCONN)
        return pipe

    def _peer_credentials(self) -> bytes:
        peer = self._connected(self.outbound).destination
        return CREDENTIALS.pack(*self._network.credentials.get(peer, CREDENTIALS_DEFAULT))
