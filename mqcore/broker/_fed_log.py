"""One log as the primary feeds it to one replica: what was sent, and what the replica's reports say of it (R4).

Must not know of streams: what is to be sent is asked of it, and what was reported is given to it.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import trio

from mqcore.broker._group_commit import Replying
from mqcore.broker._kept_producers import keep_producers
from mqcore.broker._partition import Partition
from mqcore.errors import CorruptionError, MqcoreError, RemoteProtocolError
from mqcore.guarantees import Level
from mqcore.log import METADATA_NAME, NOWHERE, LogPoint, LogStart
from mqcore.protocol import Code, Diverged, LogBegins, LogCommitted, LogPositions, PositionRefused
from mqcore.replication import Counts, Held, Member, judge_report

__all__ = ["FedLog"]

_HELD_MAX = 128
_SENT_MAX = 65_536
CHECKED_BYTES = 4 * 1024 * 1024
"""More than the largest frame of data: what a replica refuses of one lies within so much of where it stands."""

_AGAIN_S = 1.0
"""How long a log that cannot be read is left alone."""

Refusal: TypeAlias = Diverged | PositionRefused


class FedLog:
    """A log of the primary's, under the ``number`` that it has on one replica's stream."""

    __slots__ = (
        "_again_at",
        "_grown_to",
        "_held",
        "_known_at",
        "_sent",
        "_why",
        "checked_below",
        "committed_sent",
        "held_end",
        "is_damaged",
        "level",
        "number",
        "partition",
        "position",
        "unjudged",
    )

    def __init__(self, number: int, partition: Partition) -> None:
        self.number = number
        self.partition = partition
        self.position: int | None = None
        """Where what is to be sent next begins; None until a report of the replica's has been found to count."""
        self.held_end = NOWHERE
        """Below which the replica is known to hold everything, at the least."""
        self.committed_sent = -1
        self.level = Level.NONE
        """What a flush reached there by the last report that counted."""
        self.is_damaged = False
        """Whether it cannot be read on here, so that nothing more is sent until it is tried again."""
        self.unjudged: LogPositions | None = None
        """The report that could not be judged because of that."""
        self.checked_below = 0
        """Position below which what is sent is checked here, too: see ``judge``."""
        self._grown_to = partition.end_position
        self._known_at = 0
        self._again_at = 0.0
        self._why = ""
        # Where frames ended that were sent, and of those that are held, that are not known to be flushed: the replica
        # reports positions, and the commit rule counts offsets.
        self._sent: deque[LogPoint] = deque()
        self._held: deque[LogPoint] = deque()

    @property
    def is_judged(self) -> bool:
        """Whether the histories have met, so that data may go out and reports count."""
        return self.position is not None

    @property
    def is_due(self) -> bool:
        """Whether what could not be read is to be tried again: it may have been put right."""
        return trio.current_time() >= self._again_at

    def stop(self, error: MqcoreError) -> bool:
        """Take in that it cannot be read on; return whether that, or why, is new."""
        before, self._why = self._why, str(error)
        self.is_damaged = True
        self._again_at = trio.current_time() + _AGAIN_S
        return self._why != before

    @property
    def is_level(self) -> bool:
        """Whether the replica is known to hold it to its end; so one that is served no more."""
        partition = self.partition
        is_held = self.is_judged and self.held_end.position >= partition.end_position
        return is_held or partition.closure is not None

    @property
    def holds_any(self) -> bool:
        """Whether the replica is known to hold something of it."""
        return self.held_end.position > self.partition.log.start_position

    def share(self) -> tuple[int, int]:
        """Bytes that the replica is known to hold, of how many."""
        start, size = self.partition.log.start_position, self.partition.end_position - self.partition.log.start_position
        return min(max(self.held_end.position - start, 0), size), size

    def newly_appended(self) -> int:
        """How many bytes were appended since this was asked, or it was named."""
        before, self._grown_to = self._grown_to, self.partition.end_position
        return self._grown_to - before

    def newly_committed(self) -> LogCommitted | None:
        """What is to be said of what is committed, if anything is new in that; it counts as said."""
        offset = self.partition.committed_offset
        if self.committed_sent == offset:
            return None
        self.committed_sent = offset
        return LogCommitted(self.number, offset)

    def sent(self, end: LogPoint) -> None:
        """Take in that everything below ``end`` was sent."""
        self.position = end.position
        self._sent.append(end)
        if len(self._sent) > _SENT_MAX:
            # Of a replica that grants credit and reports nothing; of one that reports, the lower end counts meanwhile.
            self._sent = deque((*list(self._sent)[:-1:2], end))

    async def judge(self, report: LogPositions) -> Refusal | None:
        """Judge the first report after a name or a divergence; None when it counts.

        Raises ``CorruptionError`` where what it speaks of has rotted here, ``StorageError``.
        """
        log = self.partition.log
        if log.hides_reign:
            # To tell a replica that it parts there would have it give up what may be the only whole copy.
            raise CorruptionError("what opened a reign is damaged: nobody can be judged", where=f"log {log.name}")
        held = Held(report.epoch, report.reign_id, report.position, report.end)
        judgement = judge_report(log.history, log.start_position, log.end_position, held)
        if report.end < log.start_position:
            # What follows the copy was trimmed (R15), whatever the histories say.
            return Diverged(self.number, 0, log.start_position, log.start_position)
        if not isinstance(judgement, Counts):
            return Diverged(self.number, judgement.epoch, judgement.position, log.start_position)
        offset = log.start_offset
        if report.epoch and report.end > log.start_position:
            # History says which reign wrote there, not that a batch begins and ends where the replica says.
            header = await log.batch_at(report.position)
            if header is None and await log.begins_at(report.position) is not None:
                # There is a batch, which cannot be read. This finds out whether it can be put right, and raises if not.
                await log.read_stored(report.position, 1, log.end_position, asks=False)
                header = await log.batch_at(report.position)
            if header is None or header.epoch != report.epoch or report.position + header.size != report.end:
                text = f"no batch of epoch {report.epoch} reaches from {report.position} to {report.end} here"
                return PositionRefused(self.number, text)
            offset = header.end_offset
        if report.end <= log.start_position and log.name != METADATA_NAME:
            await keep_producers(self.partition, log.start_position)
        # Before it has read that, a retry would be new to it: it counts for as little as one that has nothing (R12).
        # A start does not know where that is, if a checkpoint lies behind it: somewhere before the end.
        is_unknown = not log.kept_at.end and log.start_position > 0 and not log.producers.is_empty
        known_at = log.end_position if is_unknown else log.kept_at.end
        self._known_at = known_at if report.end < known_at else 0
        # The replica checks every batch. What it refuses ends its stream, and the next one begins at or just before it:
        # there it is this node's to find the damage and say so, and nowhere else is a batch looked at twice.
        self.checked_below = report.end + CHECKED_BYTES
        self.position = report.end
        self._sent.clear()
        self._held.clear()
        self._sent.append(LogPoint(report.end, offset))
        return None

    async def tell_again(self) -> None:
        """Have what is remembered of producers told again to a copy that has not read it yet, if a part was given up.

        Raises ``StorageError``, as a commit.
        """
        if self.held_end.position < self._known_at:
            log = self.partition.log
            await keep_producers(self.partition, log.start_position)
            self._known_at = max(self._known_at, log.kept_at.end)

    async def told_with(self, refusal: Refusal | None) -> list[LogBegins | Refusal]:
        """What is said of a report that does not count: of the metadata log where it begins, too, for none says so.

        Raises ``StorageError``, ``CorruptionError``.
        """
        log = self.partition.log
        if refusal is None or log.name != METADATA_NAME or not isinstance(refusal, Diverged):
            return [] if refusal is None else [refusal]
        begins = await log.start_at(log.start_offset) if log.start_position else LogStart()
        return [refusal] if begins is None else [LogBegins(self.number, *begins), refusal]

    def count(
        self, report: LogPositions, member: Member, append_level: Level, replied: dict[Replying, None]
    ) -> list[tuple[int, Level]]:
        """Give a report to the commit rule; return what is new in it: offsets held, each with its level.

        Those that get replies by it are added to ``replied``. Raises ``RemoteProtocolError`` for one that cannot be
        true.
        """
        assert self.position is not None
        if report.end > self.position:
            text = f"a report of position {report.end}, of which {self.position} was sent"
            raise RemoteProtocolError(text, code=Code.UNEXPECTED_FRAME)
        if report.level < self.level:
            # A device was ejected there: what was reported before it is at no more than this now, old batches too.
            self.partition.level_fell(member, report.level)
        self.level = report.level
        sent, held = self._sent, self._held
        before = self.held_end
        while sent and sent[0].position <= report.end:
            self.held_end = sent.popleft()
            held.append(self.held_end)
        flushed = None
        while held and held[0].position <= report.flushed:
            flushed = held.popleft()
        counted: list[tuple[int, int, Level]] = []
        if flushed is not None and flushed.position >= self._known_at:
            counted.append((flushed.offset, flushed.position, report.level))
        # A replica that reports flushed positions only says of the rest no more than where to go on (R2 b).
        is_new = self.held_end not in (before, flushed) and self.held_end.position >= self._known_at
        if is_new and append_level > Level.NONE:
            counted.append((self.held_end.offset, self.held_end.position, append_level))
        if counted:
            # In one event: what it lets go is looked for once.
            self.partition.held(member, *counted[0], *counted[1:], replied=replied)
        if len(held) > _HELD_MAX:
            # A flush that ends between two that are kept is taken for the lower one until the next.
            self._held = deque((*list(held)[:-1:2], held[-1]))
        return [(offset, level) for offset, _, level in counted]
