"""The promise table of a build: for each fault, what of the acknowledged may be lost, and why.

"Nothing lost" is the oracle's word: the row says so exactly when ``must_survive`` holds for every way in which one
fault of the kind can befall the build. What remains is graded by the bounds that the policies declare. Must not know
how the table is printed (see ``explain``).
"""

from __future__ import annotations

import enum

import attrs

from mqcore.guarantees.build import Build, TopicBuild, level_for
from mqcore.guarantees.faults import Fault, survives
from mqcore.guarantees.levels import Level
from mqcore.guarantees.oracle import FaultEvent, HeldCopy, Promotion, SendOutcome, Sent, SentReceipt, must_survive
from mqcore.guarantees.policies import (
    AsyncFlush,
    AsyncReplication,
    FlushPolicy,
    NoFlush,
    NoReplication,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
)
from mqcore.guarantees.policy_text import format_flush, format_replication
from mqcore.units import format_bytes, format_duration_ms, grouped

__all__ = [
    "Bound",
    "LossExtent",
    "Promise",
    "PromiseTable",
    "placements",
    "promise_table",
    "promise_tables",
    "weakest_receipt",
]

Events = tuple[FaultEvent | Promotion, ...]


class LossExtent(enum.Enum):
    """How much of the acknowledged a fault may take, best first."""

    NOTHING = "nothing-lost"
    BOUNDED = "bounded"
    UNBOUNDED = "unbounded"
    EVERYTHING = "everything"


_EXTENTS = {
    LossExtent.NOTHING: "nothing lost",
    LossExtent.UNBOUNDED: "unbounded",
    LossExtent.EVERYTHING: "everything",
}


@attrs.frozen(kw_only=True)
class Bound:
    """At most so much is lost; None is unbounded in that measure.

    ``span_ms``: acknowledgement of the last lost minus that of the first.
    """

    messages: int | None = None
    bytes: int | None = None
    span_ms: int | None = None

    @property
    def size_text(self) -> str:
        """Messages and bytes in words, without the span."""
        messages = f"{grouped(self.messages)} messages" if self.messages is not None else ""
        size = format_bytes(self.bytes) if self.bytes is not None else ""
        return ", ".join(text for text in (messages, size) if text) or "unbounded"

    def __str__(self) -> str:
        size = self.size_text if self.messages is not None or self.bytes is not None else ""
        span = f"acknowledged within {format_duration_ms(self.span_ms)}" if self.span_ms is not None else ""
        given = ", ".join(text for text in (size, span) if text)
        measures = (("messages", self.messages), ("bytes", self.bytes), ("time", self.span_ms))
        missing = " and ".join(name for name, value in measures if value is None)
        return f"{given} ({missing} unbounded)" if missing else given


@attrs.frozen(kw_only=True)
class Promise:
    """One row: ``loss`` under ``fault``, bounds per log and over the table's partitions, one sentence of reason."""

    fault: Fault
    loss: LossExtent
    reason: str
    per_log: Bound | None = None
    total: Bound | None = None

    @property
    def text(self) -> str:
        """The promise in words, such as ``at most 1 000 messages, 1 MB, acknowledged within 200 ms``."""
        if self.loss is LossExtent.BOUNDED:
            assert self.per_log is not None
            if self.total is None or self.total == self.per_log:
                return f"at most {self.per_log}"
            return f"at most {self.per_log}, per partition; {self.total.size_text} in all"
        return _EXTENTS[self.loss]

    def as_json(self) -> dict[str, object]:
        """Return the row as plain values."""
        row: dict[str, object] = {"fault": self.fault.label, "promise": self.loss.value, "text": self.text}
        for name, bound in (("per_log", self.per_log), ("total", self.total)):
            if bound is not None:
                row[name] = attrs.asdict(bound)
        return {**row, "reason": self.reason}


