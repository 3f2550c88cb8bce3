"""The bare driver: qh3 on Trio with nothing of ours around it, as the limit of what a transport on that engine can do.

No credit, no goodbye, no limits, no retry: what is measured beside it is what those cost. Public names of qh3 only.
"""

from __future__ import annotations

import itertools
import math
import socket
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from mqcore_quic import DatagramSocket

__all__ = ["BareConnection", "BareEndpoint", "BareStream"]

UNSENT_MAX = 1024 * 1024
PIECE_BYTES = 65_536
BUFFER_BYTES = 4 * 1024 * 1024
WINDOW_BYTES = 2 * 1024 * 1024
IDLE_S = 600.0


def _configuration(folder: Path, *, is_client: bool) -> Any:
    from qh3.quic.configuration import QuicConfiguration

    found = QuicConfiguration(
        is_client=is_client,
        alpn_protocols=["bench"],
        idle_timeout=IDLE_S,
        max_datagram_size=1_200,
        max_stream_data=WINDOW_BYTES,
        max_data=1 << 30,
        probe_datagram_size=False,
        connection_id_length=8,
    )
    if is_client:
        found.server_name = "127.0.0.1"
        found.load_verify_locations(cadata=(folder / "ca.pem").read_bytes())
    else:
        found.load_cert_chain(str(folder / "server.pem"), str(folder / "server.key"))
    return found


class BareStream:
    """A stream; one task may send while another receives."""

    def __init__(self, connection: BareConnection, stream_id: int) -> None:
        self.stream_id = stream_id
        self.reader: trio.lowlevel.Task | None = None
        self.writer: trio.lowlevel.Task | None = None
        self.arrived: deque[bytes] = deque()
        self._connection = connection

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive what the next packets brought, whatever its size."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self.arrived:
            self.reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        data = self.arrived.popleft() if len(self.arrived) == 1 else b"".join(self.arrived)
        self.arrived.clear()
        return data

    async def send_all(self, data: bytes) -> None:
        """Send ``data``; waits while the engine has much that is not sent."""
        await trio.lowlevel.checkpoint_if_cancelled()
        engine = self._connection.engine
        engine.send_stream_data(self.stream_id, data, False)
        self._connection.flush()
        while engine.get_send_buffer_size(self.stream_id) > UNSENT_MAX:
            self.writer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self.reader = self.writer = None
        return trio.lowlevel.Abort.SUCCEEDED


class BareConnection:
    """A connection of the engine and its streams."""

    def __init__(self, endpoint: BareEndpoint, engine: Any) -> None:
        self.engine = engine
        self.ready = trio.Event()
        self.streams: dict[int, BareStream] = {}
        self.armed = math.inf
        self._endpoint = endpoint

    def open_stream(self) -> BareStream:
        """Open a stream, which the peer sees with its first byte."""
        stream_id = self.engine.get_next_available_stream_id()
        self.engine.send_stream_data(stream_id, b"", False)
        self.streams[stream_id] = BareStream(self, stream_id)
        return self.streams[stream_id]

    def handle_events(self) -> None:
        """Take in what the engine tells."""
        from qh3.quic import events

        while (event := self.engine.next_event()) is not None:
            if type(event) is events.StreamDataReceived:
                stream = self.streams.get(event.stream_id)
                if stream is None:
                    stream = self.streams[event.stream_id] = BareStream(self, event.stream_id)
                    self._endpoint.opened(stream)
                stream.arrived.append(event.data)
                self._wake(stream, "reader")
            elif type(event) is events.HandshakeCompleted:
                self.ready.set()
            elif type(event) is events.ConnectionIdIssued:
                self._endpoint.by_id[event.connection_id] = self
        for stream in self.streams.values():
            if stream.writer is not None and self.engine.get_send_buffer_size(stream.stream_id) <= UNSENT_MAX // 2:
                self._wake(stream, "writer")

    @staticmethod
    def _wake(stream: BareStream, who: str) -> None:
        task = getattr(stream, who)
        if task is not None:
            setattr(stream, who, None)
            trio.lowlevel.reschedule(task)

    def flush(self) -> None:
        """Send what there is, and keep the engine's time."""
        self._endpoint.send(self.engine.datagrams_to_send(trio.current_time()))
        at = self.engine.get_timer()
        if at is not None and at < self.armed:
            self.armed = at
            self._endpoint.arm(self, at)


