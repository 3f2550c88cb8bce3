"""A TCP relay that can lose one direction: the partition of a network that a whole machine's firewall would make.

Bytes of a lost direction are read and dropped, so that the sender goes on believing that they arrive. A connection
that lost bytes is of no more use: it is cut when the relay heals. Must not know what the bytes mean.
"""

from __future__ import annotations

import socket

import trio

from mqcore_conformance.servers._process import HOST

__all__ = ["OneWayRelay"]

_READ_BYTES = 65_536


class OneWayRelay:
    """Listens on ``port`` and connects to ``target`` for each connection. ``lose`` names what is dropped."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._lost: frozenset[str] = frozenset()
        self._scopes: set[trio.CancelScope] = set()

    def lose(self, *directions: str) -> None:
        """Drop from now on what travels in ``directions`` ("to-server", "from-server"), and no more what did before.

        Connections that are open stay so while anything is dropped.
        """
        if not directions:
            for scope in self._scopes:
                scope.cancel()
        self._lost = frozenset(directions)

    async def run(self) -> None:
        """Serve until cancelled."""
        listener = trio.SocketListener(_listening(self._listener))
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                async with client, await trio.open_tcp_stream(HOST, self.target) as server, trio.open_nursery() as both:
                    both.start_soon(self._pump, client, server, "to-server", scope)
                    both.start_soon(self._pump, server, client, "from-server", scope)
            except OSError:
                pass  # the server does not listen: the client's connection is closed, as it would be without a relay
            finally:
                self._scopes.discard(scope)

    async def _pump(
        self, source: trio.SocketStream, target: trio.SocketStream, direction: str, scope: trio.CancelScope
    ) -> None:
        try:
            while data := await source.receive_some(_READ_BYTES):
                if direction not in self._lost:
                    await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


def _listening(plain: socket.socket) -> trio.socket.SocketType:
    plain.setblocking(False)
    return trio.socket.from_stdlib_socket(plain)