@attrs.frozen(kw_only=True)
class PromiseTable:
    """Promises of the topics that share one flush policy. ``topics`` empty: holds for a topic that says nothing.

    ``weaker_sends``: the table of sends that ask for the weakest policy that those topics allow.
    """

    flush: FlushPolicy
    level: Level
    replication: str
    topics: tuple[str, ...]
    partitions: int
    promises: tuple[Promise, ...]
    weaker_sends: bool = False

    @property
    def title(self) -> str:
        """One line that says what the table is about."""
        plural = "s" if len(self.topics) > 1 else ""
        who = f"topic{plural} {', '.join(self.topics)}" if self.topics else "every topic that says nothing else"
        who = f"sends that ask for less, to {who}" if self.weaker_sends else who
        count = f"{self.partitions} partition{'s' if self.partitions > 1 else ''}"
        return (
            f"{who} ({count}): flush {format_flush(self.flush)}, replication {self.replication}; "
            f"acknowledged at level {self.level.label}"
        )

    def promise(self, fault: Fault) -> Promise:
        """Return the row of ``fault``."""
        return next(row for row in self.promises if row.fault is fault)

    def as_json(self) -> dict[str, object]:
        """Return the table as plain values."""
        return {
            "topics": list(self.topics),
            "partitions": self.partitions,
            "weaker_sends": self.weaker_sends,
            "flush": format_flush(self.flush),
            "replication": self.replication,
            "level": self.level.label,
            "promises": [row.as_json() for row in self.promises],
        }


def promise_table(
    build: Build,
    flush: FlushPolicy | None = None,
    *,
    topics: tuple[TopicBuild, ...] = (),
    weaker_sends: bool = False,
) -> PromiseTable:
    """Return the promises of ``build`` under ``flush`` (None: the broker's policy) for ``topics`` together."""
    policy = flush if flush is not None else build.flush_policy
    partitions = sum(topic.partitions for topic in topics) or 1
    return PromiseTable(
        flush=policy,
        level=level_for(policy, build.append_level, build.flush_level, build.replication),
        replication=format_replication(build.replication),
        topics=tuple(topic.name for topic in topics),
        partitions=partitions,
        promises=tuple(_promise(build, policy, fault, partitions, weaker_sends) for fault in Fault),
        weaker_sends=weaker_sends,
    )


def promise_tables(build: Build) -> tuple[PromiseTable, ...]:
    """Return one table per pair of policies in use: of topics that follow the broker first, of weaker sends last."""
    groups: dict[tuple[FlushPolicy, ReplicationPolicy, bool], list[TopicBuild]] = {}
    for topic in build.topics:
        groups.setdefault((build.flush_of(topic), build.replication_of(topic), False), []).append(topic)
    for topic in build.topics:
        if topic.weakest_send is not None and topic.weakest_send != build.flush_of(topic):
            groups.setdefault((topic.weakest_send, build.replication_of(topic), True), []).append(topic)
    groups.setdefault((build.flush_policy, build.replication, False), [])
    return tuple(
        promise_table(attrs.evolve(build, replication=replication), flush, topics=tuple(topics), weaker_sends=weaker)
        for (flush, replication, weaker), topics in sorted(groups.items(), key=lambda item: _rank(build, *item[0]))
    )


def weakest_receipt(build: Build, flush: FlushPolicy) -> SentReceipt:
    """Return the least that an acknowledgement of ``build`` under ``flush`` states, the primary's copy first.

    With synchronous replication that is a set of ``copies`` nodes; each reports no less than that level.
    """
    level = level_for(flush, build.append_level, build.flush_level, build.replication)
    counted = build.replication.copies if isinstance(build.replication, SyncReplication) else 1
    copies = tuple(HeldCopy(node=name, level=level) for name in _nodes(build)[:counted])
    return SentReceipt(copies=copies, replication=build.replication)


def placements(build: Build, fault: Fault) -> list[Events]:
    """Return every way in which one ``fault`` can befall the build, promotions that it may bring included."""
    nodes = _nodes(build)
    if fault is Fault.POWER_CUT:
        return [tuple(FaultEvent(fault, node) for node in nodes)]
    ways: list[Events] = [(FaultEvent(fault, node),) for node in nodes]
    if len(nodes) > 1 and (build.failover == "automatic" or fault is Fault.HOST_LOSS):
        ways.append((FaultEvent(fault, nodes[0]), Promotion(nodes[1])))
    return ways


def _rank(
    build: Build, flush: FlushPolicy, replication: ReplicationPolicy, weaker: bool
) -> tuple[bool, bool, str, str]:
    own = (flush, replication) != (build.flush_policy, build.replication)
    return weaker, own, format_flush(flush), format_replication(replication)


def _nodes(build: Build) -> list[str]:
    return [f"node-{number}" for number in range(1, build.node_count + 1)]


