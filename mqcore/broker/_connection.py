"""One client stream on the broker: reads frames, groups produced batches by partition, hands fetches to the outbox.

The shell around ``mqcore.protocol.Connection``. Everything that arrived with one read is taken in together: batches for
one partition make one append, and their replies one write. Time limits are watched by the broker's one watchdog, not by
a timer per read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio

from mqcore.abc import ByteStream
from mqcore.batch import PRIVATE_TAG_MIN, BatchHeader, validate_batch
from mqcore.broker._codes import code_of, facts_of
from mqcore.broker._copy import PartitionCopy
from mqcore.broker._fetch_answer import refusal_of_tags
from mqcore.broker._gate import Permit, Visitor
from mqcore.broker._group_room import GroupRoom
from mqcore.broker._group_visits import GroupVisits
from mqcore.broker._outbox import Outbox
from mqcore.broker._partition import Partition
from mqcore.broker._sends import Send, append_in_shares
from mqcore.broker._sessions import Sessions
from mqcore.errors import CorruptionError, MqcoreError, NotPrimaryError, RejectedError, RemoteProtocolError
from mqcore.limits import Limits
from mqcore.log import IncomingBatch
from mqcore.protocol import (
    Call,
    Code,
    Commit,
    Connection,
    End,
    Fatal,
    Fetch,
    Hello,
    Message,
    Ping,
    Pong,
    Produce,
    Result,
    Role,
    State,
    Sync,
    Welcome,
)

__all__ = ["ClientConnection"]

_CALLS_AT_ONCE = 8
"""Administrative calls of one connection that are under way; while there are more, nothing is read."""

_FETCH_WAIT_MS_SHORTEST = 50
"""What a fetch that would wait is let wait, however low its limit: answered at once, it would be repeated at once."""

_BUFFER_BYTES_MAX = 1024 * 1024
_LARGE_RECEIVE_BYTES = 8 * 1024
_SMALL_RECEIVES_MAX = 64


_NO_PARTITIONS: Mapping[tuple[bytes, int], Partition] = {}


class Primary(Protocol):
    """What a connection sees of a reign."""

    @property
    def partitions(self) -> Mapping[tuple[bytes, int], Partition]:
        """The open ones, by topic id and index."""
        ...


class Host(Protocol):
    """What a connection asks of the node that it belongs to."""

    limits: Limits
    sessions: Sessions
    receive_buffer_bytes: int
    refusal: tuple[Code, str] | None
    now: Callable[[], float]
    mends_damage: Callable[[str, int], bool]

    @property
    def reign(self) -> Primary | None:
        """The present one."""
        ...

    async def open_partition(self, topic_id: bytes, index: int, *, may_be_copy: bool) -> Partition | PartitionCopy:
        """Return a partition, opened at its first use, or a replica's copy of it."""
        ...

    async def call(self, operation: str, arguments: Mapping[str, Any], permit: Permit | None = None) -> object:
        """Answer an administrative call of who has ``permit``."""
        ...

    @property
    def groups(self) -> GroupRoom:
        """The consumer groups of the present reign. Raises ``NotPrimaryError``."""
        ...

    def topic_name(self, topic_id: bytes) -> str | None:
        """The name of a topic that is known here and now."""
        ...

    def welcome(self, session: bytes) -> Welcome:
        """The answer to a greeting."""
        ...

    def report_defect(self, action: str, error: Exception) -> str:
        """Report what no part should ever raise; return what the client is told."""
        ...


