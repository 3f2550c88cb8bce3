"""One HTTP/1.1 connection to a member of etcd: requests with whole answers, and an answer that goes on (a watch).

What the server sends is bounded: heads by h11, bodies and lines here. Must not know what the bodies mean.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import h11
import trio

from mqcore.ensembles import EnsembleMember, ServerConnection, ServerFailureError, is_readable, open_stream
from mqcore_etcd._answers import refusal

__all__ = ["ANSWER_BYTES_MAX", "HttpConnection"]

ANSWER_BYTES_MAX = 8 * 1024 * 1024
"""Largest body of an answer, and longest line of a watch."""
_READ_BYTES = 65_536
TOKEN_AGE_S_MAX = 120.0
"""A token is given up before the server forgets it, which is after 300 s by default."""


class HttpConnection(ServerConnection):
    """An open connection. ``token`` goes with every request once it is set."""

    token = ""

    def __init__(self, member: EnsembleMember, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        self._host = str(member)
        self._stream = stream
        self._socket = (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
        self._machine = h11.Connection(h11.CLIENT)
        self._opened = trio.current_time()

    @classmethod
    async def open(cls, member: EnsembleMember, tls: ssl.SSLContext | None) -> HttpConnection:
        """Connect to ``member``. Raises ``OSError``, ``trio.BrokenResourceError``. If cancelled, nothing stays open."""
        return cls(member, await open_stream(member, tls))

    def is_usable(self) -> bool:
        """Whether it can carry another request."""
        if self.token and trio.current_time() - self._opened > TOKEN_AGE_S_MAX:
            return False
        return self._machine.our_state is h11.IDLE and not is_readable(self._socket.fileno())

    def close(self) -> None:
        """Close it at once. Idempotent."""
        self._socket.close()

    async def ask(self, path: str, body: bytes) -> bytes:
        """Return the body of the answer. Raises ``ServerRefusalError`` for a status other than 200."""
        status = await self._request(path, body)
        data = bytearray()
        while (piece := await self._piece()) is not None:
            data += piece
            if len(data) > ANSWER_BYTES_MAX:
                raise ServerFailureError(f"an answer has more than {ANSWER_BYTES_MAX} bytes")
        if self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE:
            self._machine.start_next_cycle()
        if status != 200:
            raise refusal(status, bytes(data))
        return bytes(data)

    async def follow(self, path: str, body: bytes, take: Callable[[bytes], None]) -> None:
        """Call ``take`` with each line of an answer as it arrives; where the server cuts it into pieces means nothing.

        Runs until cancelled, or until the connection fails.
        """
        status = await self._request(path, body)
        data = bytearray()
        while (piece := await self._piece()) is not None:
            data += piece
            if status != 200:
                raise refusal(status, bytes(data))
            while (end := data.find(b"\n")) >= 0:
                take(bytes(data[:end]))
                del data[: end + 1]
            if len(data) > ANSWER_BYTES_MAX:
                raise ServerFailureError(f"a line has more than {ANSWER_BYTES_MAX} bytes")
        raise ServerFailureError("the server ended the watch")

    async def _request(self, path: str, body: bytes) -> int:
        headers = [
            ("Host", self._host),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            # A member that has lost its leader ends a watch instead of keeping silent in it; others ignore this.
            ("Grpc-Metadata-hasleader", "true"),
        ]
        if self.token:
            headers.append(("Authorization", self.token))
        data = self._machine.send(h11.Request(method="POST", target=path, headers=headers))
        assert data is not None
        data += self._machine.send(h11.Data(data=body)) or b""
        data += self._machine.send(h11.EndOfMessage()) or b""
        self.sent = True  # before the first byte goes: a send that fails half-way may have reached the server
        await self._stream.send_all(data)
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response):
                return event.status_code
            if not isinstance(event, h11.InformationalResponse):
                raise ServerFailureError("the server closed the connection before it answered")

    async def _piece(self) -> bytes | None:
        """Return what has arrived of the body, or None at its end."""
        event = await self._next_event()
        if isinstance(event, h11.EndOfMessage):
            return None
        if not isinstance(event, h11.Data):
            raise ServerFailureError("the server closed the connection in the middle of an answer")
        return bytes(event.data)

    async def _next_event(self) -> object:
        while True:
            try:
                event = self._machine.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._machine.receive_data(bytes(await self._stream.receive_some(_READ_BYTES)))
            except h11.RemoteProtocolError as error:
                raise ServerFailureError(f"this is not HTTP as etcd speaks it ({error})") from None
