"""What the checkers share: one linear pass over a history that sorts its events by what they are about.

Judges nothing. Faults that ended lives, sends with their attempts, reads by process, the final drain, and how far each
log was known to be durable at each event.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TypeAlias

import attrs

from mqcore.guarantees import (
    Fault,
    FaultEvent,
    FlushPolicy,
    HeldCopy,
    Level,
    Promotion,
    ReplicationPolicy,
    SendOutcome,
    Sent,
    SentReceipt,
    must_survive,
    parse_replication,
)
from mqcore_conformance.checkers._drained import DrainedLog
from mqcore_conformance.checkers._policies import InForce, Timeline
from mqcore_conformance.checkers._reigns import Reigns
from mqcore_conformance.histories import (
    DRAIN,
    REFUSES_TO_START,
    Altered,
    Appended,
    Completed,
    Drained,
    Event,
    FaultInjected,
    FetchAnswered,
    FetchFailed,
    Flushed,
    Invoked,
    LivenessObserved,
    LogHeld,
    LogRecovered,
    NodeLife,
    Probed,
    Seeked,
    Setting,
    SideFileHeld,
    Started,
)

ENDINGS = {
    "process-kill": Fault.PROCESS_KILL,
    "stop": Fault.PROCESS_KILL,
    "exit": Fault.PROCESS_KILL,
    "power-cut": Fault.NODE_POWER_CUT,
    "emptied": Fault.HOST_LOSS,
    "cloned": Fault.HOST_LOSS,
    "old-copy": Fault.HOST_LOSS,
}
"""Faults that end a life. An orderly stop takes what a kill takes: the heap; another disk, what was on the old one."""


Copies: TypeAlias = tuple[tuple[Level, NodeLife], ...]
"""Copies of a message: the level of each, and the life of the node that holds it."""


@attrs.define
class Attempt:
    """One attempt of a send: index and event of its beginning and, if any, of its end, and the copies it states."""

    invoked_at: int
    invoked: Invoked
    completed_at: int = -1
    completed: Completed | None = None
    copies: Copies = ()


@attrs.define
class SendFacts:
    """One send over all its attempts."""

    name: str
    invoked: Invoked
    attempts: list[Attempt] = attrs.field(factory=list)

    @property
    def rejected(self) -> bool:
        """Whether every attempt was rejected, so that it may never be read."""
        return all(one.completed is not None and one.completed.outcome == "rejected" for one in self.attempts)


@attrs.frozen
class FailedFlush:
    """A flush that failed for a partition: event index, node and life, and the offset that was durable before it."""

    index: int
    by: NodeLife
    partition: str
    durable_offset: int


class _DurableOffsets:
    """How far one log of one node is durable, event by event.

    What a life finds at its first append was recovered and flushed.
    """

    def __init__(self) -> None:
        self.at: list[int] = [-1]
        self.offsets: list[int] = [0]
        self.first_of_life: dict[int, int] = {}
        self.by_life: dict[int, int] = {}
        self._appends: list[tuple[int, int]] = []
        self._life = 0

    def appended(self, index: int, event: Appended) -> None:
        if event.life != self._life:
            self._life = event.life
            self._appends.clear()
            self.first_of_life.setdefault(event.life, event.base_offset)
            self._set(index, event.base_offset)
        while self._appends and self._appends[-1][0] > event.position:
            self._appends.pop()  # truncated away
        self._appends.append((event.end_position, event.next_offset))

    def flushed(self, index: int, life: int, durable_end: int) -> None:
        if life != self._life:
            return
        covered = bisect_right(self._appends, durable_end, key=lambda entry: entry[0])
        if covered:
            self._set(index, max(self._appends[covered - 1][1], self.offsets[-1]))
            del self._appends[:covered]

    def _set(self, index: int, offset: int) -> None:
        self.at.append(index)
        self.offsets.append(offset)
        self.by_life[self._life] = offset

    def before(self, index: int) -> int:
        """Offset below which everything was durable before event ``index``."""
        return self.offsets[bisect_right(self.at, index - 1) - 1]


class Facts:
    """A history, sorted. ``setting`` is its first event."""

    def __init__(self, history: Sequence[Event]) -> None:
        if not history or not isinstance(history[0], Setting):
            raise ValueError("a history begins with its Setting: without it there is no promise to judge by")
        self.history = history
        self.setting: Setting = history[0]
        self.append_level = Level.parse(self.setting.append_level)
        self.flush_level = Level.parse(self.setting.flush_level)
        self.topics = {topic.name: topic for topic in self.setting.topics}
        self.sends: dict[str, SendFacts] = {}
        self.reads: dict[tuple[str, str], list[tuple[int, FetchAnswered | FetchFailed | Seeked]]] = defaultdict(list)
        self.drain: dict[str, DrainedLog] = {}
        self.failed_flushes: list[FailedFlush] = []
        self.believed_flushes: list[tuple[int, str, int]] = []
        self.liveness: list[tuple[int, LivenessObserved]] = []
        self.recoveries: list[tuple[int, LogRecovered]] = []
        self.held: list[tuple[int, LogHeld]] = []
        self.kept_aside: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.probes: list[tuple[int, Probed]] = []
        self.reigns = Reigns()
        self.replication = {topic.name: parse_replication(topic.replication) for topic in self.setting.topics}
        self.injected: list[tuple[int, FaultInjected]] = []
        self.rotted: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.records_storage = False
        self.altered: list[tuple[int, Altered]] = []
        self.tags: dict[str, str] = {}
        self._timelines: dict[str, Timeline] = {}
        self._sent_at: dict[str, int] = {}
        self._appended_until: dict[tuple[str, str, int], list[tuple[int, int, int]]] = defaultdict(list)
        self._levels: dict[tuple[str, str], list[tuple[int, Level]]] = defaultdict(list)
        self._durable: dict[tuple[str, str], _DurableOffsets] = defaultdict(_DurableOffsets)
        self._present: dict[str, int] = {}
        self._endings: list[tuple[NodeLife, Fault]] = []
        endings_until_drained: int | None = None
        for index, event in enumerate(history):
            self._take(index, event)
            if isinstance(event, Drained):
                endings_until_drained = len(self._endings)
        if endings_until_drained is not None:
            del self._endings[endings_until_drained:]  # what was read is there: later faults excuse nothing
        self._survival = cache(self._must_survive)

    # ---- questions -------------------------------------------------------------------------------------------

    @property
    def refused(self) -> bool:
        """Whether the broker refused, loudly, to start on what it could not read: then nothing could be drained."""
        return any(probe.question == REFUSES_TO_START and probe.holds for _, probe in self.probes)

    def log(self, partition: str) -> DrainedLog:
        """What the drain found; an empty log when it could not be drained."""
        return self.drain.get(partition) or DrainedLog(partition)

    def in_force(self, partition: str, first: int, last: int) -> list[InForce]:
        """What policies the partition's topic may have had at some moment between two events."""
        return self._timeline(partition.rpartition("/")[0]).between(first, last)

    def answering(self, send: SendFacts, attempt: Attempt) -> list[FlushPolicy]:
        """The policies of which one decided that ``attempt`` was acknowledged."""
        states = self.in_force(send.invoked.partition, attempt.invoked_at, attempt.completed_at)
        return [state.answering(send.invoked.policy) for state in states]

    def visible_level(self, partition: str, first: int, last: int) -> Level:
        """The least level of what a consumer may see, by event ``last``, of what was sent at event ``first``."""
        if all(state.shows_flushed_only for state in self.in_force(partition, first, last)):
            return max(self.append_level, self.flush_level)
        return self.append_level

    def first_sent_at(self, fetched: FetchAnswered) -> int:
        """Index of the event with which the oldest of the messages read began to be sent; 0 when none was sent."""
        sent = self._sent_at
        if not sent:
            sent.update(
                (digest, send.attempts[0].invoked_at)
                for send in self.sends.values()
                for digest in send.invoked.messages
            )
        return min(sent.get(digest, 0) for batch in fetched.batches for digest in batch.messages)

    def has_retention(self, partition: str) -> bool:
        """Whether retention may take the oldest messages of ``partition``."""
        topic = self.topics.get(partition.rpartition("/")[0].partition("@")[0])
        return topic is not None and topic.retention

    def has_constant_policies(self, partition: str) -> bool:
        """Whether the policies of the partition's topic never change."""
        return self._timeline(partition.rpartition("/")[0]).is_constant

    def _timeline(self, topic: str) -> Timeline:
        found = self._timelines.get(topic)
        if found is None:
            name = topic.partition("@")[0]
            changes = [(index, change) for index, change in self.altered if change.topic in (topic, name)]
            found = self._timelines[topic] = Timeline(self.topics[name], changes)
        return found

    def must_survive(self, copies: Copies, partition: str, epoch: int) -> bool:
        """Whether what has ``copies`` by a receipt, or an answer, of reign ``epoch`` has to be in the final drain."""
        return self._survival(copies, self.replication_of(partition), self.reigns.promoted_after(epoch))

    def shows_flushed(self, event: FetchAnswered, level: Level) -> bool:
        """Whether what was read at ``level`` has to be flushed where it was read; of a replica others have it, too."""
        return self.records_storage and level >= Level.DISK > self.append_level and event.known_age_ms < 0

    def shown_is_kept(self, event: FetchAnswered, index: int, level: Level) -> bool:
        """Whether what event ``index`` gave a reader, at ``level`` on who answered, has to be in the final drain."""
        return self.must_survive(((level, event.by),), event.partition, self.reigns.epoch_at(event.by, index))

    def kept(self, send: SendFacts, attempt: Attempt) -> bool:
        """Whether an acknowledged attempt has to be in the final drain, by the oracle."""
        assert attempt.completed is not None
        return self.must_survive(attempt.copies, send.invoked.partition, self.reign_of(attempt.completed))

    def replication_of(self, partition: str) -> ReplicationPolicy:
        """The replication policy of the partition's topic."""
        return self.replication[partition.rpartition("/")[0].partition("@")[0]]

    def reign_of(self, receipt: Completed) -> int:
        """The epoch under which the life that gave ``receipt`` reigned; of several, the receipt's if it is one."""
        return self.reigns.epoch_of(receipt.by, receipt.epoch)

    @property
    def nodes(self) -> frozenset[str]:
        """Every node that ever served."""
        return frozenset(self._present)

    def faults_since(self, by: NodeLife) -> list[Fault]:
        """What ended this life and the later ones of its node."""
        return [fault for ended, fault in self._endings if ended.node == by.node and ended.life >= by.life]

    def voided(self, partition: str, by: NodeLife, level: Level, end_offset: int) -> bool:
        """Whether a failed flush may have taken a copy that was not flushed when the life ``by`` ended (G11)."""
        if level >= Level.DISK or not any(fault.kind == "flush-error" for _, fault in self.injected):
            return False
        return end_offset > self._durable[partition, by.node].by_life.get(by.life, 0)

    def rotted_before(self, partition: str, index: int) -> list[tuple[int, int]]:
        """Ranges of the batches of ``partition`` in which bits rotted before event ``index``."""
        return [
            (fault.first_offset, fault.next_offset)
            for at, fault in self.injected
            if at < index and fault.kind == "rot" and fault.partition == partition
        ]

    def durable_before(self, partition: str, node: str, index: int) -> int:
        """Offset below which ``node`` had flushed ``partition``, as far as events before ``index`` show."""
        return self._durable[partition, node].before(index)

    def level_flushed(self, partition: str, node: str, index: int) -> Level:
        """The lowest level of the last two flushes before ``index``: a reply may go out when the next has ended."""
        levels = self._levels[partition, node]
        end = bisect_right(levels, index, key=lambda entry: entry[0])
        return min((level for _, level in levels[max(0, end - 2) : end]), default=self.flush_level)

    def nodes_with(self, partition: str, epoch: int, offset: int, index: int) -> int:
        """How many nodes are known to have had ``offset`` of ``epoch`` before event ``index``."""
        nodes = {node for of, node, number in self._appended_until if (of, number) == (partition, epoch)}
        return sum(self.appended_before(partition, node, epoch, offset, index) for node in nodes)

    def appended_before(self, partition: str, node: str, epoch: int, offset: int, index: int) -> bool:
        """Whether an append by ``node``, of ``epoch``, that holds ``offset`` was recorded before event ``index``."""
        appends = self._appended_until[partition, node, epoch]
        first = bisect_right(appends, offset, key=lambda entry: entry[1])
        if first == len(appends):
            return False
        at, _, base_offset = appends[first]
        return at < index and base_offset <= offset  # the first append of an epoch begins where the one before ended

    def recovered(self, partition: str, by: NodeLife, offset: int) -> bool:
        """Whether ``offset`` was there before the first append of this life: found, and flushed, by its recovery."""
        return self.first_of(partition, by, offset + 1) > offset

    def first_of(self, partition: str, by: NodeLife, otherwise: int = 0) -> int:
        """Offset of the first append of a life."""
        return self._durable[partition, by.node].first_of_life.get(by.life, otherwise)

    def acknowledged(self) -> Iterator[tuple[SendFacts, Attempt, Completed]]:
        """Every acknowledgement: the send, its attempt and the receipt."""
        for send in self.sends.values():
            for attempt in send.attempts:
                if attempt.completed is not None and attempt.completed.outcome == "acknowledged":
                    yield send, attempt, attempt.completed

    def readers(self) -> Iterator[tuple[str, str, list[tuple[int, FetchAnswered | FetchFailed | Seeked]]]]:
        """Every consumer (the drain is none) with its partition and what it did there."""
        for (process, partition), events in self.reads.items():
            if process != DRAIN:
                yield process, partition, events

    # ---- the pass --------------------------------------------------------------------------------------------

    def _take(self, index: int, event: Event) -> None:
        match event:
            case Invoked():
                send = self.sends.setdefault(event.send, SendFacts(event.send, event))
                send.attempts.append(Attempt(index, event))
                self.tags.update(
                    zip(event.messages, event.tags, strict=False)
                )  # none of a send whose messages have none
            case Completed():
                attempt = self._attempt(event)
                attempt.completed_at, attempt.completed, attempt.copies = index, event, self._copies_of(event)
            case Appended():
                self.records_storage = True
                self._durable[event.partition, event.node].appended(index, event)
                appends = self._appended_until[event.partition, event.node, event.epoch]
                if not appends or appends[-1][1] < event.next_offset:
                    appends.append((index, event.next_offset, event.base_offset))
            case Flushed():
                self._take_flush(index, event)
            case FetchAnswered() | FetchFailed() | Seeked():
                self.reads[event.process, event.partition].append((index, event))
                if event.process == DRAIN:
                    self._take_drain(event)
            case Drained():
                log = self._drained(event.partition)
                log.start_offset = event.start_offset if self.has_retention(event.partition) else 0
                log.end_offset, log.complete = event.end_offset, True
            case FaultInjected():
                self.injected.append((index, event))
                if event.kind == "rot" and event.partition:
                    self.rotted[event.partition].append((event.first_offset, event.next_offset))
                if event.kind in ENDINGS:
                    self._endings.append((event.by, ENDINGS[event.kind]))
                if event.kind.startswith("member-") and event.hit:
                    # What was not flushed is lost with the disk that it was on; what was, is on another one.
                    self._endings.append((event.by, Fault.DISK_LOSS))
            case Altered():
                self.altered.append((index, event))
            case Started():
                self.reigns.began(index, event)
                self._present[event.node] = event.life
            case LivenessObserved():
                self.liveness.append((index, event))
            case LogRecovered():
                self.recoveries.append((index, event))
            case LogHeld():
                self.held.append((index, event))
            case SideFileHeld():
                self.kept_aside[event.partition, event.node].update(event.messages)
            case Probed():
                self.probes.append((index, event))
            case _:
                pass

    def _attempt(self, event: Completed) -> Attempt:
        send = self.sends.get(event.send)
        for attempt in send.attempts if send else ():
            if attempt.invoked.attempt == event.attempt:
                return attempt
        raise ValueError(f"send {event.send} attempt {event.attempt} completes and was never invoked")

    def _take_flush(self, index: int, event: Flushed) -> None:
        self.believed_flushes += [(index, partition, position) for partition, position in event.absent]
        for partition, durable_end in event.ends:
            if event.failed:
                durable = self._durable[partition, event.node].before(index)
                self.failed_flushes.append(FailedFlush(index, event.by, partition, durable))
            else:
                self._durable[partition, event.node].flushed(index, event.life, durable_end)
                if event.level:
                    self._levels[partition, event.node].append((index, Level.parse(event.level)))

    def _drained(self, partition: str) -> DrainedLog:
        log = self.drain.get(partition)
        if log is None:
            log = self.drain[partition] = DrainedLog(partition, rotted=self.rotted[partition])
        return log

    def _take_drain(self, event: FetchAnswered | FetchFailed | Seeked) -> None:
        log = self._drained(event.partition)
        if isinstance(event, FetchFailed) and event.code == "damaged":
            log.damaged.append((event.point, event.until))
        elif isinstance(event, FetchAnswered):
            for batch in event.batches:
                for position, digest in enumerate(batch.messages):
                    offset = batch.base_offset + position
                    if log.messages.get(offset) != (batch.epoch, digest):  # else a drain that had to begin again
                        log.order.append((offset, batch.epoch, digest))
                    log.messages[offset] = (batch.epoch, digest)

    def _copies_of(self, receipt: Completed) -> Copies:
        """The copies that a receipt states, each of the life in which its node was then."""
        if not receipt.level:
            return ()
        lives = {**self._present, receipt.node: receipt.life}
        stated = [(Level.parse(copy.level), NodeLife(copy.node, lives.get(copy.node, 0))) for copy in receipt.copies]
        return tuple(stated) or ((Level.parse(receipt.level), receipt.by),)

    def _must_survive(self, copies: Copies, replication: ReplicationPolicy, promoted: tuple[str, ...]) -> bool:
        held = tuple(HeldCopy(node=by.node, level=level) for level, by in copies if level is not Level.NONE)
        if not held:
            return False  # it was taken and thrown away, as stated: no fault is needed
        faults = [FaultEvent(fault, by.node) for _, by in copies for fault in self.faults_since(by)]
        receipt = SentReceipt(copies=held, replication=replication)
        return must_survive(
            Sent(outcome=SendOutcome.ACKNOWLEDGED, receipt=receipt), [*faults, *map(Promotion, promoted)]
        )