class ClientConnection:
    """Serves one stream of one client, of which ``first`` was read already. ``permit`` None: it may do everything."""

    def __init__(
        self, node: Host, stream: ByteStream, visitor: Visitor, *, first: bytes = b"", permit: Permit | None = None
    ) -> None:
        limits = node.limits
        self.peer = visitor.peer
        self.client = ""
        self.session = b""
        self.cancel_scope = trio.CancelScope()
        self.opened_at = node.now()
        self.receiving_since: float | None = None
        self.buffer_bytes = 0
        self._small_receives = 0
        self._fetch_wait_ms_max = max(limits.fetch_wait_ms_max, _FETCH_WAIT_MS_SHORTEST)
        self._node = node
        self._stream = stream
        self._permit = permit
        self._admit = visitor.admit
        self._connection = Connection(
            Role.BROKER,
            frame_bytes_max=limits.frame_bytes_max,
            requests_in_flight_max=limits.requests_in_flight_max,
            bytes_in_flight_max=limits.bytes_in_flight_max,
            buffer_bytes_max=_BUFFER_BYTES_MAX,
            admin_bytes_max=limits.admin_bytes_max,
        )
        self._connection.receive_buffer()[: len(first)] = first
        if first:
            self._connection.received(len(first))
        mends = node.mends_damage
        self.outbox = Outbox(
            stream, self._connection, fetch_bytes_max=limits.fetch_bytes_max,
            fetches_parked_max=limits.fetches_parked_max, now=node.now, mends=mends,
        )  # fmt: skip
        self._groups = GroupVisits(node, self.outbox, permit)
        self._sends: dict[Partition, list[Send]] = {}
        self._nursery: trio.Nursery | None = None
        self._calls = trio.Semaphore(_CALLS_AT_ONCE)

    @property
    def is_greeted(self) -> bool:
        """Whether the handshake is done."""
        return self._connection.own_state is not State.START

    async def serve(self) -> None:
        """Serve the stream until it ends, breaks a rule, or ``cancel_scope`` is cancelled; always closes it."""
        try:
            with self.cancel_scope:
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    self.outbox.start(nursery)
                    # A task, not a call: each read would resume the frames of every caller on the way to it.
                    nursery.start_soon(self._receive, nursery)
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._groups.end()
            self.outbox.close()
            self._node.receive_buffer_bytes -= self.buffer_bytes
            if self.session:
                self._node.sessions.leave(self.session)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await trio.aclose_forcefully(self._stream)

    async def _receive(self, nursery: trio.Nursery) -> None:
        """Take in what the peer sends until it ends or breaks a rule; then ``nursery`` is cancelled.

        One function for the whole way of a frame: what is called for each is paid for with each.
        """
        connection, stream, node, outbox = self._connection, self._stream, self._node, self.outbox
        permit = self._permit
        produces, consumes = (None, None) if permit is None else (permit.produces, permit.consumes)
        outbox.reader = trio.lowlevel.current_task()
        try:
            while True:
                buffer = connection.receive_buffer()
                if connection.buffer_bytes != self.buffer_bytes:
                    self._account_for_buffer()
                self.receiving_since = node.now()
                size = await stream.receive_into(buffer)
                self.receiving_since = None  # what takes long from here on is not the peer's doing
                connection.received(size)
                reign = node.reign  # looked up anew with each read: another one may have begun
                partitions = reign.partitions if reign is not None else _NO_PARTITIONS
                while (message := connection.next_message()) is not None:
                    if type(message) is Produce:
                        if produces is not None and message.topic_id not in produces and not await self._may(message):
                            continue
                        partition = partitions.get((message.topic_id, message.partition)) or await self._open(message)
                        if partition is not None:
                            self._take_produce(partition, message)
                    elif type(message) is Fetch:
                        if consumes is not None and message.topic_id not in consumes and not await self._may(message):
                            continue
                        partition = partitions.get((message.topic_id, message.partition)) or await self._open(message)
                        if partition is not None:
                            self._take_fetch(partition, message)
                    elif not await self._take_other(message):
                        return
                if self._sends:
                    await self._append_sends()
                if not outbox.flush_now():
                    await outbox.flush()
                if outbox.is_sending:
                    await outbox.room()
                if size == 0:
                    return
                if size >= _LARGE_RECEIVE_BYTES:
                    self._small_receives = 0
                else:
                    self._small_receives += 1
                    if self._small_receives > _SMALL_RECEIVES_MAX:  # it has had little to say for a while
                        connection.shrink_buffer()
        except RemoteProtocolError as error:
            # First of all: from here on nothing but this may be sent, and batches under way find no one to answer.
            outbox.push(Fatal(error.code, str(error)))
            await self._append_sends()
            await self._flush_briefly()
        finally:
            nursery.cancel_scope.cancel()

    def _account_for_buffer(self) -> None:
        """Keep the sum of all receive buffers within its limit: who would exceed it is turned away."""
        node, size = self._node, self._connection.buffer_bytes
        node.receive_buffer_bytes += size - self.buffer_bytes
        self.buffer_bytes = size
        limit = node.limits.receive_buffer_bytes_total_max
        if node.receive_buffer_bytes > limit:
            raise RemoteProtocolError(
                f"receive buffers of all connections exceed {limit} bytes (limit receive_buffer_bytes_total_max)",
                code=Code.TOO_MANY_CONNECTIONS,
            )

    async def _may(self, message: Produce | Fetch) -> bool:
        """Whether the peer may write to, or read, the topic of ``message``; if not, it has been answered."""
        permit = self._permit
        assert permit is not None
        name = self._node.topic_name(message.topic_id)
        if name is None:  # nothing to protect: opening it says that it is not known, or where it is
            opened = await self._open(message)
            name = self._node.topic_name(message.topic_id)
            if name is None:
                if opened is not None:
                    self.outbox.failed(message.request_id, Code.UNKNOWN_TOPIC, "the topic is not known any more")
                return False
        try:
            if isinstance(message, Produce):
                permit.check("produce", f"topic:{name}")
                permit.remember(permit.produces, message.topic_id)
            else:
                permit.check("consume", f"topic:{name}")
                permit.remember(permit.consumes, message.topic_id)
        except RejectedError as error:
            if not (isinstance(message, Produce) and message.one_way):
                self.outbox.failed(message.request_id, error.code, str(error))
            return False
        return True

    async def _open(self, message: Produce | Fetch) -> Any:
        """Open the partition that ``message`` names, at its first use; None when it was answered with a failure."""
        facts: dict[str, object] = {}
        may_be_copy = isinstance(message, Fetch) and message.from_replica
        try:
            return await self._node.open_partition(message.topic_id, message.partition, may_be_copy=may_be_copy)
        except NotPrimaryError as error:
            code, text, facts = error.code, str(error), facts_of(error)
        except RejectedError as error:
            code, text = error.code, str(error)
        except MqcoreError as error:
            code, text = Code.STORAGE_STOPPED, str(error)
        except Exception as error:  # a defect of a part ends the request that met it, loudly, and nothing else
            code, text = Code.STORAGE_STOPPED, self._node.report_defect("opening a partition", error)
        if not (isinstance(message, Produce) and message.one_way):
            self.outbox.failed(message.request_id, code, text, facts)
        return None

    def _take_produce(self, partition: Partition, message: Produce) -> None:
        """Check one batch and keep it for the append of everything that arrived together; refused: answered at once."""
        sink = None if message.one_way else self.outbox
        refusal: tuple[int, str] | None = self._node.refusal or partition.refusal(message.policy)
        if refusal is None:
            try:
                header = validate_batch(message.batch, self._node.limits)
            except RejectedError as error:
                refusal = (error.code or Code.MALFORMED_BATCH, str(error))
            except CorruptionError as error:
                refusal = (Code.CHECKSUM, str(error))
            else:
                if header.codec >= PRIVATE_TAG_MIN or header.body_encoding >= PRIVATE_TAG_MIN:
                    refusal = _refusal_of_private(header, partition.private_tags)
                if refusal is None:
                    batch = IncomingBatch(header, message.batch)
                    send = Send(batch, message.policy, message.request_id, sink, message.claim)
                    sends = self._sends.get(partition)
                    if sends is None:
                        self._sends[partition] = [send]
                    else:
                        sends.append(send)
                    return
        if sink is not None:
            code, text = refusal
            sink.failed(message.request_id, code, text)

    async def _append_sends(self) -> None:
        sends_of, self._sends = self._sends, {}
        for partition, sends in sends_of.items():
            if partition.share.is_open:
                await partition.append(sends)
            else:
                await append_in_shares(partition, sends, self.outbox.flush)

    def _take_fetch(self, partition: Partition, message: Fetch) -> None:
        limits = self._node.limits
        if message.wait_ms > self._fetch_wait_ms_max:
            message = message._replace(wait_ms=self._fetch_wait_ms_max)
        if message.tags and (refusal := refusal_of_tags(message, limits)):
            self.outbox.failed(message.request_id, Code.INVALID_REQUEST, refusal)
            return
        if message.wait_ms and len(self.outbox.parked) >= limits.fetches_parked_max:
            text = f"more than {limits.fetches_parked_max} fetches wait on this connection (limit fetches_parked_max)"
            self.outbox.failed(message.request_id, Code.LIMIT_REACHED, text)
            return
        self.outbox.fetch(partition, message)

    async def _take_other(self, message: Message) -> bool:
        """Handle what is not on the hot path; False when nothing more is to be read."""
        if isinstance(message, Call):
            await self._append_sends()
            assert self._nursery is not None
            await self._calls.acquire()
            self._nursery.start_soon(self._call, message)
        elif isinstance(message, Ping):
            self.outbox.push(Pong(message.request_id))
        elif isinstance(message, Sync | Commit):
            await self._append_sends()
            if self._groups.needs_opening(message):
                assert self._nursery is not None
                self._nursery.start_soon(self._groups.open_and_take, message, self.client)
            else:
                self._groups.take(message, self.client)
        elif isinstance(message, Hello):
            self._greet(message)
        elif isinstance(message, End):
            await self._append_sends()
            await self._finish()
            return False
        else:
            assert isinstance(message, Fatal)
            return False
        return True

    def _greet(self, hello: Hello) -> None:
        self._admit()
        self.client = hello.client
        self.session = self._node.sessions.join(hello.session, "" if self._permit is None else self._permit.principal)
        self.outbox.push(self._node.welcome(self.session))

    async def _call(self, call: Call) -> None:
        await self.outbox.room()
        try:
            value = await self._node.call(call.operation, call.arguments, self._permit)
        except MqcoreError as error:
            self.outbox.failed(call.request_id, code_of(error), str(error), facts_of(error))
        except Exception as error:  # as above
            text = self._node.report_defect(f"operation {call.operation}", error)
            self.outbox.failed(call.request_id, Code.READ_FAILED, text)
        else:
            self.outbox.push(Result(call.request_id, value))
        self._calls.release()
        await self.outbox.flush()

    async def _finish(self) -> None:
        """Answer what is in flight, as far as it can be within the grace period, then end this direction too."""
        self._groups.answer_all()
        with trio.move_on_after(self._node.limits.drain_grace_ms / 1000):
            await self.outbox.drained()
        self.outbox.push(End())
        await self.outbox.flush()

    async def drain(self) -> None:
        """Answer what is in flight, tell the client that the broker stops, and end."""
        self._groups.answer_all()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.outbox.drained()
        await self.refuse(Code.SHUTTING_DOWN, "the broker is stopping")
        self.cancel_scope.cancel()

    async def refuse(self, code: int, text: str) -> None:
        """Tell the peer why the connection is over, if it listens, and leave."""
        self.outbox.push(Fatal(code, text))
        await self._flush_briefly()

    async def _flush_briefly(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError), trio.move_on_after(1):
            await self.outbox.flush()

    async def close_stalled(self, code: Code, reason: str) -> None:
        """End the connection of a peer that stalled; it is told why unless it does not even read."""
        if self.outbox.sending_since is None:
            await self.refuse(code, reason)
        self.cancel_scope.cancel()

    def expelled(self) -> tuple[Code, str] | None:
        """Why the peer, which had logged in, is known no more; None while it is."""
        if self._permit is None or self._permit.is_valid:
            return None
        return Code.LOGIN_REQUIRED, f"{self._permit.principal} is known no more"

    def stalled(self, now: float) -> tuple[Code, str] | None:
        """Why the watchdog should end this connection at time ``now``, or None."""
        limits = self._node.limits
        if not self.is_greeted and now - self.opened_at > limits.handshake_timeout_ms / 1000:
            return Code.HANDSHAKE_TIMEOUT, "no handshake in time"
        silent = 0.0 if self.receiving_since is None else now - self.receiving_since
        if self._connection.bytes_pending and silent > limits.frame_timeout_ms / 1000:
            return Code.STALLED, "a frame that stopped arriving"
        since = self.outbox.sending_since
        if since is not None and now - since > limits.send_stall_timeout_ms / 1000:
            return Code.STALLED, "replies left unread"
        if since is None and silent > limits.idle_timeout_ms / 1000 and not self._connection.requests_in_flight:
            return Code.STALLED, "silence"
        return None


def _refusal_of_private(header: BatchHeader, named: frozenset[int]) -> tuple[int, str] | None:
    for kind, tag in (("codec", header.codec), ("body encoding", header.body_encoding)):
        if tag >= PRIVATE_TAG_MIN and tag not in named:
            text = f"{kind} {tag} is private and the topic does not name it; add it to the topic's private_tags"
            return Code.UNKNOWN_CODEC, text
    return None
