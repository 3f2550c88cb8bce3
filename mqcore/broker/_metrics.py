"""What is measured of a running broker: read off what it knows anyway, so that no message costs anything for it.

The table ``METRICS`` is all of it; docs/metrics.md lists the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mqcore.abc import BrokerView, Metric, MetricFamily
from mqcore.broker._copy import PartitionCopy
from mqcore.broker._node import Node
from mqcore.broker._partition import Partition
from mqcore.broker._reign import Reign
from mqcore.broker._role_facts import RoleFacts
from mqcore.broker._topics import Topics

__all__ = ["METRICS", "NodeView"]

_PLACE = ("topic", "partition")
_GROUP_PLACE = ("group", "topic")


class NodeView(BrokerView):
    """``node``, which runs, as a gateway sees it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._places: dict[tuple[bytes, int], tuple[str, str]] = {}
        """Names of partitions, kept from one look to the next: ten thousand new objects cost a pause each time."""

    def status(self) -> Mapping[str, object]:
        """See ``mqcore status``."""
        return self.node.status()

    @property
    def role(self) -> RoleFacts:
        """What the present role of the node has."""
        return RoleFacts(self.node.reign, self.node.roles)

    def failures(self) -> Sequence[str]:
        """Failures of partitions, each as it was reported."""
        return self.role.failures()

    def waits_for(self) -> str:
        """Why clients cannot use the node."""
        node = self.node
        if node.refusal is not None:
            return node.refusal[1]
        follower = node.roles.follower if node.roles is not None else None
        if node.reign is None and follower is None:
            return "the node has no role yet: it neither reigns nor follows a primary"
        if node.reign is None and follower is not None and follower.session is None:
            return f"the node does not follow its primary: {follower.why}"
        return ""

    def metrics(self) -> Iterable[MetricFamily]:
        """Everything in ``METRICS``, in order."""
        for metric, value in _NODE:
            yield MetricFamily(metric, [((), _number(value(self)))])
        yield MetricFamily(_EXPIRY, [((url,), seconds) for url, seconds in self.node.certificate_seconds.items()])
        facts = self.role
        topics = facts.topics
        if topics is None:
            return
        partitions = facts.partitions()
        places = self._places = {key: self._places.get(key) or _place(key, topics) for key in partitions}
        for metric, read in _PARTITION:
            yield MetricFamily(metric, _samples(partitions, places, read))
        reign = self.node.reign
        if reign is not None and reign.groups.cursors.is_ready:
            keys = {*reign.groups.groups, *reign.groups.cursors.table.topics}
            named = [(key, topic.name) for key in sorted(keys) if (topic := topics.by_id.get(key[1])) is not None]
            for metric, count in _GROUP:
                yield MetricFamily(metric, _samples_of_groups(reign, named, count))


def _samples_of_groups(
    reign: Reign, named: Sequence[tuple[tuple[str, bytes], str]], count: Callable[[Reign, tuple[str, bytes]], int]
) -> Iterator[tuple[tuple[str, ...], int | float]]:
    for key, name in named:
        yield (key[0], name), count(reign, key)


def _members_of(reign: Reign, key: tuple[str, bytes]) -> int:
    group = reign.groups.groups.get(key)
    return 0 if group is None else group.machine.member_count


def _lag_of(reign: Reign, key: tuple[str, bytes]) -> int:
    """Of partitions that are open: what is never read or written is not opened for a figure."""
    cursors = reign.groups.cursors.table.topics.get(key)
    lag = 0
    for number, offset, _ in () if cursors is None else cursors.items():
        partition = reign.partitions.get((key[1], number))
        if partition is not None:
            lag += max(0, partition.committed_offset - max(offset, partition.log.start_offset))
    return lag


