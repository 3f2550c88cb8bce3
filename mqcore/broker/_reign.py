"""A reign: everything of a broker that lives as long as one epoch, in one nursery that is left by cancelling it.

Partitions, the group commit and the topics belong to the reign and to nothing else. The node keeps one reference to it
and drops that when the reign ends; what comes late then meets a closed log, not a flag that somebody has to look at.
Must not know of listeners, connections or sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import attrs
import trio

from mqcore.abc import Notice, OffsetStore
from mqcore.broker._cursor_log import CURSORS_KEY, open_cursor_log
from mqcore.broker._group_commit import GroupCommit
from mqcore.broker._group_room import GroupRoom
from mqcore.broker._partition import Partition
from mqcore.broker._producer_names import NameRoom
from mqcore.broker._reign_set import METADATA_KEY, ReignSet, SetAuthority
from mqcore.broker._retention import Retention, open_retained
from mqcore.broker._set_policy import may_report_flushed_only, strongest_policy
from mqcore.broker._short_metadata import MetadataShortener
from mqcore.broker._topics import Topic, Topics, delete_logs, report_unknown_logs
from mqcore.broker._unopened import UnopenedLogs
from mqcore.config import BrokerConfig, ClusterTable, TopicConfig, build_of
from mqcore.errors import (
    CommandNotPossibleError,
    MqcoreError,
    NotPrimaryError,
    OutcomeUnknownError,
    RejectedError,
)
from mqcore.guarantees import FlushPolicy, check_available, check_build, least_level, raise_refusals
from mqcore.log import IncomingBatch, LogStore, MetadataLog, PartitionLog, partition_log_name, partition_salt
from mqcore.ports import ClockStep, Ports
from mqcore.protocol import Code
from mqcore.replication import CommitPolicy, Member, SetRecord, UnflushedTotal, capped_replication

__all__ = ["Reign", "SetUp"]


@attrs.frozen
class SetUp:
    """By what a node reigns in a set: the ``record`` that names its reign, and who keeps that for a given reign.

    ``may_reply``: whether the lease holds now; None where there is none (R16). ``node_came``: called when one follows.
    ``silent_us``: by node, for how long it has been silent already.
    """

    record: SetRecord
    cluster: ClusterTable
    authority_of: Callable[[Reign], SetAuthority]
    may_reply: Callable[[], bool] | None = None
    node_came: Callable[[], None] = lambda: None
    silent_us: Mapping[bytes, int] = {}


class Reign:
    """One run of this node as primary, on an open store. ``run`` it; ``partitions`` are those opened so far.

    ``flush_policy``: of topics that name none. ``report`` takes what an operator should know; ``ended`` is called as
    the first thing that happens when the reign is left. ``set_up``: the record by which this node reigns in a set, and
    what keeps it. ``offset_store``: where cursors of groups are kept; None: in a log of the store.
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
        clock_step: ClockStep,
        set_up: SetUp | None = None,
        offset_store: OffsetStore | None = None,
    ) -> None:
        self.config = config
        self.limits = config.limits
        self.store = store
        self.offset_store = offset_store
        self.flush_policy = flush_policy
        self.partitions: dict[tuple[bytes, int], Partition] = {}
        self.unflushed = UnflushedTotal(config.flush.total_bytes_max)
        self.group_commit = GroupCommit(store, ports.clock.monotonic_us)
        self.topics = Topics(
            MetadataLog(store, self._commit_metadata), config.limits, ports, report, is_copied=set_up is not None
        )
        self.groups = GroupRoom(
            self, ports.clock.monotonic_us, report, may_reply=None if set_up is None else set_up.may_reply
        )
        self.names = NameRoom(self.groups.cursors, config.limits, ports)
        self.retention = Retention(self, config.retention, ports.clock, clock_step, report)
        sets = () if config.cluster is None else config.cluster.sets
        self.topics.before_write = self._make_ready_for
        self.topics.set_names = tuple(each.name for each in sets) if len(sets) > 1 else ()
        self._capabilities = store.backend.capabilities
        self._build = build_of(config, self._capabilities)
        self._now_us = ports.clock.monotonic_us
        self._report = report
        self._ended = ended
        self._opening: dict[tuple[bytes, int], trio.Event] = {}
        self._metadata: Partition | None = None
        self._over: CommandNotPossibleError | None = None
        self._set_up = set_up
        self._copies_cap = None if set_up is None else set_up.record.copies_cap
        self._copies_min = self._copies_under(TopicConfig())
        self._is_manual = set_up is None or set_up.may_reply is None
        self._unopened = UnopenedLogs(self.open_partition, report, self._unopened_changed)
        self.set: ReignSet | None = None
        """The replica set; None for a broker that is alone."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the reign, and reign until cancelled; ``task_status`` is told when it can serve.

        Raises ``StorageError``, ``CorruptionError``, ``RefusedError``. However it ends, nothing of it acts any more
        when this returns: what waits ends unknown, appends and flushes under way have ended, and the store can be
        reigned on again.
        """
        record = None if self._set_up is None else self._set_up.record
        await (self.store.reign() if record is None else self.store.reign(record.epoch, record.reign_id))
        try:
            self._metadata = self._partition(self.store.metadata, self._own_policy(record))
            await self.topics.replay()
            self._check_stored_topics()
            await self._report_flushed_only()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._close_when_left)
                await nursery.start(self.group_commit.run)
                if self._set_up is None:
                    await self._prepare_topics()
                else:
                    await self._begin_set(self._set_up, nursery)
                nursery.start_soon(self.retention.run)
                nursery.start_soon(self.groups.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            # Again, for a partition that was being opened. No checkpoint before ``leave`` closes the logs: nothing can
            # be acknowledged, or begin, in between.
            self._close()
            await self.store.leave()

    async def _begin_set(self, set_up: SetUp, nursery: trio.Nursery) -> None:
        """Open every log, for each counts in what the set has to hold (R6, R10), and begin to take replicas."""
        authority = set_up.authority_of(self)
        own_set = self.set = ReignSet(
            Member(self.store.node_id, self.store.incarnation),
            set_up.record,
            authority,
            store=self.store,
            limits=self.limits,
            cluster=set_up.cluster,
            now_us=self._now_us,
            report=self._report,
            changed=self._record_changed,
            carried=self._record_carried,
            came=set_up.node_came,
            silent_us=set_up.silent_us,
        )
        assert self._metadata is not None
        await nursery.start(authority.begin, set_up.record)
        own_set.began(METADATA_KEY, self._metadata, self._own_policy(set_up.record))
        await self.groups.cursors.open()
        for topic in list(self.topics.by_id.values()):
            for index in self.own_partitions(topic):
                await self._unopened.open(topic.id, index)
        self._count_copies()
        nursery.start_soon(self._unopened.run)
        await nursery.start(own_set.run)
        # Not waited for: what it commits waits for replicas, which come once this node serves.
        nursery.start_soon(self._prepare_topics)
        nursery.start_soon(MetadataShortener(self, self._metadata, self._report).run)

    def _unopened_changed(self, number: int) -> None:
        if self.set is not None:
            self.set.unopened_changed(number)

    def _count_copies(self) -> None:
        """Tell the set the largest ``copies`` of its topics, the one that new topics get included (R8)."""
        if self.set is not None:
            # As the topics ask for them: a cap is the record's, and goes again.
            copies = [self._copies_under(topic.config) for topic in self.topics.by_id.values()]
            self._copies_min = max(self._copies_under(TopicConfig()), *copies, 1)
            self.set.copies_min_changed(self._copies_min)

    def _copies_under(self, config: TopicConfig) -> int:
        return self._policy_under(config, None).copies_min

    async def _report_flushed_only(self) -> None:
        """Begin, or cease, to be a member of the set whose unflushed bytes count for nothing (R2 b)."""
        if self._set_up is not None:
            configs = [topic.config for topic in self.topics.by_id.values()] or [TopicConfig()]
            policies = [self._policy_under(config, None) for config in configs]
            await self.store.report_flushed_only(may_report_flushed_only(self._capabilities, policies))

    async def _make_ready_for(self, config: TopicConfig) -> None:
        """Have the metadata log wait for replicas before it takes the first topic that does (R13)."""
        if self._set_up is not None and not self._policy_under(config, None).counts_flushed_only:
            await self.store.report_flushed_only(False)
        if self.set is not None and self._copies_under(config) > self._copies_min:
            self._copies_min = self._copies_under(config)
            self._record_carried(self.set.record)

    def _record_changed(self, record: SetRecord) -> None:
        self._record_carried(record)
        if record.copies_cap != self._copies_cap:
            self._copies_cap = record.copies_cap
            for topic in list(self.topics.by_id.values()):
                self._give_policy(topic)

    def _record_carried(self, record: SetRecord) -> None:
        policy = self._own_policy(record)
        for key, partition in self._own_logs():
            partition.set_policy(policy)
            if self.set is not None:
                self.set.policy_changed(key, policy)

    def _own_policy(self, record: SetRecord | None) -> CommitPolicy:
        return strongest_policy(record, self._capabilities, copies_min=self._copies_min, is_manual=self._is_manual)

    def _own_logs(self) -> list[tuple[tuple[bytes, int], Partition]]:
        """The logs of no topic, with their keys: under the strongest policy of the set (R13)."""
        logs = ((METADATA_KEY, self._metadata), (CURSORS_KEY, self.groups.cursors.partition))
        return [(key, each) for key, each in logs if each is not None]

    async def open_cursors(self) -> Partition:
        """Open the log of cursors for this reign; once. Raises as ``LogStore.open_log``."""
        log = await open_cursor_log(self.store, self.topics)
        partition = self._partition(log, policy := self._own_policy(None if self.set is None else self.set.record))
        if self.set is not None:
            self.set.began(CURSORS_KEY, partition, policy)
        return partition

    async def _close_when_left(self) -> None:
        # In a task of its own: what waits shielded for a flush holds the nursery up, and with it who waits for answers.
        try:
            await trio.sleep_forever()
        finally:
            self._close()

    def _close(self) -> None:
        self._ended()
        if self.set is not None:
            self.set.close()
        self.groups.close()
        error = self._over = CommandNotPossibleError(f"the reign of epoch {self.store.epoch} is over on this node")
        for partition in self._all_partitions():
            partition.close(Code.NOT_PRIMARY, error)

    def _all_partitions(self) -> list[Partition]:
        return [*(each for _, each in self._own_logs()), *self.partitions.values()]

    async def _commit_metadata(self, make: Callable[[], IncomingBatch], appended: Callable[[], None]) -> int:
        assert self._metadata is not None
        return await self._metadata.commit(make, appended)

    def _check_stored_topics(self) -> None:
        stored = {topic.name: topic.config for topic in self.topics.by_id.values()}
        raise_refusals(check_build(build_of(self.config, self._capabilities, {**self.config.topics, **stored})))

    async def _prepare_topics(self) -> None:
        for topic_id in list(self.topics.deleted):
            await self.remove_logs(topic_id)
        await delete_logs(self.store, self.topics.gone)  # this node may have been away when the others removed them
        for name, config in self.config.topics.items() if self.keeps_map else ():
            if name not in self.topics.by_name:
                self.check_topic_config(name, config)
                await self.topic_created(await self.topics.create(name, config))
        await self._open_unflushed()
        await report_unknown_logs(self.store, self.topics, self.limits, self._report)

    async def _open_unflushed(self) -> None:
        """Open the partitions of which the last reign in this process left something unflushed.

        Until then it would be in no window and in no total: acknowledged, and waited for by no flush (G03).
        """
        unflushed = self.store.unflushed()
        for topic in list(self.topics.by_id.values()) if unflushed else []:
            for index in self.own_partitions(topic):
                if partition_log_name(topic.id, index) in unflushed:
                    await self.open_partition(topic.id, index)

    def held_up_at(self, partition: Partition, hold_max_ms: int) -> int | None:
        """Offset from which a replica still copies the log, for ``hold_max_ms`` at most (R15)."""
        return None if self.set is None else self.set.held_up_at(partition, hold_max_ms)

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
                log = await open_retained(self.store, self.topics, name, salt)
                # Asked again: the topic may have been altered, or deleted, meanwhile.
                topic = self._topic_of(topic_id, index)
                self.partitions[key] = self._partition_of(topic, log)
                if self._over is not None:  # while the log was being opened, whose task is a connection's
                    self.partitions[key].close(Code.NOT_PRIMARY, self._over)
                if self.set is not None:
                    self.set.began(key, self.partitions[key], self._policy_of(topic))
                    self._unopened.opened(*key)
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
        if not self._is_own(topic, index):
            raise self.not_here(topic.owner_of(index))
        doubt = self.topics.in_doubt.get(topic_id)
        if doubt is not None:
            raise OutcomeUnknownError(f"topic {topic.name!r} may be deleted, which a restart will tell: {doubt}")
        return topic

    @property
    def keeps_map(self) -> bool:
        """Whether this set keeps the map of topics: the first one of the cluster, or the only one."""
        own_set = self.config.own_set
        return own_set is None or not self.topics.set_names or self.topics.set_names[0] == own_set.name

    def own_partitions(self, topic: Topic) -> list[int]:
        """Numbers of the partitions of ``topic`` that this set owns."""
        return [index for index in range(topic.partitions) if self._is_own(topic, index)]

    def _is_own(self, topic: Topic, index: int) -> bool:
        own_set = self.config.own_set
        return own_set is None or topic.owner_of(index) in (None, own_set.name)

    def not_here(self, set_name: str | None) -> NotPrimaryError:
        """The refusal of what another set does: it names the nodes of that set."""
        sets = () if self.config.cluster is None else self.config.cluster.sets
        urls = [node.urls[0] for each in sets if each.name == set_name for node in each.nodes]
        text = f"set {set_name} does that, and this node is in another one"
        return NotPrimaryError(text, code=Code.NOT_PRIMARY, epoch=0, urls=urls)

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
            may_reply=None if self._set_up is None else self._set_up.may_reply,
        )

    def _partition_of(self, topic: Topic, log: PartitionLog) -> Partition:
        log.least_level = least_level(self._build, self._policy_of(topic).replication)
        partition = self._partition(log, self._policy_of(topic), topic.config.private_tags)
        partition.claims = self.names.check_for(topic.id, topic.name)
        return partition

    def _policy_of(self, topic: Topic) -> CommitPolicy:
        return self._policy_under(topic.config, self._copies_cap)

    def _policy_under(self, config: TopicConfig, copies_cap: int | None) -> CommitPolicy:
        return CommitPolicy(
            flush=config.flush or self.flush_policy,
            weakest_send=config.weakest_send,
            replication=capped_replication(config.replication or self.config.replication.value, copies_cap),
            stable_only=config.visible == "stable",
        )

    async def topic_created(self, topic: Topic) -> None:
        """Open the partitions of a new topic where there are replicas, which get every log from its beginning."""
        if self.set is not None:
            self._count_copies()
            for index in self.own_partitions(topic):
                await self._unopened.open(topic.id, index)

    def topic_altered(self, topic: Topic) -> None:
        """Give the open partitions of ``topic`` its new policy."""
        self._give_policy(topic)
        self._count_copies()

    def _give_policy(self, topic: Topic) -> None:
        for index in range(topic.partitions):
            partition = self.partitions.get((topic.id, index))
            if partition is not None:
                partition.set_policy(policy := self._policy_of(topic))
                partition.log.least_level = least_level(self._build, policy.replication)
                partition.private_tags = frozenset(topic.config.private_tags)
                if self.set is not None:
                    self.set.policy_changed((topic.id, index), policy)

    async def remove_logs(self, topic_id: bytes) -> None:
        """Remove the logs of a deleted topic and note that they are gone; done again after a crash in between."""
        self.groups.topic_gone(topic_id)
        self._unopened.topic_gone(topic_id)
        await self.retire_partitions(topic_id, Code.UNKNOWN_TOPIC, CommandNotPossibleError("the topic was deleted"))
        await delete_logs(self.store, [topic_id])
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
        if self.set is not None:
            for key in keys:
                self.set.gone(key)

    def check_topic_config(self, name: str, config: TopicConfig) -> None:
        """Raise ``RefusedError`` for a topic that the build cannot keep, its stated ``survive`` included."""
        build = build_of(self.config, self._capabilities, {name: config})
        raise_refusals([*check_build(build), *check_available(build)])

    def stop_failed(self) -> None:
        """Stop the partitions of logs that have stopped after a failed flush, at once (G11)."""
        for partition in self._all_partitions():
            if partition.log.failed is not None:
                partition.stop(partition.log.failed)
