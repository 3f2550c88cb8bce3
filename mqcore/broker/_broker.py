"""The broker: composes storage, listeners, topics and the flusher, and runs them in one nursery.

Structure before anything else: ``Broker.serve`` opens the storage, replays the metadata log to its end, then listens;
leaving it stops accepting, answers what is in flight within ``drain_grace_ms``, closes the storage with a clean mark.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import trio

from mqcore.abc import Link, Listener, Notice, StorageBackend, StorageContext, Transport
from mqcore.broker._admin import OPERATIONS
from mqcore.broker._connection import ClientConnection
from mqcore.broker._group_commit import GroupCommit
from mqcore.broker._partition import Partition
from mqcore.broker._sessions import Sessions
from mqcore.broker._topics import Topic, Topics
from mqcore.config import BrokerConfig, TopicConfig, build_of
from mqcore.errors import CommandNotPossibleError, FlushFailedError, MqcoreError, OutcomeUnknownError, RejectedError
from mqcore.guarantees import check_available, check_build, raise_refusals
from mqcore.log import LogStore, MetadataLog, PartitionLog, partition_log_name, partition_salt
from mqcore.ports import Ports
from mqcore.protocol import VERSION_MAX, Code, Welcome
from mqcore.registry import create_storage, create_transport
from mqcore.replication import CommitPolicy, Member, UnflushedTotal

__all__ = ["Broker"]

_WATCHDOG_PERIODS_PER_TIMEOUT = 4
_CONNECTIONS_LEAST = 16
_DESCRIPTORS_SPARE = 64
_FAILURES_SHOWN_MAX = 100


def _connections_max(config: BrokerConfig, ports: Ports) -> int:
    """The limit, or what half of the process's descriptors allow.

    The other half is the storage's: a flush that finds none cannot be told from one that failed, and stops its logs.
    """
    try:
        open_files_max = ports.files.open_files_max()
    except OSError:  # a platform without such a limit, where only the memory parts run
        return config.limits.connections_max
    return min(config.limits.connections_max, max(_CONNECTIONS_LEAST, open_files_max // 2 - _DESCRIPTORS_SPARE))


def _ignore(_: Notice) -> None:
    pass


class Broker:
    """One broker, composed and not yet running. ``report`` hears what an operator should know."""

    def __init__(self, config: BrokerConfig, *, ports: Ports, report: Callable[[Notice], None] = _ignore) -> None:
        self.config = config
        self.limits = config.limits
        self.urls: list[str] = []
        self.partitions: dict[tuple[bytes, int], Partition] = {}
        self.connections: dict[ClientConnection, None] = {}  # in order of arrival, so that a seed replays
        self.receive_buffer_bytes = 0
        self.refusal: tuple[Code, str] | None = None
        self.now = trio.current_time
        self.report = report
        self.sessions = Sessions(ports)
        self.connections_max = _connections_max(config, ports)
        self._ports = ports
        self._opening: dict[tuple[bytes, int], trio.Event] = {}
        self._unflushed = UnflushedTotal(config.flush.total_bytes_max)
        context = StorageContext(ports=ports, limits=config.limits, report=report, stopped=self._storage_stopped)
        self._backend = create_storage(config.storage.url, context, config.storage.options)
        self._transports = [create_transport(listen.url, listen.options) for listen in config.listen]
        build = build_of(config, self._backend.capabilities)
        raise_refusals([*check_build(build), *check_available(build)])
        self.flush_policy = build.flush_policy
        self.store = LogStore(
            self._backend,
            ports=ports,
            limits=config.limits,
            node_name=config.name,
            report=report,
            stopped=self._logs_stopped,
        )
        self.flusher = GroupCommit(self.store, ports.clock.monotonic_us)
        self.topics = Topics(MetadataLog(self.store), config.limits, ports, report)
        self._stop = trio.Event()
        self._accepting = trio.CancelScope()

    # running

    async def serve(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until ``stop`` is called or cancelled; ``task_status`` gets the URLs that clients connect to.

        Cancelled, the storage is still closed in order, without waiting for what is in flight: that ends unknown.
        """
        try:
            await self._open_storage()
            async with trio.open_nursery() as nursery:
                await nursery.start(self.flusher.run)
                await self._prepare_topics()
                listeners = [await transport.listen() for transport in self._transports]
                self.urls = [str(listener.url) for listener in listeners]
                nursery.start_soon(self._watchdog)
                async with trio.open_nursery() as accepting:
                    for transport, listener in zip(self._transports, listeners, strict=True):
                        multiplexed = transport.capabilities.multiplexed
                        accepting.start_soon(self._accept, listener, multiplexed, nursery)
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

    async def _open_storage(self) -> None:
        await self.store.open()
        await self.store.reign()
        await self.topics.replay()
        stored = {topic.name: topic.config for topic in self.topics.by_id.values()}
        raise_refusals(check_build(build_of(self.config, self._backend.capabilities, {**self.config.topics, **stored})))

    async def _prepare_topics(self) -> None:
        for topic_id in list(self.topics.deleted):
            await self.remove_logs(topic_id)
        for name, config in self.config.topics.items():
            if name not in self.topics.by_name:
                self.check_topic_config(name, config)
                await self.topics.create(name, config)
        await self._report_unknown_logs()

    async def _report_unknown_logs(self) -> None:
        topics = self.topics.by_id.values()
        known = {partition_log_name(topic.id, index) for topic in topics for index in range(topic.partitions)}
        unknown = [name for name in await self.store.list_logs() if name not in known]
        if unknown:
            shown = unknown[: self.limits.log_names_reported_max]
            text = f"{len(unknown)} logs belong to no topic; they are kept as they are"
            self.report(Notice("unknown-logs", text, {"logs": shown}))

    async def _accept(self, listener: Listener, multiplexed: bool, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                link = await listener.accept()
                nursery.start_soon(self._serve_link, link, multiplexed)

    async def _serve_link(self, link: Link, multiplexed: bool) -> None:
        try:
            async with link:
                if not multiplexed:
                    await self._serve_stream(link)
                    return
                async with trio.open_nursery() as nursery:
                    while True:
                        await nursery.start(self._serve_stream, link)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel):
            pass  # the peer left: its streams have seen the same

    async def _serve_stream(self, link: Link, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        stream = await link.accept_stream()
        task_status.started()
        connection = ClientConnection(self, stream, link.peer)
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
            cause: BaseException = group
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            self.report(Notice("connection-failed", f"serving {link.peer.address} failed: {cause!r}"))
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

    # partitions

    async def open_partition(self, topic_id: bytes, index: int) -> Partition:
        """Return a partition, its log opened and recovered at the first call.

        Raises ``RejectedError`` (unknown-topic, unknown-partition) or what opening the log raised.
        """
        key = (topic_id, index)
        while (partition := self.partitions.get(key)) is None:
            opening = self._opening.get(key)
            if opening is not None:
                await opening.wait()
                continue
            self._topic_of(topic_id, index)
            name, salt = partition_log_name(topic_id, index), partition_salt(topic_id, index)
            self._opening[key] = trio.Event()
            try:
                log = await self.store.open_log(name, salt=salt)
                # Asked again: the topic may have been altered, or deleted, meanwhile.
                self.partitions[key] = self._partition_of(self._topic_of(topic_id, index), log)
            except RejectedError:
                await self.store.delete_log(name)
                raise
            finally:
                self._opening.pop(key).set()
        return partition

    def _topic_of(self, topic_id: bytes, index: int) -> Topic:
        topic = self.topics.by_id.get(topic_id)
        if topic is None:
            text = "no topic of that id here: it was deleted, or belongs to another broker"
            raise RejectedError(text, code=Code.UNKNOWN_TOPIC, name=Code.UNKNOWN_TOPIC.label)
        if not 0 <= index < topic.partitions:
            text = f"topic {topic.name!r} has {topic.partitions} partitions, 0 to {topic.partitions - 1}, not {index}"
            raise RejectedError(text, code=Code.UNKNOWN_PARTITION, name=Code.UNKNOWN_PARTITION.label)
        doubt = self.topics.in_doubt.get(topic_id)
        if doubt is not None:
            raise OutcomeUnknownError(f"topic {topic.name!r} may be deleted, which a restart will tell: {doubt}")
        return topic

    def _partition_of(self, topic: Topic, log: PartitionLog) -> Partition:
        capabilities = self._backend.capabilities
        return Partition(
            log,
            private_tags=topic.config.private_tags,
            own=Member(self.store.node_id, self.store.incarnation),
            policy=self._policy_of(topic),
            append_level=capabilities.append_level,
            flush_level=capabilities.flush_level,
            total=self._unflushed,
            flusher=self.flusher,
            now_us=self._ports.clock.monotonic_us,
            epoch=self.store.epoch,
            report=self.report,
        )

    def _policy_of(self, topic: Topic) -> CommitPolicy:
        config = topic.config
        return CommitPolicy(
            flush=config.flush or self.flush_policy,
            weakest_send=config.weakest_send,
            stable_only=config.visible == "stable",
        )

    def report_defect(self, action: str, error: Exception) -> str:
        """Report what no part should ever raise, and return the sentence that the client is told."""
        text = f"{action} failed in a way that is a defect: {error!r}"
        self.report(Notice("defect", text))
        return text

    def _storage_stopped(self, error: FlushFailedError) -> None:
        """The storage tells of logs that stopped, whoever's flush it was, or nobody's (G11)."""
        self.store.stop(error)

    def _logs_stopped(self, names: list[str], error: FlushFailedError) -> None:
        """Stop the partitions of logs that have just stopped, at once."""
        for partition in self.partitions.values():
            if partition.log.failed is not None:
                partition.stop(partition.log.failed)
        facts = {"logs": names[: self.limits.log_names_reported_max]}
        self.report(Notice("logs-stopped", f"{len(names)} logs stopped, such as {names[0]}: {error}", facts))

    def topic_altered(self, topic: Topic) -> None:
        """Give the open partitions of ``topic`` its new policy."""
        for index in range(topic.partitions):
            partition = self.partitions.get((topic.id, index))
            if partition is not None:
                partition.set_policy(self._policy_of(topic))
                partition.private_tags = frozenset(topic.config.private_tags)

    async def remove_logs(self, topic_id: bytes) -> None:
        """Remove the logs of a deleted topic and note that they are gone; done again after a crash in between."""
        prefix = f"{topic_id.hex()}-"
        await self.retire_partitions(topic_id, CommandNotPossibleError("the topic was deleted"))
        for name in await self.store.list_logs():
            if name.startswith(prefix):
                await self.store.delete_log(name)
        await self.topics.removed(topic_id)

    async def retire_partitions(self, topic_id: bytes, error: MqcoreError) -> None:
        """Take the open partitions of a topic out of service, all at once, and wait for appends under way."""
        keys = [key for key in self.partitions if key[0] == topic_id]
        for partition in [self.partitions.pop(key) for key in keys]:
            await partition.retire(error)
            self.flusher.forget(partition)

    def check_topic_config(self, name: str, config: TopicConfig) -> None:
        """Raise ``RefusedError`` for a topic that the build cannot keep, its stated ``survive`` included."""
        raise_refusals(check_build(build_of(self.config, self._backend.capabilities, {name: config})))

    # what connections ask

    def welcome(self, session: bytes) -> Welcome:
        """The answer to a client's greeting."""
        limits = self.limits
        return Welcome(
            VERSION_MAX,
            session,
            self.store.node_id,
            self.config.name,
            self.store.incarnation,
            self.store.epoch,
            limits.requests_in_flight_max,
            limits.bytes_in_flight_max,
            limits.frame_bytes_max,
            limits.batch_bytes_max,
            limits.fetch_bytes_max,
        )

    async def call(self, operation: str, arguments: Mapping[str, Any]) -> object:
        """Answer an administrative call. Raises ``MqcoreError``."""
        handler = OPERATIONS.get(operation)
        if handler is None:
            text = f"unknown operation {operation!r}; known: {', '.join(sorted(OPERATIONS))}"
            raise RejectedError(text, code=Code.UNKNOWN_OPERATION, name=Code.UNKNOWN_OPERATION.label)
        return await handler(self, arguments)

    async def operate(self, part: str, operation: str, arguments: Mapping[str, Any]) -> object:
        """Hand an operation to the part called ``part`` (a URL's scheme). Raises ``MqcoreError``."""
        parts: list[StorageBackend | Transport] = [self._backend, *self._transports]
        for candidate in parts:
            if candidate.url.scheme == part:
                handler = getattr(candidate, "operate", None)
                if handler is None:
                    text = f"part {part!r} has no operations"
                    raise RejectedError(text, code=Code.UNKNOWN_OPERATION, name=Code.UNKNOWN_OPERATION.label)
                return await handler(operation, arguments)
        text = f"this broker has no part {part!r}"
        raise RejectedError(text, code=Code.UNKNOWN_OPERATION, name=Code.UNKNOWN_OPERATION.label)

    def status(self) -> dict[str, object]:
        """Facts of the running broker, as JSON values."""
        failures = [str(each.failure) for each in self.partitions.values() if each.failure is not None]
        return {
            "name": self.config.name,
            "node_id": self.store.node_id.hex(),
            "incarnation": self.store.incarnation,
            "epoch": self.store.epoch,
            "listen": self.urls,
            "storage": {"url": str(self._backend.url), **self._backend.facts()},
            "topics": len(self.topics.by_name),
            "partitions_open": len(self.partitions),
            "connections": len(self.connections),
            "connections_max": self.connections_max,
            "sessions": len(self.sessions),
            "flushes": self.flusher.flushes,
            "logs_flushed": self.flusher.logs_flushed,
            "unflushed_bytes": self._unflushed.bytes_now,
            "partitions_failed": len(failures),
            "failures": failures[:_FAILURES_SHOWN_MAX],
        }
