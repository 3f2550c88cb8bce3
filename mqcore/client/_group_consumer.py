"""The consumer of a group: reads the partitions that its brokers give it, and commits what was handled.

A message is handled when the next one is asked for. What is in the program's hands when a partition is to be given up
is waited for; so a partition has one reader at a time, and what was committed is not read again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from operator import length_hint
from typing import Any

import trio

from mqcore.client._consumed import ConsumedBatch, Message
from mqcore.client._consumer import Consumer, Start
from mqcore.client._group_link import GroupLink
from mqcore.client._options import GroupOptions
from mqcore.client._rebalance import PollWatch, RebalanceListener
from mqcore.client._router import Router
from mqcore.errors import MqcoreError, RejectedError
from mqcore.groups import NO_CURSOR, Grant, GroupSession, SessionChange
from mqcore.operations import TopicInfo
from mqcore.protocol import Code

__all__ = ["GroupConsumer"]

_log = logging.getLogger("mqcore.client")

Position = tuple[int, int]
LAST_COMMIT_WITHIN_S = 2.0
"""How long a member that leaves waits for its last commit; the others are told that it leaves after that."""


class GroupConsumer(Consumer):
    """A member of a consumer group; for one task at a time. Made by ``client.consumer(topic, group=...)``.

    Iterates as every ``Consumer`` does, over the partitions that it owns. What was handed out counts as handled when
    the next message, batch or poll is asked for, or the block is left without an error; by default that is committed
    every ``commit_interval_ms`` and when a partition is given up. ``commit`` commits at once, what is in hand included.
    """

    def __init__(
        self, router: Router, found: TopicInfo, group: str, start: Start, options: GroupOptions, member: str
    ) -> None:
        super().__init__(
            router, found.name, bytes.fromhex(found.id), (), options, is_whole=False, shares=found.partitions
        )
        self.group = group
        self.member = member
        self.listener: RebalanceListener | None = None
        self._start = start
        self._group_options = options
        self._links: list[GroupLink] = []
        self._link_of: dict[int, GroupLink] = {}
        self._handed: int | None = None
        """Partition of what is in the program's hands."""
        self._handled: dict[int, Position] = {}
        """Where each partition stands, counting what was handled only."""
        self._committed: dict[int, Position] = {}
        self._ending: dict[int, Position] = {}
        self._lost_in_hand: int | None = None
        self._committing = trio.Lock()
        self._now = trio.lowlevel.current_clock().current_time
        self._session_in_hand: GroupSession | None = None
        """By which the batch is read that is in the program's hands; None when that is to be given up, or was lost."""
        self._takes_single = False
        """Whether the program takes the batch in hand message by message: then one of it is in its hands at a time."""
        self._polls = PollWatch(self._now)
        self._life = trio.CancelScope()
        self._tasks: trio.Nursery | None = None
        for owned in _partition_of_each_set(found):
            token = router.context.random.randbytes(16)
            self._links.append(
                GroupLink(
                    router,
                    self._topic_id,
                    owned,
                    group,
                    GroupSession(
                        member,
                        token,
                        session_us=options.session_ms * 1000,
                        rebalance_us=options.rebalance_ms * 1000,
                    ),
                    assignor=options.assignor,
                    session_ms=options.session_ms,
                    rebalance_ms=options.rebalance_ms,
                    changed=self._on_change,
                )
            )

    async def join(self) -> None:
        """Join the group: return when each set has answered. Raises ``RejectedError``, ``NotReachedError``."""
        self._router.start_soon(GroupConsumer._live, self)
        for link in self._links:
            await link.joined.wait()
            if link.failure is not None:
                raise link.failure

    async def _live(self) -> None:
        """Be a member until closed, or until the client is."""
        try:
            with self._life:
                async with trio.open_nursery() as self._tasks:
                    for link in self._links:
                        self._tasks.start_soon(link.run)
                    if self._group_options.commit == "auto":
                        self._tasks.start_soon(self._run_commits)
                    if interval_ms := self._group_options.poll_interval_max_ms:
                        self._tasks.start_soon(self._polls.run, interval_ms / 1000, self._commit_at_last, self._rest)
                    await trio.sleep_forever()
        finally:
            self._is_closed, self._tasks = True, None
            for link in self._links:
                link.joined.set()
            self._look_again()

    def _start_soon(self, task: Callable[..., Any], *arguments: object) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(task, *arguments)

    @property
    def assignment(self) -> list[int]:
        """The partitions that this member owns now."""
        return sorted(number for link in self._links for number in link.session.held)

    # what the links tell

    def _on_change(self, link: GroupLink, change: SessionChange) -> None:
        for partition in change.lost:
            self._give_up(link, partition, is_lost=change.is_lost)
        for partition, grant in change.gained.items():
            self._link_of[partition] = link
            if grant.offset != NO_CURSOR:
                self._committed[partition] = (grant.offset, grant.epoch)
                self._begin_partition(partition, grant.offset, grant.epoch, follows_log_start=False)
            elif self._start == "start":
                self._begin_partition(partition, 0, 0, follows_log_start=True)
            else:
                self._start_soon(self._begin_at_start, link, partition, grant)
        if link.failure is not None:
            self._look_again()

    async def _begin_at_start(self, link: GroupLink, partition: int, grant: Grant) -> None:
        """Find where to begin where the group has no cursor, and commit that first.

        Else the next owner would find another place, and what was sent in between would be read by no one.
        """
        try:
            if isinstance(self._start, dict):
                offset, epoch = self._start.get(partition, (0, 0))
            else:
                offset, epoch = await self._find(self._start, partition)
            entry = (partition, grant.generation, offset, epoch)
            ((_, offset, epoch),) = await link.commit([entry], self._timeout_s)
        except (MqcoreError, trio.ClosedResourceError) as error:
            if link.session.held.get(partition) == grant.generation:
                link.failure = link.failure or (error if isinstance(error, MqcoreError) else None)
                self._look_again()
            return
        if link.session.held.get(partition) == grant.generation and not self._is_closed:
            self._committed[partition] = (offset, epoch)
            self._begin_partition(partition, offset, epoch, follows_log_start=False)

    def _give_up(self, link: GroupLink, partition: int, *, is_lost: bool) -> None:
        """Read a partition no more; done with it when the program is."""
        is_in_hand = self._handed == partition
        position = self._position_of(partition)
        if position is not None:
            if self._batch is not None and self._batch.partition == partition:
                self._forget_batch()
            self._end_partition(partition)
        if is_in_hand:
            self._session_in_hand = None
        if is_lost:
            self._handled.pop(partition, None)
            self._committed.pop(partition, None)
            self._ending.pop(partition, None)
            self._lost_in_hand = partition if is_in_hand else self._lost_in_hand
            if self.listener is not None:
                self.listener.on_lost(partition)
        elif is_in_hand and position is not None and self.listener is None:
            self._ending[partition] = position
        else:
            self._let_go(link, partition)

    def _let_go(self, link: GroupLink, partition: int) -> None:
        """Give a partition back: nothing of it is in the program's hands but what the listener knows of."""
        generation = link.session.ending[partition]
        position = self._handled.get(partition)
        if self.listener is not None:
            self._start_soon(self._revoke, self.listener, link, partition, generation)
        elif self._group_options.commit == "manual" or position in (None, self._committed.get(partition)):
            self._finish(link, partition, generation)
        else:
            assert position is not None
            self._start_soon(self._commit_and_finish, link, partition, generation, position)

    async def _revoke(self, listener: RebalanceListener, link: GroupLink, partition: int, generation: int) -> None:
        await listener.on_revoked(partition)
        self._finish(link, partition, generation)

    async def _commit_and_finish(self, link: GroupLink, partition: int, generation: int, position: Position) -> None:
        try:
            await self._commit_at(link, {partition: position})
        except (MqcoreError, trio.ClosedResourceError) as error:
            _log.warning("group %s: partition %d was given up uncommitted: %s", self.group, partition, error)
        self._finish(link, partition, generation)

    def _finish(self, link: GroupLink, partition: int, generation: int) -> None:
        """Have the broker told that a partition is given up, unless it was lost, and perhaps got again, meanwhile."""
        if link.session.ending.get(partition) == generation:
            self._handled.pop(partition, None)
            self._committed.pop(partition, None)
            link.session.finished(partition)
            link.wake()

    # reading

    def _position_of(self, partition: int) -> Position | None:
        """Position after what was handed out of a partition; None where it is not read."""
        cursor = self._cursors.get(partition)
        if cursor is None:
            return None
        positions = {partition: (cursor.offset, cursor.epoch)}
        if self._batch is not None and self._batch.partition == partition:
            self._overlay(positions)
        return positions[partition]

    def _note_handled(self) -> None:
        """What was handed out is handled: the program asks for more."""
        partition, self._handed = self._handed, None
        if partition is None:
            return
        position = self._ending.pop(partition, None)
        if position is not None:
            self._handled[partition] = position
            self._let_go(self._link_of[partition], partition)
        elif (position := self._position_of(partition)) is not None:
            self._handled[partition] = position

    async def __anext__(self) -> Message:
        # As every consumer's, and the clock looked at before each message: the broker may have given the partition to
        # another member since the batch came.
        if self.may_go_on():
            for message in self._messages:
                return message
        while True:
            for message in self._hold(await self.next_batch()):
                self._takes_single = True
                return message

    def _pass_over(self, partition: int, position: Position) -> None:
        super()._pass_over(partition, position)
        if partition in self._cursors:  # the program asks for more: what was delivered before is handled
            self._handled[partition] = position

    def may_go_on(self) -> bool:
        """Whether more may be taken of the batch in hand at this moment. Never waits; for shells from any thread."""
        session = self._session_in_hand
        if session is None:
            return False
        now = self._polls.asked_at = self._now()
        due_us = session.due_us
        return due_us is not None and now * 1e6 < due_us

    async def next_batch(self) -> ConsumedBatch:
        """Return the next batch of a partition that this member owns; what was handed out before counts as handled.

        Raises as ``Consumer.next_batch``, and ``RejectedError`` when the group does not take the member any more. No
        effect if cancelled, but that.
        """
        self._note_handled()
        polls = self._polls
        polls.is_asking = True
        try:
            if polls.is_resting:
                polls.is_resting = False
                for link in self._links:
                    link.go_on()
            return await self._next_owned()
        finally:
            polls.is_asking = False
            polls.asked_at = self._now()

    async def _next_owned(self) -> ConsumedBatch:
        while True:
            for link in self._links:
                link.look()
                if link.failure is not None:
                    raise link.failure
            batch = await super().next_batch()
            # Looked at again: it may have been waited for, or the process stopped, for longer than the session.
            link = self._link_of[batch.partition]
            link.look()
            if link.lives(batch.partition):
                self._handed = batch.partition
                self._session_in_hand = link.session
                self._takes_single = False
                return batch

    def put_back(self, left: ConsumedBatch) -> None:
        """Take back what a shell has not delivered of the batch that was handed out last. It is delivered again."""
        if left.partition != self._handed:
            return
        if left.partition in self._ending:
            self._ending[left.partition] = (left.offset, left.previous_epoch)
        elif self._session_in_hand is not None:
            self._hold(left)

    def take_received(self) -> list[ConsumedBatch]:
        """Nothing: what is handed out counts as handled one by one."""
        return []

    async def seek(self, to: Start, partition: int | None = None) -> None:
        """As ``Consumer.seek``, in partitions that this member owns. A cursor never goes back by it."""
        self._note_handled()
        await super().seek(to, partition)

    # committing

    @property
    def _timeout_s(self) -> float:
        return self._router.context.options.request_timeout_ms / 1000

    async def commit(self, positions: Mapping[int, Position] | None = None) -> dict[int, Position]:
        """Commit ``positions`` (offset, epoch) by partition, or all that was handed out; return the cursors in force.

        A cursor never goes back: where one is further on, that is what is returned. Raises ``RejectedError``: for a
        partition that this member does not own (any more) ``not-owner``, past the end ``cursor-past-end``; then
        nothing of that set's partitions is committed. ``RequestFailedError`` for a position that is not in the log's
        history, ``NotReachedError``. If cancelled, it may be committed.
        """
        if positions is None:
            lost, self._lost_in_hand = self._lost_in_hand, None
            if lost is not None:
                raise self._not_owned(lost)
            positions = {**self._all_positions(), **self._ending}
        by_link: dict[GroupLink, dict[int, Position]] = {}
        for partition, position in positions.items():
            link = self._link_of.get(partition)
            if link is None or link.session.generation_of(partition) is None:
                raise self._not_owned(partition)
            by_link.setdefault(link, {})[partition] = position
        in_force: dict[int, Position] = {}
        for link, some in by_link.items():
            in_force |= await self._commit_at(link, some)
        return in_force

    def _all_positions(self) -> dict[int, Position]:
        return {
            partition: position
            for partition, position in self.positions.items()
            if self._committed.get(partition) != position and self._link_of[partition].lives(partition)
            and not self._cursors[partition].follows_log_start
        }  # fmt: skip

    def _not_owned(self, partition: int) -> RejectedError:
        text = f"partition {partition} of topic {self.topic!r} is not read by {self.member!r} any more"
        return RejectedError(text, code=Code.NOT_OWNER, name=Code.NOT_OWNER.label)

    async def _commit_at(self, link: GroupLink, positions: Mapping[int, Position]) -> dict[int, Position]:
        async with self._committing:
            entries = [
                (partition, generation, *position)
                for partition, position in positions.items()
                if (generation := link.session.generation_of(partition)) is not None
            ]
            if not entries:
                return {}
            cursors = await link.commit(entries, self._timeout_s)
            in_force = {partition: (offset, epoch) for partition, offset, epoch in cursors}
            for partition in in_force:
                self._committed[partition] = positions[partition]
            return in_force

    def _handled_positions(self) -> dict[int, Position]:
        """Where each partition stands, counting what was handled only."""
        handled, batch = dict(self._handled), self._batch
        if batch is not None and self._takes_single and self._handed == batch.partition:
            left = length_hint(self._values) + 1
            if left < len(batch):
                handled[batch.partition] = (batch.offset_before(left), batch.epoch)
        return handled

    async def _commit_handled(self) -> None:
        """Commit what was handled since the last time. Reports what fails: it is tried again."""
        handled = self._handled_positions()
        for link in self._links:
            some = {
                partition: position
                for partition, position in handled.items()
                if self._link_of[partition] is link and self._committed.get(partition) != position
                and link.may_commit(partition)
            }  # fmt: skip
            if some:
                try:
                    await self._commit_at(link, some)
                except (MqcoreError, trio.ClosedResourceError) as error:
                    _log.warning("group %s: not committed, and tried again: %s", self.group, error)

    async def _run_commits(self) -> None:
        """Commit what was handled every ``commit_interval_ms``."""
        while True:
            await trio.sleep(self._group_options.commit_interval_ms / 1000)
            await self._commit_handled()

    # leaving

    async def _commit_at_last(self) -> None:
        """Commit what was handled, if it can be done in a moment."""
        if self._group_options.commit == "auto":
            with trio.move_on_after(LAST_COMMIT_WITHIN_S) as last:
                await self._commit_handled()
            if last.cancelled_caught:
                _log.warning("group %s: no answer to the last commit: what it was to cover may come again", self.group)

    def _rest(self) -> None:
        """Give everything up until the program asks again: others are to go on with it."""
        _log.warning(
            "group %s: member %s has asked for nothing for %d ms (poll_interval_max_ms): it gives its partitions of "
            "topic %r up, and joins again when it asks",
            self.group, self.member, self._group_options.poll_interval_max_ms, self.topic,
        )  # fmt: skip
        for link in self._links:
            link.rest()

    async def leave(self, *, is_handled: bool) -> None:
        """Commit what was handled (what is in hand too if ``is_handled``) and leave the group. Raises nothing.

        Both have a time of their own: who waits for these partitions does not wait for a commit that hangs.
        """
        if is_handled:
            self._note_handled()
        await self._commit_at_last()
        async with trio.open_nursery() as nursery:
            for link in self._links:
                nursery.start_soon(link.leave)

    async def aclose(self) -> None:
        """Be no member any more, and close the streams, even if this is cancelled. Idempotent."""
        self._life.cancel()
        await super().aclose()


def _partition_of_each_set(found: TopicInfo) -> Iterable[int]:
    """One partition of each set that owns some of a topic."""
    return [found.owners.index(number) for number in sorted(set(found.owners))] or [0]
