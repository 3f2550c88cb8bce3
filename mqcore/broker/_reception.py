"""Takes in the streams that a node's listeners accept: is a client or a replica there, who is it, and for how long.

Identity is settled before anything of a stream is parsed but its first header. Must not know what clients ask.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from copy import copy
from typing import Protocol

import trio

from mqcore.abc import ByteStream, Notice
from mqcore.broker._connection import ClientConnection, Host
from mqcore.broker._fed_reign import FedReign
from mqcore.broker._feeder import Feeder
from mqcore.broker._first_frame import FirstBytes, read_first_bytes
from mqcore.broker._gate import Gate, Permit, Visitor, refuse
from mqcore.config import BrokerConfig
from mqcore.errors import RejectedError, RemoteProtocolError
from mqcore.nurseries import one_error, root_cause
from mqcore.protocol import Code

__all__ = ["Reception"]

_WATCHDOG_PERIODS_PER_TIMEOUT = 4
_OTHERS_SPARE = 32
"""Streams beyond the most connections that clients may have, so that replicas come where clients have them all."""


class NamedReign(FedReign[Feeder], Protocol):
    """A reign as its replicas follow it, which knows the nodes of its set."""

    def name_of(self, node_id: bytes) -> str | None:
        """The name under which the set has a node; None for one that it has not."""
        ...


class ReceivingNode(Host, Protocol):
    """What is used of the node, besides what its connections use."""

    config: BrokerConfig
    connections: dict[ClientConnection, None]
    connections_max: int
    report: Callable[[Notice], None]

    @property
    def fed_reign(self) -> NamedReign | None:
        """The present reign as replicas follow it; None where there is none, or nobody follows."""
        ...


class Reception:
    """One node's. ``gate``: who may come in and do what; None: everybody everything."""

    def __init__(self, node: ReceivingNode, gate: Gate | None) -> None:
        self.gate = gate
        self._node = node
        self._others = 0  # streams of replicas, and those that have not said what they are
        self._feeders: dict[Feeder, Permit] = {}  # where logins are asked for

    @property
    def unknown_s_max(self) -> float:
        """For how long a link may stay on which nobody says who is there."""
        return math.inf if self.gate is None else self._node.limits.handshake_timeout_ms / 1000

    async def serve_stream(self, stream: ByteStream, visitor: Visitor) -> None:
        """Serve one stream of a visitor until it ends; always closes it."""
        node, first = self._node, FirstBytes(b"")
        if self.gate is not None or node.config.cluster is not None:
            if len(node.connections) + self._others >= node.connections_max + _OTHERS_SPARE:
                return await trio.aclose_forcefully(stream)
            self._others += 1
            try:
                begun = await self._first_of(stream, visitor)
                if begun is None:
                    return await trio.aclose_forcefully(stream)
                first = begun
                if first.is_follower:
                    return await self._serve_follower(stream, visitor, first)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return await trio.aclose_forcefully(stream)
            finally:
                self._others -= 1
        await self._serve_client(stream, visitor, first)
        return None

    async def _first_of(self, stream: ByteStream, visitor: Visitor) -> FirstBytes | None:
        """Return the first header of what is said once it is known who is there; None where nothing will be."""
        gate, timeout_s = self.gate, self._node.limits.handshake_timeout_ms / 1000
        if gate is None or visitor.is_known:
            return await read_first_bytes(stream, timeout_s)
        visitor.forget()  # who was deleted since has a link yet, and is nobody on its further streams
        scope = trio.CancelScope(deadline=trio.current_time() + timeout_s)
        gate.take_in(scope)
        try:
            with scope:
                first = await read_first_bytes(stream, timeout_s)
                if first.is_login:
                    if not await gate.log_in(stream, visitor, first.data):
                        return None
                    return await read_first_bytes(stream, timeout_s)
                if visitor.principal is None:  # else another stream of the link has logged in meanwhile
                    gate.identify(visitor)
                return first
            late = RemoteProtocolError("no login in time", code=Code.HANDSHAKE_TIMEOUT)
            text = f"{self._node.limits.logins_max} others came that have not said yet who they are (limit logins_max)"
            is_late = gate.let_go(scope)
            await refuse(stream, late if is_late else RemoteProtocolError(text, code=Code.TOO_MANY_LOGINS))
        except RemoteProtocolError as error:
            await refuse(stream, error)
        finally:
            gate.let_go(scope)
        return None

    async def _serve_client(self, stream: ByteStream, visitor: Visitor, first: FirstBytes) -> None:
        node = self._node
        permit = None if self.gate is None else Permit(self.gate, visitor)
        connection = ClientConnection(node, stream, visitor, first=first.data, permit=permit)
        if len(node.connections) >= node.connections_max:
            why = "" if node.connections_max == node.limits.connections_max else ", or ulimit -n for the broker"
            text = f"this broker takes {node.connections_max} connections (limit connections_max{why})"
            await connection.refuse(Code.TOO_MANY_CONNECTIONS, text)
            await trio.aclose_forcefully(stream)
            return
        node.connections[connection] = None
        try:
            await connection.serve()
        except* Exception as group:
            # A defect in serving one connection ends that connection, loudly, and no other.
            node.report(Notice("connection-failed", f"serving {visitor.peer.address} failed: {root_cause(group)!r}"))
            if sys.flags.dev_mode:
                raise
        finally:
            del node.connections[connection]

    async def _serve_follower(self, stream: ByteStream, visitor: Visitor, first: FirstBytes) -> None:
        node = self._node
        own_set = node.fed_reign
        if self.gate is not None:
            try:
                self.gate.check(visitor, "replicate", "cluster")
            except RejectedError as error:
                return await refuse(stream, RemoteProtocolError(str(error), code=error.code))
        if own_set is None or node.config.cluster is None:
            # It looks again where the primary is, and comes back if it is here by then.
            return await trio.aclose_forcefully(stream)
        gate, cluster, who = self.gate, node.config.cluster, copy(visitor)

        def check_node(name: str, node_id: bytes) -> None:
            # By its id too: that is what counts in the set, whatever the node calls itself.
            if gate is not None:
                gate.check_node(who, cluster, {name, own_set.name_of(node_id) or name})

        feeder = Feeder(
            own_set,
            stream,
            visitor.peer,
            heartbeat_ms=cluster.heartbeat_ms,
            report=node.report,
            check_node=check_node,
        )
        if self.gate is not None:
            self._feeders[feeder] = Permit(self.gate, visitor)
        visitor.admit()
        try:
            with one_error():
                await feeder.serve(first.data)
        except Exception as error:  # as with a client's connection: a defect ends this stream and no other
            text = f"serving the replica at {visitor.peer.address} failed: {error!r}"
            node.report(Notice("follower-failed", text))
            if sys.flags.dev_mode:
                raise
        finally:
            self._feeders.pop(feeder, None)

    async def watch(self) -> None:
        """End connections that stalled, or whose peer is known no more; one task for all: a read needs no timer."""
        node, limits = self._node, self._node.limits
        shortest_ms = min(
            limits.handshake_timeout_ms, limits.frame_timeout_ms, limits.send_stall_timeout_ms, limits.idle_timeout_ms
        )
        while True:
            await trio.sleep(shortest_ms / 1000 / _WATCHDOG_PERIODS_PER_TIMEOUT)
            now = node.now()
            for connection in list(node.connections):
                over = connection.stalled(now) or connection.expelled()
                if over is not None:
                    code, reason = over
                    kind = "login-ended" if code is Code.LOGIN_REQUIRED else "connection-stalled"
                    node.report(Notice(kind, f"{connection.peer.address} is let go: {reason}"))
                    await connection.close_stalled(code, reason)
            for feeder, permit in list(self._feeders.items()):
                if not (permit.is_valid and permit.allows("replicate", "cluster")):
                    text = f"{feeder.name} at {feeder.peer.address} is let go: {permit.principal} may not replicate now"
                    node.report(Notice("login-ended", text))
                    feeder.cancel_scope.cancel()