def _promise(build: Build, flush: FlushPolicy, fault: Fault, partitions: int, weaker_sends: bool) -> Promise:
    sent = Sent(outcome=SendOutcome.ACKNOWLEDGED, receipt=_as_kept_below(build, weakest_receipt(build, flush)))
    ways_of_fault = placements(build, fault)
    if all(must_survive(sent, events) for events in ways_of_fault):
        return Promise(fault=fault, loss=LossExtent.NOTHING, reason=_why_kept(build, flush, fault))
    if isinstance(build.replication, AsyncReplication) and fault is not Fault.POWER_CUT and build.node_count > 1:
        return _lost_on_failover(build.replication, fault)
    if all(must_survive(sent, [event for event in ways if isinstance(event, FaultEvent)]) for ways in ways_of_fault):
        reason = "the topic is not replicated: a node that takes over has of it what it has got so far"
        return Promise(fault=fault, loss=LossExtent.UNBOUNDED, reason=reason)
    if not survives(build.flush_level, fault):
        return Promise(fault=fault, loss=LossExtent.EVERYTHING, reason=_why_all_lost(build, fault))
    if isinstance(flush, NoFlush):
        return Promise(
            fault=fault,
            loss=LossExtent.UNBOUNDED,
            reason=f"acknowledged at level {build.append_level.label}, "
            + ("before a flush that nothing bounds" if weaker_sends else "and the broker never flushes"),
        )
    assert isinstance(flush, AsyncFlush)
    sizes = [size for size in (flush.max_bytes, build.total_bytes_max) if size is not None]
    per_log = Bound(messages=flush.max_messages, bytes=min(sizes, default=None), span_ms=flush.max_interval_ms)
    return Promise(
        fault=fault,
        loss=LossExtent.BOUNDED,
        per_log=per_log,
        total=_times(per_log, partitions, build.total_bytes_max),
        reason="acknowledged before its flush; once a bound is full, acknowledgements wait for a flush",
    )


def _as_kept_below(build: Build, receipt: SentReceipt) -> SentReceipt:
    """``receipt`` with each copy on disk at what it is worth where the disks are declared to be mirrored below."""
    if not build.array_below:
        return receipt
    copies = tuple(
        attrs.evolve(copy, level=Level.MIRROR, reported=copy.reported) if copy.level is Level.DISK else copy
        for copy in receipt.copies
    )
    return attrs.evolve(receipt, copies=copies)


def _lost_on_failover(replication: AsyncReplication, fault: Fault) -> Promise:
    if replication.on_exceeded == "report":
        return Promise(
            fault=fault,
            loss=LossExtent.UNBOUNDED,
            reason="acknowledged before a replica has it; one that trails too far is reported and stays electable",
        )
    bound = Bound(span_ms=replication.max_delay_ms)
    return Promise(
        fault=fault,
        loss=LossExtent.BOUNDED,
        per_log=bound,
        total=bound,
        reason="acknowledged before any replica has it; acknowledgements wait once a replica trails by max_delay",
    )


def _times(bound: Bound, partitions: int, total_bytes_max: int | None) -> Bound:
    """Return ``bound`` of one log for ``partitions`` of them. The span stays: each log's loss has its own."""
    sizes = [bound.bytes * partitions] if bound.bytes is not None else []
    sizes += [total_bytes_max] if total_bytes_max is not None else []
    messages = bound.messages * partitions if bound.messages is not None else None
    return Bound(messages=messages, bytes=min(sizes, default=None), span_ms=bound.span_ms)


def _why_kept(build: Build, flush: FlushPolicy, fault: Fault) -> str:
    level = level_for(flush, build.append_level, build.flush_level, build.replication)
    kept_below = build.array_below and level is Level.DISK and fault is Fault.DISK_LOSS
    if not survives(level, fault) and not kept_below and not isinstance(build.replication, NoReplication):
        copies = getattr(build.replication, "copies", build.node_count)
        return f"{copies} nodes held it at level {level.label} before the acknowledgement; the others keep it"
    if level is Level.MEMORY:
        return "kept in memory: no disk has it"
    if level is Level.PAGE_CACHE:
        return "written to the page cache before the acknowledgement: the kernel keeps it"
    if isinstance(flush, SyncFlush):
        how = "flushed"
    else:
        how = "flushed, as synchronous replication asks," if level > build.append_level else "appended durably"
    where = "on two members of a mirror group " if fault is Fault.DISK_LOSS else ""
    if where and level is Level.DISK:
        where = 'on the array below, which storage.array = "mirror" declares, '
    return f"{how} {where}before the acknowledgement"


def _why_all_lost(build: Build, fault: Fault) -> str:
    if build.append_level is Level.NONE:
        return "this storage keeps nothing"
    if fault is Fault.HOST_LOSS:
        return "this node has the only copy" if build.node_count == 1 else "no other node is sure to have a copy"
    if fault is Fault.DISK_LOSS:
        return "this disk has the only copy"
    return f"a flush of this storage reaches {build.flush_level.label} only, which this fault takes"
