"""Unix sockets, honest unless told otherwise."""

from __future__ import annotations

import contextlib
import os
import socket as standard
import tempfile
from collections.abc import Sequence
from typing import Any

import attrs
import trio
from trio import socket

from mqcore.abc import Buffer, Link, Listener, Peer, Transport, TransportCapabilities, TransportContext, Url
from mqcore.errors import TransportError
from mqcore.links import StreamLink
from mqcore.sockets import SocketListener, SocketStream
from mqcore_bad_parts._faults import Faulty


@attrs.frozen(kw_only=True)
class BadOptions:
    does: str = ""
    where: str = ""


class BadStream(SocketStream):
    """Everything that is sent or received comes by here."""

    def __init__(self, sock: Any, part: BadTransport) -> None:
        super().__init__(sock)
        self.part = part
        self.count = 0
        self.waiting: list[bytes] = []
        self.tasks: list[object] = []

    async def send_all(self, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()
        await self.send_buffers([data])

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        await self.part.at("send")
        self.count += 1
        data = b"".join(buffers)
        if self.part.lies("loses-bytes") and self.count > 3:
            data = data[:-1]
        elif self.part.lies("reorders"):
            data = b"".join(reversed([bytes(one) for one in buffers]))
        elif self.part.lies("duplicates") and self.count > 2:
            data += data
        elif self.part.lies("ignores-cancellation"):
            with trio.CancelScope(shield=True):
                return await super().send_buffers([data])
        elif self.part.lies("buffers-without-bound"):
            self.waiting.append(data)
            if len(self.waiting) == 1:
                trio.lowlevel.spawn_system_task(self.pump)
            await trio.lowlevel.checkpoint()
            return None
        elif self.part.lies("answers-after-close") and self.socket.fileno() < 0:
            await trio.lowlevel.checkpoint()
            return None
        return await super().send_buffers([data])

    async def pump(self) -> None:
        try:
            while self.waiting:
                await super().send_buffers([self.waiting[0]])
                del self.waiting[0]
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.waiting.clear()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self.part.at("receive")
        if self.part.lies("loses-what-a-cancelled-receive-got"):
            data = await super().receive_some(max_bytes)
            await trio.lowlevel.checkpoint()
            return data
        return await super().receive_some(max_bytes)

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        await self.part.at("receive")
        return await super().receive_into(buffer)

    async def aclose(self) -> None:
        await self.part.at("aclose")
        if self.part.lies("leaks-sockets"):
            for one in standard.socketpair():
                one.detach()
        await super().aclose()


class BadTransport(Transport, Faulty):
    options_class = BadOptions

    def __init__(self, url: Url, options: BadOptions, context: TransportContext) -> None:
        super().__init__(url, options, context)
        self.now("constructor")
        self.path = url.path

    @property
    def capabilities(self) -> TransportCapabilities:
        self.now("capabilities")
        return TransportCapabilities(
            half_close=True,
            local_only=True,
            multiplexed=self.lies("claims-to-multiplex"),
            simulable=self.lies("claims-model-sockets"),
            streams_max=10 if self.lies("claims-a-limit-it-does-not-keep") else None,
        )

    async def listen(self) -> Listener:
        await self.at("listen")
        if self.lies("claims-model-sockets"):
            with tempfile.TemporaryFile() as file:
                file.write(b"real")
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await listening.bind(self.path)
            listening.listen(1024)
        except OSError as error:
            listening.close()
            if self.lies("takes-an-address-in-use"):
                os.unlink(self.path)
                return await self.listen()
            raise TransportError(f"cannot listen {self.url}: {error}: choose another path") from error
        leave = self.lies("keeps-its-address")

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

        on_close = None if leave else remove
        url = Url(self.url.scheme, self.path, self.url.query)
        return SocketListener(listening, url, self._accepted, self.context.report, on_close)

    async def connect(self) -> Link:
        await self.at("connect")
        stream = await self._connect_stream()
        return StreamLink(stream, Peer(address=str(self.url)), self._connect_stream)

    async def _connect_stream(self) -> SocketStream:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await connecting.connect(self.path)
            connecting.getpeername()
        except OSError as error:
            connecting.close()
            raise TransportError(f"cannot connect {self.url}: {error}: start the broker") from error
        except BaseException:
            connecting.close()
            raise
        return BadStream(connecting, self)

    def _accepted(self, accepted: Any, address: object) -> StreamLink:
        return StreamLink(BadStream(accepted, self), Peer(address=str(self.url)))