_NODE: tuple[tuple[Metric, Callable[[NodeView], float]], ...] = (
    (Metric("mqcore_up", "gauge", "1 while the broker runs."), lambda view: 1),
    (
        Metric("mqcore_ready", "gauge", "1 if clients can use the node: it reigns, or follows a primary."),
        lambda view: not view.waits_for(),
    ),
    (Metric("mqcore_primary", "gauge", "1 if the node reigns."), lambda view: view.node.reign is not None),
    (
        Metric("mqcore_epoch", "gauge", "Number of the reign that the node has or follows."),
        lambda v: v.node.store.epoch,
    ),
    (Metric("mqcore_incarnation", "gauge", "Incarnation of the node."), lambda view: view.node.store.incarnation),
    (Metric("mqcore_connections", "gauge", "Connections of clients."), lambda view: len(view.node.connections)),
    (
        Metric("mqcore_connections_max", "gauge", "Most connections of clients that the node takes."),
        lambda view: view.node.connections_max,
    ),
    (Metric("mqcore_sessions", "gauge", "Sessions of clients."), lambda view: len(view.node.sessions)),
    (
        Metric("mqcore_receive_buffer_bytes", "gauge", "Bytes that connections hold of frames that are not whole yet."),
        lambda view: view.node.receive_buffer_bytes,
    ),
    (
        Metric("mqcore_producer_names", "gauge", "Names of producers that the node's set keeps."),
        lambda view: view.node.reign.names.count if view.node.reign is not None else 0,
    ),
    (
        Metric(
            "mqcore_producers_fenced_total",
            "counter",
            "Sends refused in this reign: their name is another's now.",
        ),
        lambda view: view.node.reign.names.refused_total if view.node.reign is not None else 0,
    ),
    (Metric("mqcore_topics", "gauge", "Topics of the node's set."), lambda view: view.role.topics_count),
    (Metric("mqcore_partitions_open", "gauge", "Partitions that are open."), lambda view: len(view.role.partitions())),
    (
        Metric("mqcore_partitions_failed", "gauge", "Partitions that stopped after a failed flush or write (G11)."),
        lambda view: len(view.failures()),
    ),
    (
        Metric("mqcore_unflushed_bytes", "gauge", "Bytes acknowledged and not flushed, of all partitions (G03)."),
        lambda view: view.role.unflushed_bytes,
    ),
    (
        Metric("mqcore_flushes_total", "counter", "Group commits since the node has its present role."),
        lambda view: view.role.group_commit.flushes if view.role.group_commit is not None else 0,
    ),
    (
        Metric("mqcore_flush_logs_total", "counter", "Logs that those group commits covered."),
        lambda view: view.role.group_commit.logs_flushed if view.role.group_commit is not None else 0,
    ),
    (
        Metric("mqcore_flush_seconds_total", "counter", "Time that those group commits took."),
        lambda view: view.role.group_commit.flush_us_total / 1e6 if view.role.group_commit is not None else 0,
    ),
)

_EXPIRY = Metric(
    "mqcore_certificate_expiry_seconds",
    "gauge",
    "Seconds until the certificate that a listener shows expires; negative once it has.",
    ("listener",),
)

_PARTITION: tuple[tuple[Metric, Callable[[Partition | PartitionCopy], int]], ...] = (
    (
        Metric("mqcore_partition_start_offset", "gauge", "First offset that is kept.", _PLACE),
        lambda partition: partition.log.start_offset,
    ),
    (
        Metric("mqcore_partition_end_offset", "gauge", "Offset that the next message gets.", _PLACE),
        lambda partition: partition.log.end_offset,
    ),
    (
        Metric("mqcore_partition_committed_offset", "gauge", "Offset up to which consumers see.", _PLACE),
        lambda partition: partition.committed_offset,
    ),
    (
        Metric("mqcore_partition_durable_offset", "gauge", "Offset up to which a flush has covered the log.", _PLACE),
        lambda partition: partition.log.durable_offset,
    ),
    (
        Metric("mqcore_partition_end_position_bytes", "gauge", "Bytes appended in the life of the log.", _PLACE),
        lambda partition: partition.log.end_position,
    ),
    (
        Metric("mqcore_partition_unflushed_messages", "gauge", "Messages that no flush has covered yet.", _PLACE),
        lambda partition: max(0, partition.log.end_offset - partition.log.durable_offset),
    ),
    (
        Metric(
            "mqcore_partition_passed_bytes_total",
            "counter",
            "Bytes of batches that were passed over for readers that named tags.",
            _PLACE,
        ),
        lambda partition: partition.passed_bytes,
    ),
)

_GROUP: tuple[tuple[Metric, Callable[[Reign, tuple[str, bytes]], int]], ...] = (
    (
        Metric("mqcore_group_members", "gauge", "Members of a consumer group that read a topic here.", _GROUP_PLACE),
        _members_of,
    ),
    (
        Metric(
            "mqcore_group_lag_messages",
            "gauge",
            "Messages that a consumer group has not committed yet, of partitions with a cursor.",
            _GROUP_PLACE,
        ),
        _lag_of,
    ),
)

METRICS: tuple[Metric, ...] = (
    *(metric for metric, _ in _NODE),
    _EXPIRY,
    *(metric for metric, _ in _PARTITION),
    *(metric for metric, _ in _GROUP),
)


def _place(key: tuple[bytes, int], topics: Topics) -> tuple[str, str]:
    topic = topics.by_id.get(key[0])
    return (key[0].hex() if topic is None else topic.name, str(key[1]))


def _samples(
    partitions: Mapping[tuple[bytes, int], Partition | PartitionCopy],
    places: Mapping[tuple[bytes, int], tuple[str, str]],
    read: Callable[[Partition | PartitionCopy], int],
) -> Iterator[tuple[tuple[str, ...], int | float]]:
    for key, partition in partitions.items():
        yield places[key], read(partition)


def _number(value: float) -> int | float:
    return int(value) if isinstance(value, bool) else value
