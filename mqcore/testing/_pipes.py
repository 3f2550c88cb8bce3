"""One direction of a model connection: bytes under way, bytes that arrived, and how it ends.

Knows time, buffers and the ways a connection breaks; nothing of addresses or sockets' options. There is no task
behind a pipe: bytes carry the time at which they arrive, and the reader waits for it.
"""

from __future__ import annotations

import errno
import math
import os
from collections import Counter, deque
from typing import Literal, Protocol, TypeAlias

import trio

__all__ = ["NetworkOfPipe", "Pipe"]

Mark: TypeAlias = Literal["end", "reset"]
"""What travels among the bytes: the end of the stream, or a reset."""


class NetworkOfPipe(Protocol):
    """What a pipe uses of its network; see ``ModelNetwork``, which is one."""

    buffer_bytes: int
    witnesses: Counter[str]

    def piece(self, size: int) -> int: ...

    def delay_s(self) -> float: ...

    def is_cut(self, source: str, destination: str) -> bool: ...


class Pipe:
    """Bytes from ``source`` to ``destination`` (names of hosts).

    ``budget`` bounds the bytes that still get through; the rest is swallowed.
    """

    def __init__(self, network: NetworkOfPipe, source: str, destination: str, abrupt: bool) -> None:
        self.network = network
        self.source = source
        self.destination = destination
        self.abrupt = abrupt
        self.budget: int | None = None
        self._then = "stall"
        self.held = False
        self.peer: Pipe
        self.error = 0
        self._send_error = 0
        self.send_ended = False
        self.receive_ended = False
        self._eof = False
        self._ready = bytearray()
        self._under_way: deque[tuple[float, bytes | Mark]] = deque()
        self._buffered = 0
        self._last_arrival = -math.inf
        self._closed_sender = False
        self._closed_receiver = False
        self._sender_waits: trio.Event | None = None
        self._receiver_waits: trio.Event | None = None

    # ---- the sending side ------------------------------------------------------------------------------------

    async def send(self, data: bytes | memoryview) -> int:
        """Take some of ``data`` (at least one byte unless it is empty) and return how many. No effect if cancelled."""
        await trio.lowlevel.checkpoint()
        while True:
            self._check_sender()
            if self.receive_ended:
                return self._discard(len(data))
            space = self.network.buffer_bytes - self._buffered
            if space > 0:
                break
            await self._wait_sender()
        count = self.network.piece(min(len(data), space))
        self._put(data[:count])
        return count

    async def wait_writable(self) -> None:
        """Wait until ``send`` would take a byte, or fail."""
        await trio.lowlevel.checkpoint()
        while not (self._closed_sender or self.error or self.send_ended or self.receive_ended):
            if self._buffered < self.network.buffer_bytes:
                return
            await self._wait_sender()
        if self._closed_sender:
            raise trio.ClosedResourceError("another task closed this socket")

    def end(self) -> None:
        """Let the reader find the end after what was sent."""
        if not self.send_ended:
            self.send_ended = True
            if self.budget is None or self.budget > 0:
                self._under_way.append((self._arrival(), "end"))
            self.wake()

    def close_sender(self) -> None:
        """End, and fail the task that waits to send."""
        self.end()
        self._closed_sender = True
        self.wake()

    # ---- the receiving side ----------------------------------------------------------------------------------

    async def receive(self, size_max: int) -> bytearray:
        """Return 1 to ``size_max`` bytes, none at the end. No effect if cancelled."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed_receiver:
                raise trio.ClosedResourceError("another task closed this socket")
            self._pull()
            if self._ready:
                break
            if self.error:
                raise OSError(self.error, os.strerror(self.error))
            if self._eof or self.receive_ended:
                return bytearray()
            await self._wait_receiver()
        count = self.network.piece(min(size_max, len(self._ready)))
        data = self._ready[:count]
        del self._ready[:count]
        self._buffered -= count
        if self._sender_waits is not None:
            self._sender_waits.set()
            self._sender_waits = None
        return data

    def readable(self) -> bool:
        """Say whether ``receive`` would return at once."""
        self._pull()
        return bool(self._ready or self._eof or self.error or self.receive_ended)

    def close_receiver(self) -> None:
        """Stop receiving: what is unread breaks the connection, what comes later is discarded."""
        unread = self._buffered > 0
        self.receive_ended = True
        self._closed_receiver = True
        if unread:
            self.fail(errno.ECONNRESET)
            self.peer.fail(errno.ECONNRESET)
        self.wake()

    # ---- trouble ---------------------------------------------------------------------------------------------

    def fail(self, error: int, *, keep_arrived: bool = False) -> None:
        """Break this direction: unread bytes are gone (with ``keep_arrived``, only those under way)."""
        if self.error:
            return
        self.error = error
        self._under_way.clear()
        if not keep_arrived:
            self._ready.clear()
        self._buffered = len(self._ready)
        self.wake()

    def silence(self) -> None:
        """Lose what is under way and hold whatever is sent from now on: one end has vanished."""
        self._under_way.clear()
        self._buffered = len(self._ready)
        self.held = True

    def end_stall(self) -> None:
        """Let what was held arrive. Bytes that a broken direction swallowed are lost: both ends hear of a reset."""
        self.held = False
        if self.budget == 0 and self._then == "stall":
            self.fail(errno.ECONNRESET, keep_arrived=True)
            self.peer.fail(errno.ECONNRESET, keep_arrived=True)

    def abandon_sender(self) -> None:
        """Fail the task that waits to send, without a word to the reader."""
        self._closed_sender = True
        self.wake()

    def abandon_receiver(self) -> None:
        """Fail the task that waits to receive, without a word to the sender."""
        self._closed_receiver = True
        self.wake()

    def break_after(self, byte_count: int, then: str) -> None:
        """Let ``byte_count`` more bytes through, then reset, close or stall this connection."""
        self.budget, self._then = byte_count, then
        if byte_count == 0:
            self._break()

    def _break(self) -> None:
        self.network.witnesses[f"break-{self._then}"] += 1
        if self._then == "close":
            self._under_way.append((self._arrival(), "end"))
        elif self._then == "reset":
            self._send_error = errno.ECONNRESET
            self.peer.fail(errno.ECONNRESET)
            self._under_way.append((self._arrival(), "reset"))
        self.wake()

    def wake(self) -> None:
        """Let both ends look again."""
        for event in (self._sender_waits, self._receiver_waits):
            if event is not None:
                event.set()
        self._sender_waits = self._receiver_waits = None

    # ---- inside ----------------------------------------------------------------------------------------------

    def _check_sender(self) -> None:
        if self._closed_sender:
            raise trio.ClosedResourceError("another task closed this socket")
        number = self.error or self._send_error or (errno.EPIPE if self.send_ended else 0)
        if number:
            raise OSError(number, os.strerror(number))

    def _discard(self, size: int) -> int:
        """Send to a peer that closed: a local one says so at once, a remote one answers with a reset."""
        self.fail(errno.EPIPE)
        self.peer.fail(errno.ECONNRESET, keep_arrived=True)
        if self.abrupt:
            raise OSError(errno.EPIPE, os.strerror(errno.EPIPE))
        return size

    def _arrival(self) -> float:
        # Never before what was sent earlier, whatever the jitter draws: a stream keeps its order.
        self._last_arrival = max(self._last_arrival, trio.current_time() + self.network.delay_s())
        return self._last_arrival

    def _put(self, data: bytes | memoryview) -> None:
        exhausted = False
        if self.budget is not None:
            data = data[: self.budget]
            exhausted = self.budget > 0 and len(data) == self.budget
            self.budget -= len(data)
        if data:
            self._buffered += len(data)
            self._under_way.append((self._arrival(), bytes(data)))
            if self._receiver_waits is not None:
                self._receiver_waits.set()
                self._receiver_waits = None
        if exhausted:
            self._break()

    def _pull(self) -> None:
        """Move what has arrived by now to where it can be read."""
        # When somebody looks and not by a timer each: a connection at rest gives virtual time no reason to stop at it.
        if not self._under_way or self._is_held():
            return
        now = trio.current_time()
        while self._under_way and self._under_way[0][0] <= now:
            data = self._under_way.popleft()[1]
            if data == "end":
                self._eof = True
            elif data == "reset":
                self.fail(errno.ECONNRESET, keep_arrived=True)
            elif isinstance(data, bytes):
                self._ready += data

    def _is_held(self) -> bool:
        return self.held or self.network.is_cut(self.source, self.destination)

    async def _wait_sender(self) -> None:
        if self._sender_waits is not None:
            raise trio.BusyResourceError("another task is already sending on this socket")
        event = self._sender_waits = trio.Event()
        try:
            await event.wait()
        finally:
            if self._sender_waits is event:
                self._sender_waits = None

    async def _wait_receiver(self) -> None:
        if self._receiver_waits is not None:
            raise trio.BusyResourceError("another task is already receiving on this socket")
        event = self._receiver_waits = trio.Event()
        until = self._under_way[0][0] if self._under_way and not self._is_held() else math.inf
        try:
            if until == math.inf:
                await event.wait()
            else:
                with trio.move_on_at(until):
                    await event.wait()
        finally:
            if self._receiver_waits is event:
                self._receiver_waits = None
