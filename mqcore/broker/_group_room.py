"""Consumer groups of one reign: the shell around ``mqcore.groups.GroupMachine``, one machine a group and topic.

A sync is answered when there is something new for its member, or when it has waited for long enough. Whatever a member
is given comes with the group's cursor, and only once nothing of an earlier owner is on its way into the log. Must not
know connections, nor where cursors are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import trio

from mqcore.abc import Assignor, Notice, check_cursor_name
from mqcore.broker._cursor_log import CursorLog, CursorReign
from mqcore.broker._group_entry import ParkedSync, SyncSink, TopicGroup, check_position, group_cursor
from mqcore.broker._partition import Partition
from mqcore.broker._topics import Topic, Topics
from mqcore.config import BrokerConfig
from mqcore.errors import ConfigurationError, MqcoreError, PluginError, RejectedError
from mqcore.groups import GroupMachine, MemberInUseError, MemberSync, StaleSyncError, pack_cursors, pack_life
from mqcore.log import LogStore
from mqcore.protocol import Code, Commit, Committed, Failed, Message, Sync, Synced
from mqcore.registry import find, installed

__all__ = ["GroupRoom", "refused"]

DEFAULT_ASSIGNOR = "sticky"
_GATHER_US = 20_000
"""How long a change of a group waits for others: of many members that come at once each would be a change."""
_SESSION_MS_MIN = 100
NAME_BYTES_MAX = 200
"""Longest name of a group, in bytes: what a frame carries."""
_WAIT_MS_MAX = 30_000


def refused(code: Code, text: str) -> RejectedError:
    """The error of a request that is refused."""
    return RejectedError(text, code=code, name=code.label, retryable=code.retryable)


class GroupReign(CursorReign, Protocol):
    """What groups use of the reign."""

    config: BrokerConfig
    store: LogStore
    partitions: dict[tuple[bytes, int], Partition]

    topics: Topics

    def own_partitions(self, topic: Topic) -> list[int]:
        """Numbers of the partitions that are here."""
        ...

    async def open_partition(self, topic_id: bytes, index: int) -> Partition:
        """Return a partition."""
        ...


class GroupRoom:
    """The groups of ``reign``. ``now_us``: monotonic; ``may_reply``: whether the lease holds, None where there is none.

    ``run`` it. ``sync`` and ``commit`` take what members say, and answer it at once or later.
    """

    def __init__(
        self,
        reign: GroupReign,
        now_us: Callable[[], int],
        report: Callable[[Notice], None],
        *,
        may_reply: Callable[[], bool] | None = None,
    ) -> None:
        self.cursors = CursorLog(reign, report)
        self.groups: dict[tuple[str, bytes], TopicGroup] = {}
        """Those that have members, or had some in this reign, by name and topic id."""
        self._reign = reign
        self.now_us = now_us
        self._report = report
        self._may_reply = may_reply
        self._began_us = now_us()
        self._due: dict[tuple[str, bytes], int] = {}
        self._timer = trio.CancelScope()
        self._is_over = False
        self._generation = 0
        """The highest that a group had which is gone: one that comes back goes on above it."""
        self._assignors: dict[str, Assignor] = {}
        self._resetting: Counter[tuple[str, bytes]] = Counter()

    # life

    async def run(self) -> None:
        """Keep the times of the groups, and write their cursors, until cancelled."""
        self._began_us = self.now_us()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.cursors.run)
            while True:
                at = min(self._due.values(), default=None)
                wait_s = math.inf if at is None else max(0, at - self.now_us()) / 1e6
                with trio.CancelScope(deadline=trio.current_time() + wait_s) as self._timer:
                    await trio.sleep_forever()
                now_us = self.now_us()
                for key in [key for key, due_us in self._due.items() if due_us <= now_us]:
                    self._advance(self.groups[key])

    def close(self) -> None:
        """End all waiting: the reign is over. Members find the next one by what they are told."""
        self._is_over = True
        for group in self.groups.values():
            for parked in group.take_all_parked():
                parked.sink.push(Failed(parked.request_id, Code.NOT_PRIMARY, "the reign is over", {}))
        self.cursors.close(refused(Code.NOT_PRIMARY, "the reign is over"))

    def forget(self, sink: SyncSink) -> None:
        """Drop what waits on a connection that is over; its members live on for their session."""
        for group in self.groups.values():
            group.forget(sink)

    def answer_all(self, sink: SyncSink) -> None:
        """Answer what waits on a connection that is about to end."""
        for group in self.groups.values():
            for name in group.parked_on(sink):
                self._answer(group, name, is_late=True)

    # members

    def sync(self, message: Sync, sink: SyncSink, client: str) -> None:
        """Take in what a member says; it is answered through ``sink``. Raises ``RejectedError``."""
        group = self._group_of(message)
        now_us = self.now_us()
        if message.leaves:
            group.machine.left(message.member, message.token, now_us)
            self._advance(group)
            sink.push(Synced(message.request_id, group.machine.generation, ()))
            self._send(sink)
            return
        self._admit(group, message)
        sync = MemberSync(
            message.member, message.token, message.sequence, message.is_fresh, message.seen,
            message.session_ms * 1000, message.rebalance_ms * 1000, dict(message.held),
        )  # fmt: skip
        try:
            is_new = group.machine.synced(sync, now_us, client)
        except MemberInUseError as error:
            text = (
                f"group {group.name!r} has a member {message.member!r} already (client {error.client!r}, heard of "
                f"{error.heard_us / 1e6:.1f} s ago): give this one another name, or wait for the end of its session"
            )
            raise refused(Code.MEMBER_IN_USE, text) from None
        except StaleSyncError:
            raise refused(Code.OVERTAKEN, "a later sync of this member has come before this one") from None
        if is_new:
            self._note_life(group)
        if group.is_parked(message.member):
            self._overtake(group, message.member, "a later sync of this member has come")
        wait_us = min(message.wait_ms, _WAIT_MS_MAX) * 1000
        group.park(ParkedSync(message.request_id, sink, sync, now_us + wait_us))
        self._advance(group)

    def _group_of(self, message: Sync | Commit) -> TopicGroup:
        """The group that ``message`` is about, made if it is not there."""
        self.check_ready()
        topic = self._reign.topics.by_id.get(message.topic_id)
        if topic is None:
            raise refused(Code.UNKNOWN_TOPIC, "no topic of that id here: it was deleted, or belongs to another broker")
        key = (message.group, message.topic_id)
        group = self.groups.get(key)
        partitions = self._reign.own_partitions(topic)
        if group is None:
            if isinstance(message, Commit):
                text = f"{message.member!r} is no member of group {message.group!r}: it commits too late"
                raise refused(Code.NOT_OWNER, text)
            self.check_name(message.group)
            self.check_count(message.group, message.topic_id, ())
            group = self.groups[key] = self._make_group(key, topic, message.assignor or DEFAULT_ASSIGNOR)
        elif len(partitions) != group.partitions:
            group.partitions = len(partitions)
            group.machine.partitions_changed(partitions, self.now_us())
        return group

    def check_ready(self) -> None:
        """Raise ``RejectedError`` while cursors are not known, or cannot be."""
        if self.cursors.failure is not None:
            raise refused(Code.STORAGE_STOPPED, f"cursors cannot be read: {self.cursors.failure}")
        if not self.cursors.is_ready or self.cursors.is_full:
            raise refused(Code.CURSORS_NOT_READY, "the broker is still reading cursors, or has too many to write: wait")

    def check_name(self, group: str) -> None:
        """Raise ``RejectedError`` for a name that no group can have."""
        try:
            check_cursor_name("group", group)
        except ConfigurationError as error:
            raise refused(Code.INVALID_REQUEST, str(error)) from None
        if len(group.encode()) > NAME_BYTES_MAX:
            raise refused(Code.INVALID_REQUEST, f"group name of {len(group.encode())} bytes; at most {NAME_BYTES_MAX}")

    def check_count(self, group: str, topic_id: bytes, partitions: Sequence[int]) -> None:
        """Raise ``RejectedError`` where one more group, or cursors in ``partitions``, would be too many."""
        limits, topics = self._reign.limits, self.cursors.table.topics
        known = topics.get((group, topic_id))
        is_new = known is None and (group, topic_id) not in self.groups
        if is_new and len(self.groups.keys() | topics.keys()) >= limits.groups_max:
            raise refused(Code.LIMIT_REACHED, f"{limits.groups_max} groups exist already (limit groups_max)")
        new = sum(known is None or known.get(partition) is None for partition in partitions)
        if new and self.cursors.table.count + new > limits.cursors_max:
            raise refused(Code.LIMIT_REACHED, f"{limits.cursors_max} cursors exist already (limit cursors_max)")

    def _make_group(self, key: tuple[str, bytes], topic: Topic, assignor: str) -> TopicGroup:
        part = self._assignor(assignor)
        own_set = self._reign.config.own_set
        turn = topic.sets.index(own_set.name) if own_set is not None and own_set.name in topic.sets else 0

        def assign(members: Sequence[str], partitions: Sequence[int], owners: Mapping[int, str]) -> Mapping[int, str]:
            # Each set begins with another member: where sets have a partition each, the first would get all of them.
            first = turn % len(members)
            return part.assign((*members[first:], *members[:first]), partitions, owners)

        known = self.cursors.table.topics.get(key)
        numbers = self._reign.own_partitions(topic)
        gone = self.groups.get(key)
        if gone is not None:
            self._generation = max(self._generation, gone.machine.generation)
        machine = GroupMachine(
            assign,
            numbers,
            generation=max(self._reign.store.epoch << 32, self._generation),
            holds_until_us=self._began_us + known.session_ms * 1000 if known is not None and known.session_ms else 0,
            gather_us=_GATHER_US,
            complain=lambda text: self._report(Notice("assignor-failed", f"group {key[0]!r}: {assignor}: {text}")),
        )
        return TopicGroup(*key, assignor, machine, partitions=len(numbers))

    def _assignor(self, name: str) -> Assignor:
        part = self._assignors.get(name)
        if part is None:
            try:
                part = self._assignors[name] = find("assignors", name)()
            except PluginError:
                known = ", ".join(sorted({each.name for each in installed("assignors")}))
                text = f"no assignor {name[:60]!r} is installed on this broker; installed: {known}"
                raise refused(Code.UNKNOWN_ASSIGNOR, text) from None
        return part

    def _admit(self, group: TopicGroup, message: Sync) -> None:
        limits = self._reign.limits
        machine = group.machine
        if message.assignor and message.assignor != group.assignor:
            self._assignor(message.assignor)  # one that is not there is told so
            if not machine.is_empty:
                text = f"group {group.name!r} shares out by {group.assignor!r}, not by {message.assignor!r}"
                raise refused(Code.UNKNOWN_ASSIGNOR, f"{text}: all its members ask for one and the same")
            # The same group with another machine: what is on its way into the log for it still counts.
            made = self._make_group(group.key, self._reign.topics.by_id[message.topic_id], message.assignor)
            group.assignor, group.machine = made.assignor, made.machine
        if not _SESSION_MS_MIN <= message.session_ms <= limits.group_session_ms_max:
            text = (
                f"a session of {message.session_ms} ms: {_SESSION_MS_MIN} to {limits.group_session_ms_max} are allowed"
            )
            raise refused(Code.INVALID_REQUEST, f"{text} (limit group_session_ms_max)")
        if not message.member or not message.member.isprintable() or not message.rebalance_ms:
            raise refused(Code.INVALID_REQUEST, "a member has a name of printable characters, and time to give up")
        members = machine.members
        if len(members) >= limits.group_members_max and message.member not in members:
            text = f"group {group.name!r} has {limits.group_members_max} members (limit group_members_max)"
            raise refused(Code.LIMIT_REACHED, text)

    def _note_life(self, group: TopicGroup) -> None:
        """Have the log say how long members of the next reign may still read by what this one gave them."""
        machine, known = group.machine, self.cursors.table.topics.get(group.key)
        session_ms = -(-machine.session_us_max // 1000)
        told = group.life_told if group.life_told is not None else known.session_ms if known is not None else 0
        if session_ms > told or (session_ms == 0 and told):
            group.life_told = session_ms
            group.lives_pending += 1

            def done(error: MqcoreError | None) -> None:
                group.lives_pending -= 1
                if error is not None:
                    group.life_told = None  # tried again with the next member
                if not self._is_over:
                    self._advance(group)

            self.cursors.write(pack_life(*group.key, session_ms), done)

    def _advance(self, group: TopicGroup) -> None:
        """Do what is due in a group, and answer whom it concerns."""
        now_us = self.now_us()
        machine = group.machine
        machine.advance(now_us)
        for name in group.parked_names:
            if name not in machine.members:
                self._overtake(group, name, "the member was silent for its session, and is none any more")
        changed, machine.changed = machine.changed, set()
        group.changed |= changed
        for name in group.due_names(now_us):
            self._answer(group, name, is_late=True)
        for name in group.changed & set(group.parked_names):
            self._answer(group, name)
        if machine.is_empty:
            self._note_life(group)
            if not group.lives_pending and not group.pending:
                self._generation = max(self._generation, group.machine.generation)
                self.groups.pop(group.key, None)
        due_us = group.due_us()
        if due_us is None or group.key not in self.groups:
            self._due.pop(group.key, None)
        else:
            self._due[group.key] = due_us
            if due_us < self.now_us() + (self._timer.deadline - trio.current_time()) * 1e6:
                self._timer.cancel()

    def _overtake(self, group: TopicGroup, name: str, why: str) -> None:
        parked = group.take_parked(name)
        parked.sink.push(Failed(parked.request_id, Code.OVERTAKEN, why, {}))
        self._send(parked.sink)

    def _answer(self, group: TopicGroup, name: str, *, is_late: bool = False) -> None:
        """Answer the sync of a member if there is something new for it, or if it ``is_late``."""
        if self._may_reply is not None and not self._may_reply():
            return  # by now another reign may give away what this one would
        parked = group.parked(name)
        view = group.machine.view(name)
        held = parked.sync.held
        is_same = view.granted == held and not parked.sync.is_fresh
        new = [partition for partition, by in view.granted.items() if held.get(partition) != by]
        if new and (
            group.lives_pending or self._resetting[group.key] or any(partition in group.pending for partition in new)
        ):
            group.changed.add(name)
            return  # answered when that is in the log
        group.changed.discard(name)
        if is_same and not is_late:
            return
        group.take_parked(name)
        granted = [(number, by, *self._cursor(group, number)) for number, by in view.granted.items()]
        parked.sink.push(Synced(parked.request_id, view.generation, None if is_same else granted))
        self._send(parked.sink)

    def _send(self, sink: SyncSink) -> None:
        sink.replied(now=False)

    # cursors

    def unopened(self, message: Commit) -> list[int]:
        """Partitions of a commit whose logs have to be opened before it can be checked."""
        key = message.topic_id
        return [entry[0] for entry in message.entries if (key, entry[0]) not in self._reign.partitions]

    def commit(self, message: Commit, reply: Callable[[Message | MqcoreError], None]) -> None:
        """Take in what a member has done with; ``reply`` is called once that is committed, or not to be.

        All of it or nothing. Raises ``RejectedError`` for what the member does not own, or what is not in the log.
        """
        group = self._group_of(message)
        group.machine.advance(self.now_us())
        entries = [self._checked(group, message, *entry) for entry in message.entries]
        numbers = [entry[0] for entry in entries]
        new = [entry for entry in entries if entry is not None and entry[1:] != self._cursor(group, entry[0])]
        self.check_count(*group.key, [entry[0] for entry in new])

        def done(error: MqcoreError | None) -> None:
            group.pending.subtract(numbers)
            for number in numbers:
                if not group.pending[number]:
                    del group.pending[number]
            reply(error or Committed(message.request_id, [(each, *self._cursor(group, each)) for each in numbers]))
            if not self._is_over:
                self._advance(group)

        group.pending.update(numbers)
        if new:
            self.cursors.write(pack_cursors(*group.key, new), done)
        else:
            done(None)

    def _cursor(self, group: TopicGroup, partition: int) -> tuple[int, int]:
        return group_cursor(self.cursors, group, partition)

    def _checked(
        self, group: TopicGroup, message: Commit, partition: int, generation: int, offset: int, epoch: int
    ) -> tuple[int, int, int]:
        """The cursor that a commit puts into one partition. Raises ``RejectedError``."""
        machine = group.machine
        topic = self._reign.topics.by_id[group.topic_id]
        where = f"partition {partition} of topic {topic.name!r}"
        if not machine.may_commit(message.member, message.token, partition, generation):
            owner = machine.owner_of(partition)
            to = f"it is {owner!r}'s" if owner is not None and owner != message.member else "it was given up, or lost"
            text = f"{where} is not read by {message.member!r} under generation {generation} any more: {to}"
            raise refused(Code.NOT_OWNER, text)
        log = self._reign.partitions[group.topic_id, partition]
        known = self._cursor(group, partition)
        return (partition, *check_position(log, where, offset, epoch, known))

    def positions(self, group: str, topic_id: bytes, partitions: Iterable[int]) -> dict[int, tuple[int, int]]:
        """The cursors of a group, by partition; those that there are."""
        known = self.cursors.table.topics.get((group, topic_id))
        found = {} if known is None else {number: known.get(number) for number in partitions}
        return {number: cursor for number, cursor in found.items() if cursor is not None}

    async def put(self, records: bytes, key: tuple[str, bytes]) -> None:
        """Write records of one group by word of an operator; committed when it returns. Raises ``MqcoreError``.

        Whoever joins meanwhile is given nothing before that. If cancelled, they may be written.
        """
        over = trio.Event()
        self._resetting[key] += 1
        failures: list[MqcoreError] = []

        def done(error: MqcoreError | None) -> None:
            failures.extend([] if error is None else [error])
            self._resetting -= Counter({key: 1})  # which drops what is at zero
            over.set()
            if key in self.groups and not self._is_over:
                self._advance(self.groups[key])

        self.cursors.write(records, done)
        await over.wait()
        if failures:
            raise failures[0]
