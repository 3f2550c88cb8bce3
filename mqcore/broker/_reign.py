"""A reign: everything of a broker that lives as long as one epoch, in one nursery that is left by cancelling it.

Partitions, the group commit and the topics belong to the reign and to nothing else. The node keeps one reference to it
and drops that when the reign ends; what comes late then meets a closed log, not a flag that somebody has to look at.
Must not know of listeners, connections or sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from mqcore.abc import Notice
from mqcore.broker._group_commit import GroupCommit
from mqcore.broker._partition import Partition
from mqcore.broker._topics import Topic, Topics
from mqcore.config import BrokerConfig, TopicConfig, build_of
from mqcore.errors import CommandNotPossibleError, MqcoreError, OutcomeUnknownError, RejectedError
from mqcore.guarantees import FlushPolicy, Level, NoFlush, SyncFlush, check_build, raise_refusals
from mqcore.log import IncomingBatch, LogStore, MetadataLog, PartitionLog, partition_log_name, partition_salt
from mqcore.ports import Ports
from mqcore.protocol import Code
from mqcore.replication import CommitPolicy, Member, UnflushedTotal

__all__ = ["Reign"]

_FAILURES_SHOWN_MAX = 100


class Reign:
    """One run of this node as primary, on an open store. ``run`` it; ``partitions`` are those opened so far.

    ``flush_policy``: of topics that name none. ``report`` takes what an operator should know; ``ended`` is called as
    the first thing that happens when the reign is left.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store: LogStore,
        *,
        ports: Ports,
        flush_policy: FlushPolicy,
        report: Callable[[Notice], None],
        ended: Callable[[], None],
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.store = store
        self.flush_policy = flush_policy
        self.partitions: dict[tuple[bytes, int], Partition] = {}
        self.unflushed = UnflushedTotal(config.flush.total_bytes_max)
        self.group_commit = GroupCommit(store, ports.clock.monotonic_us)
        self.topics = Topics(MetadataLog(store, self._commit_metadata), config.limits, ports, report)
        self._capabilities = store.backend.capabilities
        self._now_us = ports.clock.monotonic_us
        self._report = report
        self._ended = ended
        self._opening: dict[tuple[bytes, int], trio.Event] = {}
        self._metadata: Partition | None = None

    async def run(
        self, epoch: int | None = None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Open the reign, and reign until cancelled; ``task_status`` is told when it can serve.

        ``epoch``: the number that the set's record gives it, None where there is no record. Raises ``StorageError``,
        ``CorruptionError``, ``RefusedError``. However it ends, nothing of it acts any more when this returns: what
        waits ends unknown, appends and flushes under way have ended, and the store can be reigned on again.
        """
        await self.store.reign(epoch)
        try:
            self._metadata = self._partition(self.store.metadata, CommitPolicy(flush=self._strongest_flush()))
            await self.topics.replay()
            self._check_stored_topics()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._close_when_left)
                await nursery.start(self.group_commit.run)
                await self._prepare_topics()
                task_status.started()
                await trio.sleep_forever()
        finally:
            # Again, for a partition that was being opened. No checkpoint before ``leave`` closes the logs: nothing can
            # be acknowledged, or begin, in between.
            self._close()
            await self.store.leave()

    async def _close_when_left(self) -> None:
        # In a task of its own, which nothing holds up: what waits shielded for a flush would keep the nursery from
        # ending, and everybody who waits from an answer for as long as a flush takes.
        try:
            await trio.sleep_forever()
        finally:
            self._close()

    def _close(self) -> None:
        self._ended()
        error = CommandNotPossibleError(f"the reign of epoch {self.store.epoch} is over on this node")
        for partition in self._all_partitions():
            partition.close(Code.NOT_PRIMARY, error)

    def _all_partitions(self) -> list[Partition]:
        own = [] if self._metadata is None else [self._metadata]
        return [*own, *self.partitions.values()]

    async def _commit_metadata(self, batch: IncomingBatch) -> int:
        assert self._metadata is not None
        return await self._metadata.commit(batch)

    def _strongest_flush(self) -> FlushPolicy:
        """The strongest policy that the set offers, for what everything else stands on (R13): never the topics' own."""
        return SyncFlush() if self._capabilities.flush_level >= Level.DISK else NoFlush()

    def _check_stored_topics(self) -> None:
        stored = {topic.name: topic.config for topic in self.topics.by_id.values()}
        raise_refusals(check_build(build_of(self.config, self._capabilities, {**self.config.topics, **stored})))

    async def _prepare_topics(self) -> None:
        for topic_id in list(self.topics.deleted):
            await self.remove_logs(topic_id)
        for name, config in self.config.topics.items():
            if name not in self.topics.by_name:
                self.check_topic_config(name, config)
                await self.topics.create(name, config)
        await self._open_unflushed()
        await self._report_unknown_logs()

    async def _open_unflushed(self) -> None:
        """Open the partitions of which the last reign in this process left something unflushed.

        Until then it would be in no window and in no total: acknowledged, and waited for by no flush (G03).
        """
        unflushed = self.store.unflushed()
        for topic in list(self.topics.by_id.values()) if unflushed else []:
            for index in range(topic.partitions):
                if partition_log_name(topic.id, index) in unflushed:
                    await self.open_partition(topic.id, index)

    async def _report_unknown_logs(self) -> None:
        topics = self.topics.by_id.values()
        known = {partition_log_name(topic.id, index) for topic in topics for index in range(topic.partitions)}
        unknown = [name for name in await self.store.list_logs() if name not in known]
        if unknown:
            shown = unknown[: self.limits.log_names_reported_max]
            text = f"{len(unknown)} logs belong to no topic; they are kept as they are"
            self._report(Notice("unknown-logs", text, {"logs": shown}))

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

    def _partition(self, log: PartitionLog, policy: CommitPolicy, private_tags: Iterable[int] = ()) -> Partition:
        capabilities = self._capabilities
        return Partition(
            log,
            private_tags=private_tags,
            own=Member(self.store.node_id, self.store.incarnation),
            policy=policy,
            append_level=capabilities.append_level,
            flush_level=capabilities.flush_level,
            total=self.unflushed,
            flusher=self.group_commit,
            now_us=self._now_us,
            epoch=self.store.epoch,
            report=self._report,
        )

    def _partition_of(self, topic: Topic, log: PartitionLog) -> Partition:
        return self._partition(log, self._policy_of(topic), topic.config.private_tags)

    def _policy_of(self, topic: Topic) -> CommitPolicy:
        config = topic.config
        return CommitPolicy(
            flush=config.flush or self.flush_policy,
            weakest_send=config.weakest_send,
            stable_only=config.visible == "stable",
        )

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
        await self.retire_partitions(topic_id, Code.UNKNOWN_TOPIC, CommandNotPossibleError("the topic was deleted"))
        for name in await self.store.list_logs():
            if name.startswith(prefix):
                await self.store.delete_log(name)
        await self.topics.removed(topic_id)

    async def retire_partitions(self, topic_id: bytes, code: Code, error: MqcoreError) -> None:
        """Take the open partitions of a topic out of service, and wait for appends under way.

        ``code`` and ``error`` are what everybody is told who waits at one of them, at once.
        """
        keys = [key for key in self.partitions if key[0] == topic_id]
        retired = [self.partitions.pop(key) for key in keys]
        for partition in retired:
            partition.close(code, error)
        for partition in retired:
            await partition.retire()
            self.group_commit.forget(partition)

    def check_topic_config(self, name: str, config: TopicConfig) -> None:
        """Raise ``RefusedError`` for a topic that the build cannot keep, its stated ``survive`` included."""
        raise_refusals(check_build(build_of(self.config, self._capabilities, {name: config})))

    def stop_failed(self) -> None:
        """Stop the partitions of logs that have stopped after a failed flush, at once (G11)."""
        for partition in self._all_partitions():
            if partition.log.failed is not None:
                partition.stop(partition.log.failed)

    def status(self) -> dict[str, object]:
        """Facts of the running reign, as JSON values."""
        failures = [str(each.failure) for each in self.partitions.values() if each.failure is not None]
        return {
            "topics": len(self.topics.by_name),
            "partitions_open": len(self.partitions),
            "flushes": self.group_commit.flushes,
            "logs_flushed": self.group_commit.logs_flushed,
            "unflushed_bytes": self.unflushed.bytes_now,
            "partitions_failed": len(failures),
            "failures": failures[:_FAILURES_SHOWN_MAX],
        }
