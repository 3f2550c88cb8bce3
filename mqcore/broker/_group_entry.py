"""One group of one topic on the broker: its machine, the syncs that wait, the cursors that are on their way. No I/O."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple, Protocol

from mqcore.broker._cursor_log import CursorLog
from mqcore.broker._partition import Partition
from mqcore.errors import RejectedError
from mqcore.groups import NO_CURSOR, GroupMachine, MemberSync
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
    """A group of one topic. ``partitions``: how many of them are here. ``pending``: commits under way by partition.

    ``changed``: members whose answer waits for something that is on its way into the log.
    """

    def __init__(self, name: str, topic_id: bytes, assignor: str, machine: GroupMachine, *, partitions: int) -> None:
        self.key = (name, topic_id)
        self.name = name
        self.topic_id = topic_id
        self.assignor = assignor
        self.machine = machine
        self.partitions = partitions
        self.pending: Counter[int] = Counter()
        self.lives_pending = 0
        """Records under way that say how long members may go on after this reign: nothing is given before.

        With one that says that there are none, the group stays until it is written: a member that comes meanwhile has
        its own written after it.
        """
        self.life_told: int | None = None
        self.changed: set[str] = set()
        self._parked: dict[str, ParkedSync] = {}

    def park(self, parked: ParkedSync) -> None:
        """Have a sync wait."""
        self._parked[parked.sync.member] = parked

    def is_parked(self, name: str) -> bool:
        """Whether a sync of the member waits."""
        return name in self._parked

    def parked(self, name: str) -> ParkedSync:
        """The sync of the member that waits."""
        return self._parked[name]

    def take_parked(self, name: str) -> ParkedSync:
        """The same, which waits no more."""
        return self._parked.pop(name)

    def take_all_parked(self) -> list[ParkedSync]:
        """All of them, which wait no more."""
        parked, self._parked = list(self._parked.values()), {}
        return parked

    @property
    def parked_names(self) -> list[str]:
        """Members of which a sync waits."""
        return list(self._parked)

    def parked_on(self, sink: SyncSink) -> list[str]:
        """Members of which a sync waits on one connection."""
        return [name for name, each in self._parked.items() if each.sink is sink]

    def forget(self, sink: SyncSink) -> None:
        """Drop what waits on a connection that is over."""
        for name in self.parked_on(sink):
            del self._parked[name]

    def due_names(self, now_us: int) -> list[str]:
        """Members whose sync has waited for long enough."""
        return [name for name, each in self._parked.items() if each.deadline_us <= now_us]

    def due_us(self) -> int | None:
        """When the group is to be looked at again; None: not before something happens."""
        times = [each.deadline_us for name, each in self._parked.items() if name not in self.changed]
        due_us = self.machine.due_us()
        return min(times if due_us is None else [*times, due_us], default=None)


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