class BareEndpoint:
    """A socket with its connections. ``handle`` is run for each stream that a peer opens."""

    def __init__(self, folder: Path, peer: Any, handle: Callable[[BareStream], Awaitable[None]] | None) -> None:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        if peer is None:
            sock.bind(("127.0.0.1", 0))
        else:
            sock.connect(peer)
        self.port: int = sock.getsockname()[1]
        self.by_id: dict[bytes, BareConnection] = {}
        self._sock = DatagramSocket(sock, peer, BUFFER_BYTES)
        self._peer = peer
        self._configuration = _configuration(folder, is_client=peer is not None)
        self._handle = handle
        self._timers: dict[BareConnection, float] = {}
        self._timer_scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Receive and keep time until cancelled."""
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._keep_time)
            task_status.started()
            try:
                while True:
                    await self._sock.wait_readable()
                    while found := self._sock.receive():
                        for address, runs in itertools.groupby(found, lambda datagrams: datagrams.address):
                            self._route([data for run in runs for data in run.pieces], address)
                        await trio.lowlevel.checkpoint()
            finally:
                self._sock.close()

    async def connect(self) -> BareConnection:
        """Shake hands with the peer."""
        from qh3.quic.connection import QuicConnection

        connection = BareConnection(self, QuicConnection(configuration=self._configuration))
        self.by_id[connection.engine.host_cid] = connection
        connection.engine.connect(self._peer, trio.current_time())
        connection.flush()
        await connection.ready.wait()
        return connection

    def _route(self, found: list[bytes], address: Any) -> None:
        runs: dict[BareConnection, list[bytes]] = {}
        for data in found:
            destination = data[1:9] if not data[0] & 0x80 else data[6 : 6 + data[5]]
            connection = self.by_id.get(destination)
            if connection is None and data[0] & 0x80 and self._peer is None:
                connection = self._accept(destination)
            if connection is not None:
                runs.setdefault(connection, []).append(data)
        for connection, datagrams in runs.items():
            connection.engine.receive_many_datagrams(datagrams, address, trio.current_time())
            connection.handle_events()
            connection.flush()

    def _accept(self, destination: bytes) -> BareConnection:
        from qh3.quic.connection import QuicConnection

        engine = QuicConnection(configuration=self._configuration, original_destination_connection_id=destination)
        connection = self.by_id[destination] = self.by_id[engine.host_cid] = BareConnection(self, engine)
        return connection

    def opened(self, stream: BareStream) -> None:
        """A peer has opened a stream."""
        if self._handle is not None:
            self._nursery.start_soon(self._handle, stream)

    def send(self, datagrams: list[tuple[bytes, Any]]) -> None:
        """Send them; what the socket has no room for waits."""
        if datagrams and not self._sock.send(datagrams):
            self._nursery.start_soon(self._send_kept)

    async def _send_kept(self) -> None:
        while self._sock.kept:
            await trio.lowlevel.wait_writable(self._sock.sock)
            self._sock.send_kept()

    def arm(self, connection: BareConnection, at: float) -> None:
        """Have its timer handled at ``at``."""
        self._timers[connection] = at
        if self._timer_scope is not None and at < self._timer_scope.deadline:
            self._timer_scope.deadline = at

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope(deadline=min(self._timers.values(), default=math.inf)) as self._timer_scope:
                await trio.sleep_forever()
            now = trio.current_time()
            for connection in [each for each, at in self._timers.items() if at <= now]:
                del self._timers[connection]
                connection.armed = math.inf
                connection.engine.handle_timer(now)
                connection.handle_events()
                connection.flush()
            await trio.lowlevel.checkpoint()
