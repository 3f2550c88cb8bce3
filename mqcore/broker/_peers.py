"""What a node asks the other nodes of its cluster: one call on a stream of its own, as any client's.

Must not know what is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from mqcore.abc import ByteStream, Link, Transport
from mqcore.errors import BrokenLinkError, MqcoreError, NotReachedError, RemoteProtocolError
from mqcore.limits import Limits
from mqcore.protocol import (
    VERSION_MAX,
    VERSION_MIN,
    Call,
    Connection,
    End,
    Failed,
    Fatal,
    Hello,
    Message,
    Result,
    Role,
    Welcome,
    error_for,
)

__all__ = ["NodeCaller"]


class NodeCaller:
    """Calls other nodes in the name of the node ``name``. ``transport``: makes the transport of a URL."""

    def __init__(self, name: str, limits: Limits, transport: Callable[[str], Transport]) -> None:
        self._name = name
        self._limits = limits
        self._transport = transport

    async def connect(self, urls: Sequence[str]) -> Link:
        """Connect to the first of ``urls`` that can be reached. Raises ``NotReachedError``.

        If cancelled, nothing stays open.
        """
        failures = []
        for url in urls:
            try:
                return await self._transport(url).connect()
            except (MqcoreError, OSError) as error:
                failures.append(f"{url}: {error}")
        raise NotReachedError("; ".join(failures))

    async def call(self, urls: Sequence[str], operation: str, arguments: Mapping[str, Any], *, timeout_s: float) -> Any:
        """Ask one node for an administrative operation and return its result, a JSON value.

        Raises ``NotReachedError`` without an answer in time, and what the node refused with. If cancelled, it may have
        been done.
        """
        with trio.move_on_after(timeout_s):
            link = await self.connect(urls)
            try:
                return await self._call(await link.open_stream(), operation, arguments)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise NotReachedError(f"{urls[0]}: the connection broke: {error}") from error
            finally:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(link)
        raise NotReachedError(f"{urls[0]} did not answer within {timeout_s:g} s")

    async def _call(self, stream: ByteStream, operation: str, arguments: Mapping[str, Any]) -> Any:
        connection = Connection(Role.CLIENT, frame_bytes_max=self._limits.frame_bytes_max)
        await stream.send_buffers(connection.send(Hello(VERSION_MIN, VERSION_MAX, self._name)))
        welcome = await _receive(stream, connection)
        if not isinstance(welcome, Welcome):
            raise RemoteProtocolError(f"no welcome but {type(welcome).__name__}")
        await stream.send_buffers(connection.send(Call(1, operation, arguments)))
        reply = await _receive(stream, connection)
        if isinstance(reply, Failed):
            raise error_for(reply.code, reply.text, dict(reply.facts))
        if not isinstance(reply, Result):
            raise RemoteProtocolError(f"no result but {type(reply).__name__}")
        await stream.send_buffers(connection.send(End()))
        return reply.value


async def _receive(stream: ByteStream, connection: Connection) -> Message:
    while (message := connection.next_message()) is None:
        if connection.at_end:
            raise BrokenLinkError("the node closed the connection")
        connection.received(await stream.receive_into(connection.receive_buffer()))
    if isinstance(message, Fatal):
        raise RemoteProtocolError(f"the node refuses: {message.text}", code=message.code)
    return message
