"""Listening, and accepting the streams of clients, over any transport. Must not know what is said on a stream."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias

import trio

from mqcore.abc import ByteStream, Link, Listener, Transport
from mqcore.broker._gate import Visitor

__all__ = ["accept_links", "listening"]

ServeStream: TypeAlias = Callable[[ByteStream, Visitor], Awaitable[None]]


@asynccontextmanager
async def listening(transports: Sequence[Transport]) -> AsyncIterator[list[Listener]]:
    """Listen with every one of ``transports``, in order, or with none; all are closed when the block is left.

    Raises ``TransportError``; those that listened already are closed then too.
    """
    listeners: list[Listener] = []
    try:
        for transport in transports:
            listeners.append(await transport.listen())
        yield listeners
    finally:
        # Shielded: a listener that is not closed leaves its socket file, which the next start has to deal with.
        with trio.CancelScope(shield=True):
            for listener in listeners:
                await listener.aclose()


async def accept_links(
    listener: Listener,
    multiplexed: bool,
    nursery: trio.Nursery,
    serve: ServeStream,
    unknown_s_max: float = math.inf,
) -> None:
    """Accept until cancelled; ``serve`` is called in ``nursery`` for each stream, which stays after this has ended.

    ``multiplexed``: links carry many streams. A link is closed when ``serve`` has returned for all of its streams, and
    when it is not known for ``unknown_s_max`` who is there, and no stream is open on which that could be said.
    """
    while True:
        link = await listener.accept()
        nursery.start_soon(_serve_link, link, multiplexed, serve, unknown_s_max)


async def _serve_link(link: Link, multiplexed: bool, serve: ServeStream, unknown_s_max: float) -> None:
    visitor = Visitor(link)  # identity belongs to the link, and so to all of its streams

    async def next_stream() -> ByteStream:
        stream = await link.accept_stream()
        visitor.peer = link.peer  # a link that shakes hands knows its peer with the first stream
        return stream

    try:
        async with link:
            if not multiplexed:
                await serve(await next_stream(), visitor)
                return
            async with trio.open_nursery() as nursery:
                with suppress(trio.EndOfChannel):  # what was opened before is served to its end
                    while True:
                        # Without streams nothing else looks at a link, and there are only so many of them.
                        with trio.move_on_after(math.inf if visitor.principal else unknown_s_max):
                            nursery.start_soon(serve, await next_stream(), visitor)
                            continue
                        if visitor.principal is None and not nursery.child_tasks:
                            return
    except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
        pass  # the peer left: its streams have seen the same
