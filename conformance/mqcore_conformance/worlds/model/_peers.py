"""Peers that are slow or mean no good: garbage, half frames, lengths that no frame has, replies that are not read.

They speak bytes, not the protocol's state machine, and are judged by what the broker itself counts for them (G20).
"""

from __future__ import annotations

import random
import struct
from typing import NoReturn

import trio

from mqcore.abc import ByteStream
from mqcore.errors import MqcoreError
from mqcore.limits import Limits
from mqcore.protocol import VERSION_MAX, VERSION_MIN, Connection, Hello, Kind, Role
from mqcore.registry import create_transport
from mqcore_conformance.worlds.model._machine import ModelMachine

LIMITS = Limits()
NAME = "peer"
DEAF = "deaf"
"""What peers call themselves; one that does not read has stalled only once nothing more fits between."""
SAMPLE_S = 0.02
GARBAGE_BYTES_MAX = 50_000
DEAF_REQUESTS_MAX = 20_000
DEAF_PER_SEND = 40
FLOOD_MAX = 60
LET_GO_S = 45.0
"""The longest of the limits for a silent handshake, a frame that stops and replies left unread, and some."""
PATIENCE_S = 50.0
"""How long a peer stays; one that is cut off does not learn that it was let go."""
FRAMES_MAX = 8_192 + LIMITS.requests_in_flight_max
"""Replies that may be queued for one connection: where its reader stops, and what it may have read before."""
_FRAME = struct.Struct("<IBBHI")
_FETCH = struct.Struct("<16sIQQII")
GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, MqcoreError)


class Peers:
    """The slow and malicious peers of one run, and what they were seen to cost."""

    def __init__(self, world: ModelMachine) -> None:
        self._world = world
        self._here = 0
        self._came = 0
        self._worst = ""
        self._random = random.Random(f"{world.plan.seed}/peers")

    async def run(self, kind: str, amount: int) -> None:
        """Be one peer (a few, for a flood) until the broker has had enough of it. Never raises for a broken stream."""
        self._came += 1
        self._here += 1
        try:
            with self._world.host(f"peer-{self._came}"):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._watch, nursery.cancel_scope)
                    await self._be(kind, amount)
                    nursery.cancel_scope.cancel()
        finally:
            self._here -= 1
            self._world.changed()

    async def _be(self, kind: str, amount: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(min(5 * amount, FLOOD_MAX) if kind == "peer-flood" else 1):
                nursery.start_soon(self._one, kind, amount)

    async def _one(self, kind: str, amount: int) -> None:
        try:
            link = await create_transport(self._world.url).connect()
            stream = await link.open_stream()
        except GONE:
            return
        self._world.witnesses["peers"] += 1
        try:
            with trio.move_on_after(PATIENCE_S):
                if kind == "peer-deaf":
                    await _ask_and_never_read(stream, amount)
                await stream.send_all(self._opening(kind, amount))
                await _read_to_end(stream)
        except GONE:
            self._world.witnesses["peers-let-go"] += 1
        finally:
            await trio.aclose_forcefully(stream)

    def _opening(self, kind: str, amount: int) -> bytes:
        """Return all that a peer of this kind sends before it waits."""
        greeting = _greeting()
        match kind:
            case "peer-garbage":
                return self._random.randbytes(1 + GARBAGE_BYTES_MAX * amount // 12)
            case "peer-half-frame" if amount % 2:
                return greeting[: 1 + amount % len(greeting)]
            case "peer-half-frame":
                return greeting + (1000).to_bytes(4, "little") + bytes(amount)
            case "peer-huge-length":
                length = (LIMITS.frame_bytes_max, LIMITS.frame_bytes_max + 1, 0xFFFF_FFFF)[amount % 3]
                head = length.to_bytes(4, "little") + bytes((amount, 0, 0, 0)) + bytes(4)
                return (greeting if amount % 2 else b"") + head + bytes(2_000)
            case _:
                return b""

    # ---- what they cost --------------------------------------------------------------------------------------

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Look at what the broker counts for its connections, again and again."""
        while not scope.cancel_called:
            self._look()
            await trio.sleep(SAMPLE_S)

    def _look(self) -> None:
        broker = self._world.broker
        if broker is None:
            return
        if len(broker.connections) > broker.connections_max:
            self._worst = f"{len(broker.connections)} connections; at most {broker.connections_max} are allowed"
        if broker.receive_buffer_bytes > broker.limits.receive_buffer_bytes_total_max:
            self._worst = f"{broker.receive_buffer_bytes} bytes of receive buffers"
        for connection in broker.connections:
            if connection.outbox.frames_queued > FRAMES_MAX:
                self._worst = f"{connection.outbox.frames_queued} frames queued for one connection"
            if connection.buffer_bytes > LIMITS.frame_bytes_max + 1024 * 1024:
                self._worst = f"{connection.buffer_bytes} bytes of receive buffer for one connection"
            since = connection.outbox.sending_since if connection.client == DEAF else connection.opened_at
            if since is not None and connection.client in ("", NAME, DEAF) and broker.now() - since > LET_GO_S:
                self._worst = f"a peer is still connected after {LET_GO_S:.0f} s"

    async def gone(self) -> None:
        """Wait until the broker has let every peer go, and record what they cost."""
        if not self._came:
            return
        await self._world.until(lambda: not self._here)
        question = f"{self._came} slow and malicious peers cost bounded memory and are let go"
        self._world.probe("G20", question, not self._worst, self._worst or "bounded")


def _greeting(name: str = NAME) -> bytes:
    connection = Connection(Role.CLIENT, frame_bytes_max=LIMITS.frame_bytes_max)
    return b"".join(bytes(part) for part in connection.send(Hello(VERSION_MIN, VERSION_MAX, name)))


async def _ask_and_never_read(stream: ByteStream, amount: int) -> NoReturn:
    await stream.send_all(_greeting(DEAF))
    fetch = _FETCH.pack(bytes(16), 0, 0, 0, 1_000, 0)
    kind, payload = (Kind.FETCH, fetch) if amount % 2 else (Kind.PING, b"")
    for first in range(1, DEAF_REQUESTS_MAX, DEAF_PER_SEND):
        ids = range(first, first + DEAF_PER_SEND)
        await stream.send_all(b"".join(_FRAME.pack(len(payload), kind, 0, 0, one) + payload for one in ids))
    await trio.sleep_forever()


async def _read_to_end(stream: ByteStream) -> None:
    """Wait until the broker ends the stream."""
    while await stream.receive_some(65_536):
        pass
    raise trio.BrokenResourceError("the broker ended the stream")
