"""One group of one topic on the broker: its machine, the syncs that wait, the cursors that are on their way. No I/O."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, Protocol

from mqcore.broker._cursor_log import CursorLog
from mqcore.broker._partition import Partition
from mqcore.errors import MqcoreError, RejectedError
from mqcore.groups import NO_CURSOR, DueTimes, GroupMachine, MemberSync
from mqcore.protocol import Code, Message

__all__ = ["TopicGroup", "ParkedSync", "SyncSink", "check_position", "group_cursor"]


class SyncSink(Protocol):
    """Where answers go: the outbox of one connection."""

    def push(self, message: Message) -> None:
        """Queue an answer."""

    def replied(self, *, now: bool) -> None:
        """Send what is queued."""


class ParkedSync(NamedTuple):
    """A sync that waits for something new, until ``deadline_us`` at the latest."""

    request_id: int
    sink: SyncSink
    sync: MemberSync
    deadline_us: int


class TopicGroup:
    """A group of one topic. ``partitions``: how many its topic had when that was looked at last.

    ``told_ms``: the life that the log has for the group, or less. A *life* says how long members may read, after this
    reign, by what it gave them: nothing is given to a member of a longer session than the log has.
    """

    def __init__(
        self, name: str, topic_id: bytes, assignor: str, machine: GroupMachine, *, partitions: int, told_ms: int
    ) -> None:
        self.key = (name, topic_id)
        self.name = name
        self.topic_id = topic_id
        self.assignor = assignor
        self.machine = machine
        self.partitions = partitions
        self.pending: Counter[int] = Counter()
        """Commits under way by partition."""
        self.changed: set[str] = set()
        """Members that have something new to be told, and have not asked since."""
        self.told_ms = told_ms
        self.is_writing_life = False
        self.life_failure: MqcoreError | None = None
        """Why the life that the group needs is not in the log."""
        self._life_again_us = 0
        self._parked: dict[str, ParkedSync] = {}
        self._due: DueTimes[str] = DueTimes()

    # syncs that wait

    def park(self, parked: ParkedSync) -> None:
        """Have a sync wait."""
        self._parked[parked.sync.member] = parked
        self._due.set(parked.sync.member, parked.deadline_us)

    def is_parked(self, name: str) -> bool:
        """Whether a sync of the member waits."""
        return name in self._parked

    def parked(self, name: str) -> ParkedSync:
        """The sync of the member that waits."""
        return self._parked[name]

    def take_parked(self, name: str) -> ParkedSync:
        """The same, which waits no more."""
        self._due.discard(name)
        return self._parked.pop(name)

    @property
    def parked_names(self) -> list[str]:
        """Members of which a sync waits."""
        return list(self._parked)

    def due_names(self, now_us: int) -> list[str]:
        """Members whose sync has waited for long enough; each is to be answered now."""
        return self._due.take(now_us)

    def due_us(self) -> int | None:
        """When the group is to be looked at again; None: not before something happens."""
        times = (self._due.first_us, self.machine.due_us(), self._life_again_us or None)
        return min((each for each in times if each is not None), default=None)

    # the life

    def next_life_ms(self, now_us: int, logged_ms: int) -> int | None:
        """Return the life that is to be written to the log now; None for nothing.

        ``logged_ms``: what the log has, or 0 if that is to stay although there is no member. One at a time is written.
        """
        wanted_ms = -(-self.machine.session_us_max // 1000)
        if self.is_writing_life:
            return None
        if wanted_ms <= self.told_ms and (wanted_ms or not logged_ms):
            self.life_failure, self._life_again_us = None, 0
            return None
        if now_us < self._life_again_us:
            return None
        self.is_writing_life, self._life_again_us = True, 0
        self.told_ms = min(self.told_ms, wanted_ms)  # one that is lower may be in force from now on
        return wanted_ms

    def life_written(self, life_ms: int, error: MqcoreError | None, again_us: int) -> None:
        """Take in what became of it; what failed is tried again at ``again_us``, if it is needed by then."""
        self.is_writing_life = False
        self.life_failure = error
        if error is None:
            self.told_ms = life_ms
        else:
            self._life_again_us = again_us

    def lacks_life(self, session_us: int) -> bool:
        """Whether a member of that session is given nothing because the log has not taken the life of the group."""
        return self.life_failure is not None and session_us > self.told_ms * 1000

    @property
    def is_idle(self) -> bool:
        """Whether there are no members, and nothing is on its way into the log or has to be."""
        return (
            self.machine.is_empty and not self.pending and not self.is_writing_life and not self._life_again_us
        )  # fmt: skip


def group_cursor(cursors: CursorLog, group: TopicGroup, partition: int) -> tuple[int, int]:
    """Offset and epoch of the group's cursor in a partition; ``NO_CURSOR`` for none."""
    known = cursors.table.topics.get(group.key)
    return (known.get(partition) if known is not None else None) or (NO_CURSOR, 0)


def check_position(
    partition: Partition, where: str, offset: int, epoch: int, known: tuple[int, int]
) -> tuple[int, int]:
    """Return the cursor that a commit of (``offset``, ``epoch``) leaves where ``known`` is the present one.

    It never goes back (G16), except where the log has lost what was read, and then to where the histories part. Raises
    ``RejectedError`` for a position that is past the end or not in the log's history.
    """
    log = partition.log
    if offset > partition.committed_offset:
        is_known = offset <= log.end_offset
        code = Code.NOT_YET if is_known else Code.CURSOR_PAST_END
        text = f"{where} ends at {partition.committed_offset}, a cursor at {offset} is past that"
        raise RejectedError(text, code=code, name=code.label, retryable=code.retryable)
    parts_at = log.divergence(offset, epoch) if epoch else None
    if parts_at is not None:
        text = (
            f"{where}: offset {offset} of epoch {epoch} is not in the log's history, which parts from it at {parts_at}"
        )
        raise RejectedError(text, code=Code.DIVERGED, name=Code.DIVERGED.label)
    if not epoch and offset > log.start_offset:
        epoch = log.epoch_at(offset - 1)
    known_offset, known_epoch = known
    if known_offset != NO_CURSOR and known_offset > offset:
        parts_at = log.divergence(known_offset, known_epoch) if known_epoch else None
        if parts_at is None and known_offset <= log.end_offset:
            return known
        if parts_at is not None and parts_at > offset:
            return parts_at, log.epoch_at(parts_at - 1)
    return offset, epoch
