"""The node: what of a broker lives as long as the process. Storage, identity, listeners, connections, sessions, limits.

What lives as long as an epoch is a ``Reign``, of which the node holds one reference and drops it when the reign ends.
``Node.serve`` opens the storage, opens a reign, then listens; leaving it stops accepting, answers what is in flight
within ``drain_grace_ms``, and closes the storage with a clean mark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import trio

from mqcore.abc import (
    ByteStream,
    Notice,
    Peer,
    StorageBackend,
    StorageContext,
    Transport,
    TransportContext,
    ignore_notice,
)
from mqcore.broker._connection import ClientConnection
from mqcore.broker._listeners import accept_links, listening
from mqcore.broker._partition import Partition
from mqcore.broker._reign import Reign
from mqcore.broker._sessions import Sessions
from mqcore.broker.operations import AdminScope, carry_out
from mqcore.config import BrokerConfig, build_of
from mqcore.errors import CommandNotPossibleError, FlushFailedError, RejectedError, StorageError
from mqcore.guarantees import check_available, check_build, raise_refusals
from mqcore.log import LogStore
from mqcore.nurseries import root_cause
from mqcore.ports import Ports
from mqcore.protocol import VERSION_MAX, Code, Welcome
from mqcore.registry import create_storage, create_transport

__all__ = ["Node"]

_WATCHDOG_PERIODS_PER_TIMEOUT = 4
_CONNECTIONS_LEAST = 16
_DESCRIPTORS_SPARE = 64


def _connections_max(config: BrokerConfig, ports: Ports) -> int:
    """The limit, or what half of the process's descriptors allow.

    The other half is the storage's: a flush that finds none cannot be told from one that failed, and stops its logs.
    """
    try:
        open_files_max = ports.files.open_files_max()
    except OSError:  # a platform without such a limit, where only the memory parts run
        return config.limits.connections_max
    return min(config.limits.connections_max, max(_CONNECTIONS_LEAST, open_files_max // 2 - _DESCRIPTORS_SPARE))


def _not_primary() -> RejectedError:
    text = "this node does not reign at the moment: ask again"
    return RejectedError(text, code=Code.NOT_PRIMARY, name=Code.NOT_PRIMARY.label, retryable=True)


def _unknown_operation(text: str) -> RejectedError:
    return RejectedError(text, code=Code.UNKNOWN_OPERATION, name=Code.UNKNOWN_OPERATION.label)


class Node:
    """One broker, composed and not yet running. ``report`` takes what an operator should know.

    ``reign`` is the present one; None while there is none. ``urls`` are what clients connect to.
    """

    def __init__(self, config: BrokerConfig, *, ports: Ports, report: Callable[[Notice], None] = ignore_notice) -> None:
        self.config = config
        self.limits = config.limits
        self.urls: list[str] = []
        self.reign: Reign | None = None
        self.connections: dict[ClientConnection, None] = {}  # in order of arrival, so that a seed replays
        self.receive_buffer_bytes = 0
        self.refusal: tuple[Code, str] | None = None
        self.now = trio.current_time
        self.report = report
        self.sessions = Sessions(ports)
        self.connections_max = _connections_max(config, ports)
        self._ports = ports
        context = StorageContext(ports=ports, limits=config.limits, report=report, stopped=self._storage_stopped)
        self._backend = create_storage(config.storage.url, context, config.storage.options)
        links = TransportContext(random=ports.random, report=report, limits=config.limits)
        self._transports = [create_transport(listen.url, links, listen.options) for listen in config.listen]
        build = build_of(config, self._backend.capabilities)
        raise_refusals([*check_build(build), *check_available(build)])
        self._flush_policy = build.flush_policy
        self.store = LogStore(
            self._backend,
            ports=ports,
            limits=config.limits,
            node_name=config.name,
            report=report,
            stopped=self._logs_stopped,
        )
        self._stop = trio.Event()
        self._reign_scope = trio.CancelScope()

    # running

    async def serve(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until ``stop`` is called or cancelled; ``task_status`` gets the URLs that clients connect to.

        Cancelled, the storage is still closed in order, without waiting for what is in flight: that ends unknown.
        """
        try:
            await self.store.open()
            async with trio.open_nursery() as nursery:
                reigned = trio.Event()
                nursery.start_soon(self._reign_on, reigned)
                await reigned.wait()
                nursery.start_soon(self._watchdog)
                async with listening(self._transports) as listeners, trio.open_nursery() as accepting:
                    self.urls = [str(listener.url) for listener in listeners]
                    for transport, listener in zip(self._transports, listeners, strict=True):
                        multiplexed = transport.capabilities.multiplexed
                        accepting.start_soon(accept_links, listener, multiplexed, nursery, self._serve_stream)
                    task_status.started(self.urls)
                    await self._stop.wait()
                    accepting.cancel_scope.cancel()
                await self._drain()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self.store.aclose()

    def stop(self) -> None:
        """Begin an orderly stop: no new connections, no new sends, what is in flight is answered. Idempotent."""
        self.refusal = (Code.DRAINING, "the broker is stopping: send again elsewhere or later")
        self._stop.set()

    def leave_reign(self) -> None:
        """End the present reign; what waits in it ends unknown. A node that is alone opens the next one at once.

        Connections stay: until then their requests are answered with ``not-primary``, which clients repeat.
        """
        self._reign_scope.cancel()

    async def _reign_on(self, reigned: trio.Event) -> None:
        """Reign, one reign after the other, until cancelled; ``reigned`` is set once there has been one."""
        # An event, not a task status: a reign that is left before it has begun says nothing, and the next one may.
        while True:
            with trio.CancelScope() as self._reign_scope:
                await self._reign_once(reigned)
            await trio.lowlevel.checkpoint()

    async def _reign_once(self, reigned: trio.Event) -> None:
        reign = Reign(
            self.config,
            self.store,
            ports=self._ports,
            flush_policy=self._flush_policy,
            report=self.report,
            ended=self._reign_ended,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(reign.run)
            self.reign = reign
            reigned.set()

    def _reign_ended(self) -> None:
        self.reign = None

    async def _serve_stream(self, stream: ByteStream, peer: Peer) -> None:
        connection = ClientConnection(self, stream, peer)
        if len(self.connections) >= self.connections_max:
            why = "" if self.connections_max == self.limits.connections_max else ", or ulimit -n for the broker"
            text = f"this broker takes {self.connections_max} connections (limit connections_max{why})"
            await connection.refuse(Code.TOO_MANY_CONNECTIONS, text)
            await trio.aclose_forcefully(stream)
            return
        self.connections[connection] = None
        try:
            await connection.serve()
        except* Exception as group:
            # A defect in serving one connection ends that connection, loudly, and no other.
            text = f"serving {peer.address} failed: {root_cause(group)!r}"
            self.report(Notice("connection-failed", text))
            if sys.flags.dev_mode:
                raise
        finally:
            del self.connections[connection]

    async def _watchdog(self) -> None:
        """End connections that stalled; one task for all, so that a read needs no timer of its own."""
        limits = self.limits
        shortest_ms = min(
            limits.handshake_timeout_ms, limits.frame_timeout_ms, limits.send_stall_timeout_ms, limits.idle_timeout_ms
        )
        while True:
            await trio.sleep(shortest_ms / 1000 / _WATCHDOG_PERIODS_PER_TIMEOUT)
            now = self.now()
            for connection in list(self.connections):
                stalled = connection.stalled(now)
                if stalled is not None:
                    code, reason = stalled
                    self.report(Notice("connection-stalled", f"{connection.peer.address} is let go: {reason}"))
                    await connection.close_stalled(code, reason)

    async def _drain(self) -> None:
        with trio.move_on_after(self.limits.drain_grace_ms / 1000):
            async with trio.open_nursery() as nursery:
                for connection in list(self.connections):
                    nursery.start_soon(connection.drain)

    # what connections ask

    async def open_partition(self, topic_id: bytes, index: int) -> Partition:
        """Return a partition of the present reign. Raises ``RejectedError`` (not-primary), and as ``Reign`` does."""
        reign = self._present_reign()
        try:
            partition = await reign.open_partition(topic_id, index)
        except StorageError as error:
            if self.reign is not reign and error.kind == "closed":
                raise _not_primary() from error
            raise
        if self.reign is not reign:
            raise _not_primary()
        return partition

    def _present_reign(self) -> Reign:
        if self.reign is None:
            raise _not_primary()
        return self.reign

    def report_defect(self, action: str, error: Exception) -> str:
        """Report what no part should ever raise, and return the sentence that the client is told."""
        text = f"{action} failed in a way that is a defect: {error!r}"
        self.report(Notice("defect", text))
        return text

    def _storage_stopped(self, error: FlushFailedError) -> None:
        """The storage reports logs that stopped, also when no flush of this broker met the error (G11)."""
        self.store.stop(error)

    def _logs_stopped(self, names: list[str], error: FlushFailedError) -> None:
        if self.reign is not None:
            self.reign.stop_failed()
        facts = {"logs": names[: self.limits.log_names_reported_max]}
        self.report(Notice("logs-stopped", f"{len(names)} logs stopped, such as {names[0]}: {error}", facts))

    def welcome(self, session: bytes) -> Welcome:
        """The answer to a client's greeting."""
        return Welcome(
            VERSION_MAX,
            session,
            self.store.node_id,
            self.config.name,
            self.store.incarnation,
            self.store.epoch,
            self.store.set_id,
            "replica" if self.reign is None else "primary",
            self.limits.published(),
        )

    async def call(self, operation: str, arguments: Mapping[str, Any]) -> object:
        """Answer an administrative call. Raises ``MqcoreError``."""
        reign = self.reign
        try:
            scope = AdminScope(self.limits, self._present_reign, self.status, self.operate)
            return await carry_out(scope, operation, arguments)
        except StorageError as error:
            if self.reign is not reign and error.kind == "closed" and not error.appended:
                raise _not_primary() from error
            raise

    async def operate(self, part: str, operation: str, arguments: Mapping[str, Any]) -> object:
        """Hand an operation to the part called ``part`` (a URL's scheme). Raises ``MqcoreError``."""
        parts: list[StorageBackend | Transport] = [self._backend, *self._transports]
        for candidate in parts:
            if candidate.url.scheme == part:
                try:
                    return await candidate.operate(operation, arguments)
                except CommandNotPossibleError as error:
                    raise _unknown_operation(str(error)) from error
        raise _unknown_operation(f"this broker has no part {part!r}")

    def status(self) -> dict[str, object]:
        """Facts of the running broker, as JSON values."""
        return {
            "name": self.config.name,
            "node_id": self.store.node_id.hex(),
            "incarnation": self.store.incarnation,
            "epoch": self.store.epoch,
            "listen": self.urls,
            "storage": {"url": str(self._backend.url), **self._backend.facts()},
            "connections": len(self.connections),
            "connections_max": self.connections_max,
            "sessions": len(self.sessions),
            "reigns": self.reign is not None,
            **(self.reign.status() if self.reign is not None else {}),
        }
