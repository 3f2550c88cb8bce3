"""A proxy of datagrams between clients and the broker, as a bad network: loses, repeats and reorders all along.

Told to, it holds a direction up, or loses all for a while and lets the broker see its clients at other ports after
that, as a router does that forgot them. Knows neither what the datagrams carry nor what is judged.
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import trio

from mqcore.registry import create_transport
from mqcore.url import Url
from mqcore_conformance.plans import FaultPlan
from mqcore_conformance.worlds.processes._proxy import Proxy

__all__ = ["DatagramProxy", "proxy_for"]

LOST, TWICE, LATE = 0.01, 0.01, 0.02
"""Probabilities, of each datagram, in each direction."""
LATE_S = 0.005
OUTAGE_S = 0.7
"""How long a cut lasts: a connection is to live on after it."""
HELD_MAX = 4_096
CLIENTS_MAX = 256
DATAGRAM_BYTES_MAX = 65_536
ROUND_MAX = 64
BUFFER_BYTES = 4 * 1024 * 1024
DIRECTIONS = ("to-broker", "from-broker")


def proxy_for(
    family: str, listen_url: str, broker_url: str, rng: random.Random, hit: Callable[[str, str], None]
) -> Proxy | DatagramProxy:
    """Return what stands between clients and the broker in a family of faults, over the transport of these URLs.

    Only a proxy that is an end of the streams itself can repeat what they carry.
    """
    if family != "proxy-duplicate" and create_transport(broker_url).capabilities.datagrams:
        return DatagramProxy(listen_url, broker_url, rng, hit)
    return Proxy(listen_url, broker_url, rng, hit)


@attrs.define(eq=False)
class _Client:
    """A client's address, and the socket that the broker sees it at."""

    address: Any
    upstream: socket.socket


class DatagramProxy:
    """Takes datagrams at the host and port of ``url`` and forwards them to those of ``broker_url``, and back.

    ``hit`` is called with every strike that found something. Options of the URL, such as certificates, are not its own.
    """

    def __init__(self, listen_url: str, broker_url: str, rng: random.Random, hit: Callable[[str, str], None]) -> None:
        self.url = listen_url
        self._broker = Url.parse(broker_url).address
        self._rng = rng
        self._hit = hit
        self._clients: dict[Any, _Client] = {}
        self._held: dict[str, deque[Callable[[], object]]] = {}
        self._lost: dict[str, int] = {}
        """How many were lost since a cut began, by the direction that is cut."""
        self._is_healed = False
        self._sock: socket.socket
        self._nursery: trio.Nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        with _datagram_socket() as self._sock:
            self._sock.bind(Url.parse(self.url).address)
            try:
                async with trio.open_nursery() as self._nursery:
                    task_status.started()
                    while True:
                        await trio.lowlevel.wait_readable(self._sock)
                        for data, address in _received(self._sock):
                            self._pass("to-broker", data, self._clients.get(address) or self._new_client(address))
            finally:
                for client in self._clients.values():
                    _close(client.upstream)

    async def strike(self, fault: FaultPlan) -> None:
        """Do what ``fault`` says; it is over when this returns."""
        if fault.kind == "proxy-stall":
            await self._stall(fault)
        else:
            await self._cut(fault)

    async def _stall(self, fault: FaultPlan) -> None:
        directions = DIRECTIONS if fault.target == "both" else (fault.target,)
        for direction in directions:
            self._held.setdefault(direction, deque())
        await trio.sleep(fault.duration_us / 1e6)
        if self._release(directions):
            self._hit(fault.kind, fault.target)

    def _release(self, directions: tuple[str, ...]) -> int:
        released = [send for direction in directions for send in self._held.pop(direction, ())]
        for send in released:
            send()
        return len(released)

    async def _cut(self, fault: FaultPlan) -> None:
        direction, _, how = fault.target.partition("/")
        directions = (direction,) if how == "half-close" else DIRECTIONS
        self._lost = dict.fromkeys(directions, 0)
        with trio.move_on_after(OUTAGE_S):
            await trio.sleep_forever()
        lost, self._lost = sum(self._lost.values()), {}
        if how == "reset" and not self._is_healed:
            for client in list(self._clients.values()):
                self._connect(client)
        if lost:
            self._hit(fault.kind, fault.target)

    def heal(self) -> None:
        """Strike no more, and let all pass."""
        self._is_healed = True
        self._lost = {}
        self._release(tuple(self._held))

    # ---- passing on ------------------------------------------------------------------------------------------

    def _new_client(self, address: Any) -> _Client:
        if len(self._clients) >= CLIENTS_MAX:
            oldest = next(iter(self._clients))
            _close(self._clients.pop(oldest).upstream)
        client = self._clients[address] = _Client(address, _datagram_socket())
        self._connect(client)
        return client

    def _connect(self, client: _Client) -> None:
        """Let the broker see the client at a new port."""
        _close(client.upstream)
        client.upstream = _datagram_socket()
        client.upstream.connect(self._broker)
        self._nursery.start_soon(self._answer, client, client.upstream)

    async def _answer(self, client: _Client, upstream: socket.socket) -> None:
        with contextlib.suppress(trio.ClosedResourceError):
            while upstream.fileno() >= 0:
                await trio.lowlevel.wait_readable(upstream)
                for data, _ in _received(upstream):
                    self._pass("from-broker", data, client)

    def _pass(self, direction: str, data: bytes, client: _Client) -> None:
        """Forward a datagram, or do to it what befalls it."""
        if direction in self._lost:
            self._lost[direction] += 1
            return
        luck = 1.0 if self._is_healed else self._rng.random()
        if luck < LOST:
            return
        send = partial(self._send, direction, data, client)
        held = self._held.get(direction)
        for _ in range(2 if luck < LOST + TWICE else 1):
            if held is None and LOST + TWICE <= luck < LOST + TWICE + LATE:
                self._nursery.start_soon(self._send_late, send)
            elif held is None:
                send()
            elif len(held) < HELD_MAX:
                held.append(send)

    async def _send_late(self, send: Callable[[], object]) -> None:
        await trio.sleep(LATE_S)
        send()

    def _send(self, direction: str, data: bytes, client: _Client) -> None:
        with contextlib.suppress(OSError):  # as if it was lost on the way
            if direction == "to-broker":
                client.upstream.send(data)
            else:
                self._sock.sendto(data, client.address)


def _datagram_socket() -> socket.socket:
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    return sock


def _received(sock: socket.socket) -> Iterator[tuple[bytes, Any]]:
    """Give what is there, some of it. Where nobody gets what was sent, a client behind a router is not told."""
    for _ in range(ROUND_MAX):
        try:
            yield sock.recvfrom(DATAGRAM_BYTES_MAX)
        except ConnectionRefusedError:
            continue
        except OSError:
            return


def _close(sock: socket.socket) -> None:
    if sock.fileno() >= 0:
        trio.lowlevel.notify_closing(sock)
        sock.close()
