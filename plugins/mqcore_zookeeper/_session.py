"""One ZooKeeper session over one connection: requests in a row and their answers, events, and pings while it waits.

The session ends with its connection: nothing of ours is ephemeral, so there is nothing to resume. kazoo serializes;
its client is not used, since it pings from a thread of its own, also for an application that hangs, and reports a lost
session only after it has reconnected. Must not know what the nodes mean.
"""

from __future__ import annotations

import ssl
import struct
from collections.abc import Sequence
from typing import Any

import attrs
import trio
from kazoo.protocol import serialization as wire

from mqcore.ensembles import (
    EnsembleMember,
    ServerConnection,
    ServerFailureError,
    ServerRefusalError,
    is_readable,
    open_stream,
)

__all__ = ["FRAME_BYTES_MAX", "Reply", "ZookeeperSession", "decode"]

FRAME_BYTES_MAX = 4 * 1024 * 1024
"""Largest answer; a server's own default for what it takes is 1 MiB."""
SESSION_MS_ASKED = 30_000
"""What is asked for. The server silently grants less, between 2 and 20 of its ticks; what it granted holds."""
_READ_BYTES = 65_536
_EVENT_XID, _PING_XID, _AUTH_XID = -1, -2, -4
_INT = struct.Struct("!i")
_XID_AND_TYPE = struct.Struct("!ii")


@attrs.frozen
class Reply:
    """An answer: ``error`` is 0 or ZooKeeper's code; ``frame`` from ``offset`` on is the request's own part."""

    error: int
    frame: bytes
    offset: int


def decode(request: Any, reply: Reply) -> Any:
    """Return what kazoo reads in ``reply``. Raises ``ServerFailureError`` for bytes that are not as they must be."""
    try:
        return request.deserialize(reply.frame, reply.offset)
    except (struct.error, UnicodeDecodeError, KeyError, ValueError, TypeError) as error:
        raise ServerFailureError(f"an answer is not as it must be ({error!r})") from None


class ZookeeperSession(ServerConnection):
    """An open session."""

    def __init__(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self._socket = (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
        self._received = bytearray()
        self._granted_s = 0.0
        self._used = 0.0
        self._xid = 0
        self._events = 0

    @classmethod
    async def open(cls, member: EnsembleMember, tls: ssl.SSLContext | None, credentials: str) -> ZookeeperSession:
        """Connect to ``member``; ``credentials`` are ``USER:PASSWORD`` or empty.

        Raises ``OSError``, ``trio.BrokenResourceError``, ``ServerFailureError``, ``ServerRefusalError``. If cancelled,
        nothing stays open.
        """
        session = cls(await open_stream(member, tls))
        try:
            await session._begin(credentials)
        except BaseException:
            session.close()
            raise
        return session

    async def _begin(self, credentials: str) -> None:
        # 0 for the newest change seen: a server refuses a client that has seen more than itself by closing the
        # connection, and that its state went back could not be told from a server that is down.
        await self._send(bytes(wire.Connect(0, 0, SESSION_MS_ASKED, 0, bytes(16), False).serialize()))
        frame = await self._frame()
        answer, _ = decode(wire.Connect, Reply(0, frame, 0))
        if answer.time_out <= 0:
            raise ServerFailureError("it refused the session")
        self._granted_s = answer.time_out / 1000
        self._used = trio.current_time()
        if credentials:
            auth = wire.Auth(0, "digest", credentials)
            await self._send(_XID_AND_TYPE.pack(_AUTH_XID, auth.type) + auth.serialize())
            if (await self._reply(_AUTH_XID)).error:
                raise ServerRefusalError("it refused user and password", sure=True, elsewhere=False)

    def is_usable(self) -> bool:
        """Whether it can carry more requests: without pings a session that is kept too long has ended."""
        return trio.current_time() - self._used < self._granted_s * 2 / 3 and not is_readable(self._socket.fileno())

    def close(self) -> None:
        """Close it at once. Idempotent."""
        self._socket.close()

    async def ask(self, *requests: Any) -> Sequence[Reply]:
        """Send ``requests`` in one piece and return their answers; the server works through them in this order."""
        first = self._xid + 1
        frames = []
        for request in requests:
            self._xid += 1
            body = _XID_AND_TYPE.pack(self._xid, request.type) + bytes(request.serialize())
            frames.append(_INT.pack(len(body)) + body)
        self.sent = True  # before the first byte goes: a send that fails half-way may have reached the server
        await self._stream.send_all(b"".join(frames))
        replies = [await self._reply(xid) for xid in range(first, self._xid + 1)]
        self._used = trio.current_time()
        return replies

    async def next_event(self) -> None:
        """Return when an event has arrived since the last call; keeps the session alive meanwhile."""
        pinged = False
        while not self._events:
            frame = None
            with trio.move_on_after(self._granted_s / 3):
                frame = await self._frame()
            if frame is not None:
                xid, _, _ = self._header(frame)
                pinged = pinged and xid != _PING_XID
            elif pinged:
                raise ServerFailureError("a ping was not answered")
            else:
                pinged = True
                await self._send(_XID_AND_TYPE.pack(_PING_XID, wire.Ping.type))
        self._events = 0

    async def _reply(self, xid: int) -> Reply:
        while True:
            frame = await self._frame()
            found, error, offset = self._header(frame)
            if found == xid:
                return Reply(error, frame, offset)
            if found not in (_EVENT_XID, _PING_XID):
                raise ServerFailureError(f"an answer to request {found} where {xid} was due")

    def _header(self, frame: bytes) -> tuple[int, int, int]:
        """Return whose answer it is, its error and where its own part begins; counts events."""
        header, offset = decode(wire.ReplyHeader, Reply(0, frame, 0))
        if header.xid == _EVENT_XID:
            self._events += 1
        return header.xid, header.err, offset

    async def _send(self, body: bytes) -> None:
        await self._stream.send_all(_INT.pack(len(body)) + body)

    async def _frame(self) -> bytes:
        """Return the next frame. If cancelled, nothing of it is lost."""
        while True:
            if len(self._received) >= _INT.size:
                size = _INT.unpack_from(self._received)[0]
                if not 0 <= size <= FRAME_BYTES_MAX:
                    raise ServerFailureError(f"a frame of {size} bytes: this is not ZooKeeper's client port")
                if len(self._received) >= _INT.size + size:
                    frame = bytes(self._received[_INT.size : _INT.size + size])
                    del self._received[: _INT.size + size]
                    return frame
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                raise ServerFailureError("the server closed the connection")
            self._received += data
