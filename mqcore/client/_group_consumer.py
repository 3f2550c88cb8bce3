"""The consumer of a group: reads the partitions that its brokers give it, and commits what was handled.

A message is handled when the next one is asked for. What is in the program's hands when a partition is to be given up
is waited for; so a partition has one reader at a time, and what was committed is not read again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial

import trio

from mqcore.client._consumed import ConsumedBatch
from mqcore.client._consumer import Consumer, Start
from mqcore.client._group_link import GroupLink
from mqcore.client._options import GroupOptions
from mqcore.client._router import Router
from mqcore.errors import MqcoreError, RejectedError
from mqcore.groups import NO_CURSOR, Grant, GroupSession, SessionChange
from mqcore.operations import TopicInfo
from mqcore.protocol import Code

__all__ = ["GroupConsumer"]

_log = logging.getLogger("mqcore.client")

Position = tuple[int, int]


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
        for link in self._links:
            self._router.start_soon(_run, link)
        if self._group_options.commit == "auto":
            self._router.start_soon(_run_commits, self)
        for link in self._links:
            await link.joined.wait()
            if link.failure is not None:
                raise link.failure

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
                self._router.start_soon(partial(self._begin_at_start, link, partition), grant)
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
        if is_lost:
            self._handled.pop(partition, None)
            self._committed.pop(partition, None)
            self._ending.pop(partition, None)
            self._lost_in_hand = partition if is_in_hand else self._lost_in_hand
        elif is_in_hand and position is not None:
            self._ending[partition] = position
        else:
            self._let_go(link, partition)

    def _let_go(self, link: GroupLink, partition: int) -> None:
        """Give a partition back: nothing of it is in the program's hands."""
        position = self._handled.pop(partition, None)
        if self._group_options.commit == "manual" or position in (None, self._committed.get(partition)):
            self._committed.pop(partition, None)
            link.session.finished(partition)
            link.wake()
        else:
            self._router.start_soon(partial(self._commit_and_finish, link, partition), position)

    async def _commit_and_finish(self, link: GroupLink, partition: int, position: Position) -> None:
        try:
            await self._commit_at(link, {partition: position})
        except (MqcoreError, trio.ClosedResourceError) as error:
            _log.warning("group %s: partition %d was given up uncommitted: %s", self.group, partition, error)
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

    async def next_batch(self) -> ConsumedBatch:
        """Return the next batch of a partition that this member owns; what was handed out before counts as handled.

        Raises as ``Consumer.next_batch``, and ``RejectedError`` when the group does not take the member any more. No
        effect if cancelled, but that.
        """
        self._note_handled()
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
                return batch

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

    async def _commit_handled(self) -> None:
        """Commit what was handled since the last time. Reports what fails: it is tried again."""
        for link in self._links:
            some = {
                partition: position
                for partition, position in self._handled.items()
                if self._link_of[partition] is link and self._committed.get(partition) != position
                and link.lives(partition)
            }  # fmt: skip
            if some:
                try:
                    await self._commit_at(link, some)
                except (MqcoreError, trio.ClosedResourceError) as error:
                    _log.warning("group %s: not committed, and tried again: %s", self.group, error)

    async def run_commits(self) -> None:
        """Commit what was handled every ``commit_interval_ms``, until closed."""
        while not self._is_closed:
            await trio.sleep(self._group_options.commit_interval_ms / 1000)
            await self._commit_handled()

    # leaving

    async def leave(self, *, is_handled: bool) -> None:
        """Commit what was handled (what is in hand too if ``is_handled``) and leave the group. Raises nothing."""
        if is_handled:
            self._note_handled()
        if self._group_options.commit == "auto":
            await self._commit_handled()
        for link in self._links:
            await link.leave()


def _partition_of_each_set(found: TopicInfo) -> Iterable[int]:
    """One partition of each set that owns some of a topic."""
    if not found.owners:
        return (0,)
    return [found.owners.index(number) for number in sorted(set(found.owners))]


async def _run(link: GroupLink) -> None:
    await link.run()


async def _run_commits(consumer: GroupConsumer) -> None:
    await consumer.run_commits()
