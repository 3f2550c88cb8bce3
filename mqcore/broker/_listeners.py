"""Listening, and accepting the streams of clients, over any transport. Must not know what is said on a stream."""

from __future__ import annotations

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


async def accept_links(listener: Listener, multiplexed: bool, nursery: trio.Nursery, serve: ServeStream) -> None:
    """Accept until cancelled; ``serve`` is called in ``nursery`` for each stream, which stays after this has ended.

    ``multiplexed``: links carry many streams. A link is closed when ``serve`` has returned for all of its streams.
    """
    while True:
        link = await listener.accept()
        nursery.start_soon(_serve_link, link, multiplexed, serve)


async def _serve_link(link: Link, multiplexed: bool, serve: ServeStream) -> None:
    try:
        async with link:
            stream = await link.accept_stream()
            # Identity belongs to the link, and so to all of its streams; one that shakes hands has it with the first.
            visitor = Visitor(link.peer)
            if not multiplexed:
                await serve(stream, visitor)
                return
            async with trio.open_nursery() as nursery:
                with suppress(trio.EndOfChannel):  # what was opened before is served to its end
                    while True:
                        nursery.start_soon(serve, stream, visitor)
                        stream = await link.accept_stream()
    except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
        pass  # the peer left: its streams have seen the same
