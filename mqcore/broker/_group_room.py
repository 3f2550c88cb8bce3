"""Consumer groups of one reign: the shell around ``mqcore.groups.GroupMachine``, one machine a group and topic.

A sync is answered when there is something new for its member, or when it has waited for long enough. Whatever a member
is given comes with the group's cursor. It is given once nothing of an earlier owner is on its way into the log, and
the log says for how long it may be read after this reign. Must not know connections, nor where cursors are kept.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

import trio

from mqcore.abc import Notice
from mqcore.broker._cursor_log import CursorLog, CursorReign
from mqcore.broker._group_entry import ParkedSync, SyncSink, TopicGroup, check_position, group_cursor
from mqcore.broker._group_making import GroupMaker, MakerReign, refused
from mqcore.broker._partition import Partition
from mqcore.broker._topics import Topics
from mqcore.errors import MqcoreError, RejectedError
from mqcore.groups import DueTimes, MemberInUseError, MemberSync, StaleSyncError, pack_cursors, pack_life
from mqcore.limits import Limits
from mqcore.protocol import Code, Commit, Committed, Failed, Message, Sync, Synced

__all__ = ["GroupRoom", "refused"]

DEFAULT_ASSIGNOR = "sticky"
_LIFE_PAUSE_US = 1_000_000
"""How long a life that the log did not take is not written again: a disk that refuses it will for a while."""
_SESSION_MS_MIN = 100
_WAIT_MS_MAX = 30_000

Key = tuple[str, bytes]
"""Name and topic id."""


class GroupReign(CursorReign, MakerReign, Protocol):
    """What groups use of the reign."""

    limits: Limits
    partitions: dict[tuple[bytes, int], Partition]
    topics: Topics


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
        self.maker = GroupMaker(reign, self.cursors, report)
        self.groups: dict[Key, TopicGroup] = {}
        """Those that have members, or had some whose end is not in the log, by name and topic id."""
        self._reign = reign
        self.now_us = now_us
        self._may_reply = may_reply
        self._began_us = now_us()
        self._due: DueTimes[Key] = DueTimes()
        self._timer = trio.CancelScope()
        self._is_over = False
        self._resetting: Counter[Key] = Counter()
        self._waiting: dict[SyncSink, dict[tuple[Key, str], None]] = {}
        """What waits on each connection: group and member."""

    # life

    async def run(self) -> None:
        """Keep the times of the groups, and write their cursors, until cancelled."""
        self._began_us = self.now_us()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.cursors.run)
            while True:
                at = self._due.first_us
                wait_s = math.inf if at is None else max(0, at - self.now_us()) / 1e6
                with trio.CancelScope(deadline=trio.current_time() + wait_s) as self._timer:
                    await trio.sleep_forever()
                for key in self._due.take(self.now_us()):
                    if key in self.groups:
                        self._advance(self.groups[key])

    def close(self) -> None:
        """End all waiting: the reign is over. Members find the next one by what they are told."""
        self._is_over = True
        for group in self.groups.values():
            self._fail_parked(group, Code.NOT_PRIMARY, "the reign is over")
        self.cursors.close(refused(Code.NOT_PRIMARY, "the reign is over"))

    def topic_gone(self, topic_id: bytes) -> None:
        """Drop the groups and cursors of a topic that was deleted; who waits for one is told."""
        self.cursors.table.drop_topic(topic_id)
        for key in [key for key in self.groups if key[1] == topic_id]:
            self._due.discard(key)
            self._fail_parked(self.groups.pop(key), Code.UNKNOWN_TOPIC, "the topic was deleted")

    def forget(self, sink: SyncSink) -> None:
        """Drop what waits on a connection that is over; its members live on for their session."""
        for key, name in list(self._waiting.get(sink, ())):
            self._take(self.groups[key], name)

    def answer_all(self, sink: SyncSink) -> None:
        """Answer what waits on a connection that is about to end."""
        for key, name in list(self._waiting.get(sink, ())):
            self._answer(self.groups[key], name, is_late=True)

    # members

    def sync(self, message: Sync, sink: SyncSink, client: str) -> None:
        """Take in what a member says; it is answered through ``sink``. Raises ``RejectedError``."""
        if message.leaves:
            self._leave(message, sink)
            return
        group = self._group_of(message)
        try:
            self._admit(group, message)
            sync = self._take_in(group, message, client)
        except RejectedError:
            self._advance(group)  # which drops one that was made for this and has no member
            raise
        if group.is_parked(message.member):
            self._end_sync(group, message.member, Code.OVERTAKEN, "a later sync of this member has come")
        wait_us = min(message.wait_ms, _WAIT_MS_MAX) * 1000
        group.park(ParkedSync(message.request_id, sink, sync, self.now_us() + wait_us))
        self._waiting.setdefault(sink, {})[group.key, message.member] = None
        self._advance(group)

    def _leave(self, message: Sync, sink: SyncSink) -> None:
        self.check_ready()
        group = self.groups.get((message.group, message.topic_id))
        if group is not None:  # else it is as it should be
            group.machine.left(message.member, message.token, self.now_us())
            self._advance(group)
        sink.push(Synced(message.request_id, 0 if group is None else group.machine.generation, ()))
        self._send(sink)

    def _take_in(self, group: TopicGroup, message: Sync, client: str) -> MemberSync:
        sync = MemberSync(
            message.member, message.token, message.sequence, message.is_fresh, message.seen,
            message.session_ms * 1000, message.rebalance_ms * 1000, dict(message.held),
        )  # fmt: skip
        try:
            group.machine.synced(sync, self.now_us(), client)
        except MemberInUseError as error:
            text = (
                f"group {group.name!r} has a member {message.member!r} already (client {error.client!r}, heard of "
                f"{error.heard_us / 1e6:.1f} s ago): give this one another name, or wait for the end of its session"
            )
            raise refused(Code.MEMBER_IN_USE, text) from None
        except StaleSyncError:
            raise refused(Code.OVERTAKEN, "a later sync of this member has come before this one") from None
        return sync

    def _group_of(self, message: Sync | Commit) -> TopicGroup:
        """The group that ``message`` is about, made if it is not there."""
        self.check_ready()
        topic = self._reign.topics.by_id.get(message.topic_id)
        if topic is None:
            raise refused(Code.UNKNOWN_TOPIC, "no topic of that id here: it was deleted, or belongs to another broker")
        key = (message.group, message.topic_id)
        group = self.groups.get(key)
        if group is None:
            if isinstance(message, Commit):
                text = f"{message.member!r} is no member of group {message.group!r}: it commits too late"
                raise refused(Code.NOT_OWNER, text)
            self.maker.check_name(message.group)
            self.maker.check_count(key, (), self.groups.keys())
            # What is being deleted, or was on its way when the log stopped, may not be what the log has.
            in_doubt = self._resetting[key] or self.cursors.has_stopped
            group = self.groups[key] = self.maker.make(
                key,
                topic,
                message.assignor or DEFAULT_ASSIGNOR,
                holds_until_us=self._holds_until_us(key),
                told_ms=0 if in_doubt else self._logged_ms(key),
            )
        elif topic.partitions != group.partitions:
            group.partitions = topic.partitions
            group.machine.partitions_changed(self._reign.own_partitions(topic), self.now_us())
        return group

    def check_ready(self) -> None:
        """Raise ``RejectedError`` while cursors are not known, or cannot be."""
        if self.cursors.failure is not None:
            raise refused(Code.STORAGE_STOPPED, self.cursors.why_not_served)
        if not self.cursors.is_ready or self.cursors.is_full:
            raise refused(Code.CURSORS_NOT_READY, self.cursors.why_not_ready)

    def check_count(self, key: Key, partitions: Iterable[int]) -> None:
        """Raise ``RejectedError`` where cursors of a group in ``partitions`` would be too many, or the group itself."""
        self.maker.check_count(key, list(partitions), self.groups.keys())

    def _admit(self, group: TopicGroup, message: Sync) -> None:
        limits = self._reign.limits
        machine = group.machine
        if message.assignor and message.assignor != group.assignor:
            assign = self.maker.assign_by(message.assignor, self._reign.topics.by_id[message.topic_id])
            if not machine.is_empty:
                text = f"group {group.name!r} shares out by {group.assignor!r}, not by {message.assignor!r}"
                raise refused(Code.UNKNOWN_ASSIGNOR, f"{text}: all its members ask for one and the same")
            group.assignor = message.assignor
            machine.assign_by(assign)
        if not _SESSION_MS_MIN <= message.session_ms <= limits.group_session_ms_max:
            text = (
                f"a session of {message.session_ms} ms: {_SESSION_MS_MIN} to {limits.group_session_ms_max} are allowed"
            )
            raise refused(Code.INVALID_REQUEST, f"{text} (limit group_session_ms_max)")
        if not message.member or not message.member.isprintable() or not message.rebalance_ms:
            raise refused(Code.INVALID_REQUEST, "a member has a name of printable characters, and time to give up")
        if machine.member_count >= limits.group_members_max and not machine.is_member(message.member):
            text = f"group {group.name!r} has {limits.group_members_max} members (limit group_members_max)"
            raise refused(Code.LIMIT_REACHED, text)

    # what is left of the last reign, and what the next one has to know

    def _holds_until_us(self, key: Key) -> int:
        life_ms = self.cursors.lives_before.get(key, 0)
        return self._began_us + life_ms * 1000 if life_ms else 0

    def held_for_us(self, key: Key) -> int:
        """For how long members of the last reign may still read by what that gave them; 0: they do not any more."""
        return max(0, self._holds_until_us(key) - self.now_us())

    def _logged_ms(self, key: Key) -> int:
        known = self.cursors.table.topics.get(key)
        return 0 if known is None else known.session_ms

    def _note_life(self, group: TopicGroup) -> None:
        """Have the log say how long members of the next reign may still read by what this one gave them."""
        # Not that there are none any more while those of the last reign may read on: the next one has to wait for them.
        is_kept = self.cursors.has_stopped or self._resetting[group.key] or self.held_for_us(group.key)
        life_ms = group.next_life_ms(self.now_us(), 0 if is_kept else self._logged_ms(group.key))
        if life_ms is None:
            return

        def done(error: MqcoreError | None) -> None:
            group.life_written(life_ms, error, self.now_us() + _LIFE_PAUSE_US)
            if self._is_over or self.groups.get(group.key) is not group:
                return
            for name in group.parked_names if error is not None else ():
                if group.lacks_life(group.parked(name).sync.session_us):
                    self._answer(group, name, is_late=True)
            self._advance(group)

        self.cursors.write(pack_life(*group.key, life_ms), done)

    # what comes of it

    def _advance(self, group: TopicGroup) -> None:
        """Do what is due in a group, and answer whom it concerns."""
        if self._is_over or self.groups.get(group.key) is not group:
            return
        now_us = self.now_us()
        machine = group.machine
        told_us = 0 if self._resetting[group.key] else group.told_ms * 1000
        machine.advance(now_us, busy=group.pending, session_us_max=told_us)
        changed, machine.changed = machine.changed, set()
        gone, machine.gone = machine.gone, set()
        group.changed |= changed
        group.changed -= gone
        for name in gone:
            if group.is_parked(name):
                text = "the member left, or was silent for its session: it is none any more"
                self._end_sync(group, name, Code.OVERTAKEN, text)
        self._note_life(group)
        for name in group.due_names(now_us):
            self._answer(group, name, is_late=True)
        for name in [name for name in group.changed if group.is_parked(name)]:
            self._answer(group, name)
        if group.is_idle and not self._resetting[group.key] and not self.held_for_us(group.key):
            del self.groups[group.key]
            self._due.discard(group.key)
            return
        due_us = group.due_us()
        if due_us is None:
            self._due.discard(group.key)
            return
        self._due.set(group.key, due_us)
        if due_us < self.now_us() + (self._timer.deadline - trio.current_time()) * 1e6:
            self._timer.cancel()

    def _answer(self, group: TopicGroup, name: str, *, is_late: bool = False) -> None:
        """Answer the sync of a member if there is something new for it, or if it ``is_late``."""
        if self._may_reply is not None and not self._may_reply():
            # By now another reign may give away what this one would.
            self._end_sync(group, name, Code.NOT_PRIMARY, "the lease of this reign is over")
            return
        group.changed.discard(name)
        view, sync = group.machine.view(name), group.parked(name).sync
        is_same = view.granted == sync.held and not sync.is_fresh
        if is_same and not is_late:
            return
        if not view.granted and group.lacks_life(sync.session_us):
            text = f"the log of cursors does not take what group {group.name!r} needs: {group.life_failure}"
            self._end_sync(group, name, Code.CURSORS_NOT_READY, text)
            return
        granted = [(number, by, *self._cursor(group, number)) for number, by in view.granted.items()]
        parked = self._take(group, name)
        parked.sink.push(Synced(parked.request_id, view.generation, None if is_same else granted))
        self._send(parked.sink)

    def _end_sync(self, group: TopicGroup, name: str, code: Code, why: str) -> None:
        parked = self._take(group, name)
        parked.sink.push(Failed(parked.request_id, code, why, {}))
        self._send(parked.sink)

    def _fail_parked(self, group: TopicGroup, code: Code, why: str) -> None:
        for name in group.parked_names:
            self._end_sync(group, name, code, why)

    def _take(self, group: TopicGroup, name: str) -> ParkedSync:
        parked = group.take_parked(name)
        waiting = self._waiting[parked.sink]
        del waiting[group.key, name]
        if not waiting:
            del self._waiting[parked.sink]
        return parked

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
        group.machine.expire(self.now_us())
        entries = [self._checked(group, message, *entry) for entry in message.entries]
        numbers = [entry[0] for entry in entries]
        new = [entry for entry in entries if entry[1:] != self._cursor(group, entry[0])]
        self.check_count(group.key, [entry[0] for entry in new])

        def done(error: MqcoreError | None) -> None:
            group.pending.subtract(numbers)
            for number in numbers:
                if not group.pending[number]:
                    del group.pending[number]
            reply(error or Committed(message.request_id, [(each, *self._cursor(group, each)) for each in numbers]))
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

    async def put(self, records: Mapping[Key, bytes]) -> None:
        """Write records of groups by word of an operator; committed when it returns. Raises ``MqcoreError``.

        Whoever joins one meanwhile is given nothing before that. If cancelled, they may be written.
        """
        over = trio.Event()
        failures: list[MqcoreError] = []
        left = list(records)

        def done(key: Key, error: MqcoreError | None) -> None:
            failures.extend([] if error is None else [error])
            self._resetting -= Counter({key: 1})  # which drops what is at zero
            left.remove(key)
            if not left:
                over.set()
            if key in self.groups:
                self._advance(self.groups[key])

        for key, record in records.items():
            self._resetting[key] += 1
            if key in self.groups:
                self.groups[key].told_ms = 0  # it may be deleted: then the log has no life of it
            self.cursors.write(record, partial(done, key))
        await over.wait()
        if failures:
            raise failures[0]
