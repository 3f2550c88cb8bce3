"""What a build or a send is refused for, by name, with the remedy (clause G18).

A policy does what its name says or is refused; nothing is silently weakened. Must not know who asks.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from mqcore.errors import RefusedError
from mqcore.guarantees.build import Build, TopicBuild, at_least_as_strong
from mqcore.guarantees.faults import Fault
from mqcore.guarantees.levels import Level
from mqcore.guarantees.policies import (
    AsyncReplication,
    FlushPolicy,
    NoFlush,
    NoReplication,
    ReplicationPolicy,
    SyncReplication,
)
from mqcore.guarantees.policy_text import format_flush, format_replication
from mqcore.guarantees.promises import LossExtent, Promise, promise_tables

__all__ = ["Refusal", "check_available", "check_build", "raise_refusals"]


@attrs.frozen(kw_only=True)
class Refusal:
    """Why a build is refused: a stable ``name``, a sentence with the values, and the ``remedy``."""

    name: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"

    def as_json(self) -> dict[str, object]:
        """Return the refusal as plain values."""
        return attrs.asdict(self)


def check_build(build: Build) -> list[Refusal]:
    """Return everything for which ``build`` cannot keep what it states; empty when it can.

    What it states for nodes that it does not name is ``check_available``'s subject, so that it can be explained.
    """
    refusals = [
        *_check_flush(build, "flush", build.flush),
        *(refusal for topic in build.topics for refusal in _check_topic(build, topic)),
        *_check_replication(build, "replication", build.replication),
        *_check_failover(build),
    ]
    # an impossible policy has no promises to hold `survive` against
    return refusals or _check_survive(build)


def check_available(build: Build) -> list[Refusal]:
    """Return what ``build`` asks for that takes other nodes, while it names none; it can be explained all the same."""
    if build.nodes is not None:
        return []
    return [
        Refusal(
            name="replication-without-a-set",
            message=f"replication = {format_replication(policy)!r} takes other nodes, and the configuration names none",
            remedy="write a [cluster] with the nodes of the set (`mqcore config init --cluster` shows one), or "
            'replication = "none"',
        )
        for policy in build.replications
        if not isinstance(policy, NoReplication)
    ]


def raise_refusals(refusals: Iterable[Refusal]) -> None:
    """Raise ``RefusedError`` with one line per refusal; nothing when there is none."""
    lines = [str(refusal) for refusal in refusals]
    if lines:
        raise RefusedError("\n".join(lines))


def _check_flush(build: Build, key: str, flush: FlushPolicy | None) -> list[Refusal]:
    if flush is None or isinstance(flush, NoFlush) or build.flush_level >= Level.DISK:
        return []
    return [
        Refusal(
            name="flush-does-not-reach-disk",
            message=f"{key} = {format_flush(flush)!r}: a flush of {build.storage} reaches "
            f"{build.flush_level.label}, not disk",
            remedy='write flush = "none", or use a storage whose flush reaches disk',
        )
    ]


def _check_topic(build: Build, topic: TopicBuild) -> list[Refusal]:
    key = f"topics.{topic.name}"
    refusals = _check_flush(build, f"{key}.flush", topic.flush)
    refusals += _check_flush(build, f"{key}.weakest_send", topic.weakest_send)
    if topic.replication is not None:
        refusals += _check_replication(build, f"{key}.replication", topic.replication)
    policy = build.flush_of(topic)
    if topic.weakest_send is not None and not at_least_as_strong(policy, topic.weakest_send):
        refusals.append(
            Refusal(
                name="weakest-send-is-stronger",
                message=f"{key}.weakest_send = {format_flush(topic.weakest_send)!r} is not weaker than the topic's "
                f"flush, {format_flush(policy)}",
                remedy="leave weakest_send out, or name a weaker policy",
            )
        )
    if topic.visible == "stable" and (isinstance(policy, NoFlush) or build.flush_level < Level.DISK):
        refusals.append(
            Refusal(
                name="never-stable",
                message=f'{key}.visible = "stable" shows what is flushed, and flush {format_flush(policy)} on '
                f"{build.storage} flushes nothing to disk",
                remedy='write visible = "committed", or flush = "sync" on a storage whose flush reaches disk',
            )
        )
    return refusals


def _check_replication(build: Build, key: str, replication: ReplicationPolicy) -> list[Refusal]:
    if isinstance(replication, NoReplication):
        return []
    text, nodes = (
        f"{key} = {format_replication(replication)!r}",
        attrs.evolve(build, replication=replication).node_count,
    )
    refusals = []
    if isinstance(replication, SyncReplication):
        reached = max(build.append_level, build.flush_level)
        if replication.level > reached:
            refusals.append(
                Refusal(
                    name="level-not-reached",
                    message=f"{text}: {build.storage} reaches {reached.label} at best",
                    remedy=f"ask for level {reached.label} or less, or use another storage",
                )
            )
        if replication.level is Level.NONE:
            refusals.append(
                Refusal(
                    name="level-none",
                    message=f"{text}: level none keeps nothing and cannot be promised",
                    remedy="ask for memory, page-cache, disk or mirror",
                )
            )
        if replication.copies > nodes:
            none = 'write replication = "none"'  # one copy is refused by name
            refusals.append(
                Refusal(
                    name="too-few-nodes",
                    message=f"{text}: {nodes} node{'s' if nodes > 1 else ''} cannot hold {replication.copies} copies",
                    remedy=f"add nodes, or {f'ask for at most {nodes} copies' if nodes > 1 else none}",
                )
            )
    if isinstance(replication, AsyncReplication) and replication.on_exceeded == "throttle" and nodes < 2:
        refusals.append(
            Refusal(
                name="throttle-alone",
                message=f"{text}: with one node, acknowledgements would wait for ever",
                remedy='add a node, or write replication = "none"',
            )
        )
    return refusals


def _check_failover(build: Build) -> list[Refusal]:
    if build.failover == "manual" or build.coordinator:
        return []
    return [
        Refusal(
            name="no-arbiter",
            message=f"automatic failover of {build.node_count} nodes without a coordinator: two that lose sight of "
            "each other would both reign",
            remedy='name a coordinator, or write failover = "manual"',
        )
    ]


def _check_survive(build: Build) -> list[Refusal]:
    """Hold each fault of ``survive`` against the worst table of the build."""
    refusals = []
    for fault in dict.fromkeys(build.survive):
        worst = max(
            (table.promise(fault) for table in promise_tables(build)), key=lambda row: list(LossExtent).index(row.loss)
        )
        if worst.loss is not LossExtent.NOTHING:
            refusals.append(
                Refusal(
                    name="survive-not-met",
                    message=f"survive = {fault.label!r} is not met: {_may_lose(worst)}: {worst.reason}",
                    remedy=_remedy(build, fault),
                )
            )
    return refusals


def _may_lose(row: Promise) -> str:
    if row.loss is LossExtent.BOUNDED:
        return f"may lose {row.text.replace('at most', 'up to', 1)}"
    if row.loss is LossExtent.UNBOUNDED:
        return "may lose what was acknowledged, without bound"
    return "may lose everything"


def _remedy(build: Build, fault: Fault) -> str:
    if fault is Fault.HOST_LOSS:
        return "it takes synchronous replication to another node"
    if fault is Fault.DISK_LOSS:
        return (
            'it takes a mirrored storage with flush = "sync", or synchronous replication to another node, or disks '
            'that are mirrored below, which array = "mirror" in [storage] declares'
        )
    if build.flush_level >= Level.DISK:
        return 'write flush = "sync" for every topic and send'
    return 'it takes a storage whose flush reaches disk, such as mmap, with flush = "sync"'
