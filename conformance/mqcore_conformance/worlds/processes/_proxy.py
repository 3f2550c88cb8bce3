"""A proxy between clients and the broker, over any transport: cuts at a byte, stalls, duplicates, closes one direction.

It reads frames only as far as it must to duplicate a whole one. What TCP and Unix sockets never do it does not do
either: bytes of a reply, which carries no checksum, are never changed; a batch, which carries one, may get bytes twice.
Must not know what is sent or judged.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable, Iterator

import attrs
import trio

from mqcore.abc import ByteStream, Link
from mqcore.errors import MqcoreError
from mqcore.protocol import Kind
from mqcore.registry import create_transport
from mqcore_conformance.certificates import with_options_of
from mqcore_conformance.plans import FaultPlan

READ_BYTES = 65_536
_HEAD = struct.Struct("<IBBHI")
BATCH_AT = _HEAD.size + 24
"""Where the batch begins in a frame that carries one."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
AFTER_STRIKE_S = 0.3
_GONE = (MqcoreError, OSError, trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.define(eq=False)
class ProxiedConnection:
    """A client's stream and the one to the broker. ``scope`` ends both."""

    client: ByteStream
    broker: ByteStream
    scope: trio.CancelScope


class Proxy:
    """Listens at ``url`` (known once it runs) and forwards to ``broker_url``. ``hit`` is called with every strike."""

    def __init__(self, listen_url: str, broker_url: str, rng: random.Random, hit: Callable[[str, str], None]) -> None:
        self.url = listen_url
        self._broker_url = broker_url
        self._rng = rng
        self._hit = hit
        self._pending: list[FaultPlan] = []
        self._passed: dict[int, int] = {}
        self._gates: dict[str, trio.Event] = {}
        self._connections: set[ProxiedConnection] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with await create_transport(self.url).listen() as listener, trio.open_nursery() as nursery:
            self.url = str(with_options_of(listener.url, self.url))
            task_status.started()
            while True:
                nursery.start_soon(self._serve_link, await listener.accept())

    async def _serve_link(self, link: Link) -> None:
        """Forward every stream of a client's link, all of them over one link to the broker."""
        try:
            async with await create_transport(self._broker_url).connect() as broker, trio.open_nursery() as nursery:
                with contextlib.suppress(trio.EndOfChannel):
                    while True:
                        nursery.start_soon(self._serve, await link.accept_stream(), broker)
        except* _GONE:  # the client, or the broker, and with it the other one
            pass
        finally:
            await trio.aclose_forcefully(link)

    async def strike(self, fault: FaultPlan) -> None:
        """Do what ``fault`` says, to the next bytes that pass; a stall is over when this returns."""
        if fault.kind != "proxy-stall":
            self._pending.append(fault)
            return
        directions = ("to-broker", "from-broker") if fault.target == "both" else (fault.target,)
        gates = {direction: trio.Event() for direction in directions}
        self._gates.update(gates)
        if self._connections:
            self._hit(fault.kind, fault.target)
        await trio.sleep(fault.duration_us / 1e6)
        for direction, gate in gates.items():
            gate.set()
            self._gates.pop(direction, None)

    def heal(self) -> None:
        """Strike no more."""
        self._pending.clear()
        for gate in self._gates.values():
            gate.set()
        self._gates.clear()

    async def _serve(self, client: ByteStream, link: Link) -> None:
        try:
            try:
                broker = await link.open_stream()
            except _GONE:
                return
            with trio.CancelScope() as scope:
                connection = ProxiedConnection(client, broker, scope)
                self._connections.add(connection)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._pump, connection, "to-broker")
                        nursery.start_soon(self._pump, connection, "from-broker")
                finally:
                    self._connections.discard(connection)
                    with trio.CancelScope(shield=True):
                        await trio.aclose_forcefully(broker)
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(client)

    async def _pump(self, connection: ProxiedConnection, direction: str) -> None:
        to_broker = direction == "to-broker"
        source = connection.client if to_broker else connection.broker
        target = connection.broker if to_broker else connection.client
        frames = _Frames()
        try:
            while data := await source.receive_some(READ_BYTES):
                gate = self._gates.get(direction)
                if gate is not None:
                    await gate.wait()
                frames.add(bytes(data))
                for piece, is_frame in frames.pieces():
                    if not await self._forward(connection, direction, target, piece, is_frame):
                        return
            await _send_eof(target)
            if to_broker:
                return  # the broker may still answer what it was asked
        except _GONE:
            pass
        connection.scope.cancel()

    async def _forward(
        self, connection: ProxiedConnection, direction: str, target: ByteStream, piece: bytes, is_frame: bool
    ) -> bool:
        """Send a piece on, or do what is to be done to it. False when this direction is over."""
        fault = next((each for each in self._pending if each.target.startswith(direction)), None)
        if fault is None:
            await target.send_all(piece)
            return True
        how = fault.target.partition("/")[2]
        if fault.kind == "proxy-cut":
            return await self._cut(connection, fault, how, target, piece)
        suitable = is_frame and (how == "frame" or (piece[4] == Kind.PRODUCE and len(piece) > BATCH_AT + 1))
        self._passed[id(fault)] = self._passed.get(id(fault), -1) + suitable
        if not suitable or self._passed[id(fault)] < fault.amount:
            await target.send_all(piece)
            return True
        self._pending.remove(fault)
        self._hit(fault.kind, fault.target)
        if how == "frame":
            await target.send_all(piece + piece)
            return True
        at = self._rng.randrange(BATCH_AT, len(piece) - 1)
        again = piece[at : at + self._rng.randint(1, 64)]
        await target.send_all(piece[:at] + again + piece[at:])
        await trio.sleep(AFTER_STRIKE_S)  # what it makes of that; then the connection, out of step, is of no more use
        connection.scope.cancel()
        return False

    async def _cut(
        self, connection: ProxiedConnection, fault: FaultPlan, how: str, target: ByteStream, piece: bytes
    ) -> bool:
        passed = self._passed.get(id(fault), 0)
        if passed + len(piece) <= fault.amount:
            self._passed[id(fault)] = passed + len(piece)
            await target.send_all(piece)
            return True
        self._pending.remove(fault)
        await target.send_all(piece[: fault.amount - passed])
        self._hit(fault.kind, fault.target)
        if how != "reset":
            await _send_eof(target)
        if how == "half-close":
            await trio.sleep(AFTER_STRIKE_S)  # the other direction goes on for a while
        connection.scope.cancel()
        return False


class _Frames:
    """Cuts a stream of frames apart."""

    def __init__(self) -> None:
        self._data = bytearray()

    def add(self, data: bytes) -> None:
        """Take in what arrived."""
        self._data += data

    def pieces(self) -> Iterator[tuple[bytes, bool]]:
        """Give whole frames; and as it is what does not look like frames."""
        while len(self._data) >= _HEAD.size:
            size = _HEAD.size + _HEAD.unpack_from(self._data)[0]
            if size > FRAME_BYTES_MAX:
                yield bytes(self._data), False
                self._data.clear()
                return
            if len(self._data) < size:
                return
            yield bytes(self._data[:size]), True
            del self._data[:size]


async def _send_eof(stream: ByteStream) -> None:
    if isinstance(stream, trio.abc.HalfCloseableStream):
        await stream.send_eof()
