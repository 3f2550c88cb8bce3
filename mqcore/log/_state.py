"""What is known of one log: its ends, index, epochs, producers. A function of the log's prefix, fed batch by batch.

Pure. Appending, copying, recovery and truncation all go through ``apply``, so that each ends with the same state.
"""

from __future__ import annotations

from typing import NamedTuple

from mqcore.batch import BatchHeader, PlainBatch, PlainRun
from mqcore.limits import Limits
from mqcore.log._control import EpochFacts, Lost, ProducerEnd
from mqcore.log._history import UNKNOWN_REIGN, EpochHistory
from mqcore.log._index import OffsetIndex
from mqcore.log._producer_bytes import KeptProducers
from mqcore.log._producers import ProducerTable
from mqcore.log._types import NOWHERE, Damage, LogPoint

__all__ = ["DAMAGES_KEPT_MAX", "LOST_TEXT", "KeptAt", "LogState"]

DAMAGES_KEPT_MAX = 64
"""Damaged ranges remembered; further ones are found again when they are read."""

LOST_TEXT = "no node that was asked had them whole, and they are given up"

NO_TIME = -(1 << 62)
"""Before every append time."""


class KeptAt(NamedTuple):
    """Where a log says what it remembers of its producers: whoever begins at ``begin`` or before knows it at ``end``.

    ``end``: a position; 0 where the log says it nowhere, as far as is known.
    """

    begin: LogPoint = NOWHERE
    end: int = 0


class LogState:
    """State of a log up to ``end_position``. Offsets, positions: as in ``PartitionLog``; times: ms since 1970 UTC."""

    __slots__ = (
        "damages",
        "end_offset",
        "end_position",
        "epoch",
        "epoch_free",
        "history",
        "index",
        "kept_at",
        "kept_from",
        "last_position",
        "newest_ms",
        "producers",
        "start_offset",
        "start_position",
    )

    def __init__(self, limits: Limits) -> None:
        self.start_position = 0
        self.start_offset = 0
        self.end_position = 0
        self.end_offset = 0
        self.last_position = -1
        """Position of the last batch; -1 before the first."""
        self.epoch = 0
        """Epoch number of the last batch."""
        self.epoch_free = False
        """Whether the next batch may be of a new epoch without opening it: what opened it is gone."""
        self.newest_ms = NO_TIME
        """Greatest append time so far."""
        self.index = OffsetIndex()
        self.history = EpochHistory()
        self.producers = ProducerTable(limits)
        self.kept_at = KeptAt()
        """The last whole table of producers in the log; one before the checkpoint that was read is not known."""
        self.kept_from: LogPoint | None = None
        self.damages: dict[int, Damage] = {}

    @property
    def end(self) -> LogPoint:
        """Position and offset after the last batch."""
        return LogPoint(self.end_position, self.end_offset)

    def apply(self, position: int, header: BatchHeader, base_offset: int, appended_ms: int) -> None:
        """Take in the batch at ``position``: the next one, appended or met."""
        index = self.index
        if position >= index.fine_at:  # asked here: a call for each small batch costs more than what it would note
            index.note(base_offset, position, self.newest_ms)
        if appended_ms > self.newest_ms:
            self.newest_ms = appended_ms
        if header.producer_id:
            self.producers.record(
                header.producer_id,
                header.producer_epoch,
                header.first_sequence,
                header.count,
                header.body_checksum,
                base_offset,
                appended_ms,
            )
        self.last_position = position
        self.end_position = position + header.size
        self.end_offset = base_offset + header.count

    def open_epoch(self, number: int, reign_id: bytes, position: int, offset: int) -> None:
        """Take in that reign ``number`` begins at ``position``."""
        self.epoch = number
        self.epoch_free = False
        self.history.note(number, reign_id, position, offset)

    def apply_stored(
        self,
        header: BatchHeader,
        opening: EpochFacts | None,
        told: list[ProducerEnd] | KeptProducers | Lost | None = None,
    ) -> None:
        """Take in a batch that was stamped before: met by recovery, or by another node.

        ``opening``: the reign that it opens. ``told``: what it says of producers besides its own.
        """
        position = self.end_position
        if opening is not None:
            self.open_epoch(opening.number, opening.reign_id, position, header.base_offset)
        elif header.epoch > self.epoch:
            self.open_epoch(header.epoch, UNKNOWN_REIGN, position, header.base_offset)
        self.epoch_free = False
        self.apply(position, header, header.base_offset, header.appended_ms)
        if isinstance(told, KeptProducers):
            self.keep_producers(told, LogPoint(position, header.base_offset))
        elif isinstance(told, Lost):
            self.give_up(position, header)
            self.kept_from = None
            if not header.producer_id:  # else it says itself what was there
                self.producers.forgot(may_have_sent=header.count > 0)
        elif told:
            self.producers.end(told)

    def keep_producers(self, kept: KeptProducers, begin: LogPoint) -> None:
        """Take in a part of what is remembered of producers, whose batch began at ``begin`` and was applied."""
        self.producers.take_part(kept)
        if not kept.part:
            self.kept_from = begin
        if kept.is_last and self.kept_from is not None:
            self.kept_at, self.kept_from = KeptAt(self.kept_from, self.end_position), None

    def apply_run(self, run: PlainRun) -> None:
        """Take in batches that were stamped before, all of the present epoch: the same as one after the other."""
        position, newest_ms, index = self.end_position, self.newest_ms, self.index
        fine_at = index.fine_at
        for size, _, _, _, _, base_offset, appended_ms, _ in run.batches:
            if position >= fine_at:
                index.note(base_offset, position, newest_ms)
                fine_at = index.fine_at
            if appended_ms > newest_ms:
                newest_ms = appended_ms
            self.last_position = position
            position += size
        self.producers.record_run(run.batches)
        self.newest_ms = newest_ms
        self.end_position = position
        self.end_offset = run.end_offset

    def begin_at(self, position: int, offset: int) -> None:
        """Begin at the first batch that a trimmed log still has, nothing else being known of what was before."""
        self.start_position = self.end_position = position
        self.start_offset = self.end_offset = offset
        self.epoch_free = True
        self.producers.forgot()

    def forget_below(self, position: int) -> None:
        """Drop what is known of batches and damage below ``position``, where the log was trimmed."""
        self.index.trim(position)
        self.damages = {at: each for at, each in self.damages.items() if each.end_position > position}

    def skip(self, damage: Damage, header: BatchHeader | None = None) -> None:
        """Go on after a damaged range; ``header``: of the one batch that it is, if that is intact.

        What it took may have opened an epoch, and may have been the last word of producers that are still known: from
        here on an unopened epoch is no error, an unknown producer in mid-sequence is no newcomer, and what a known one
        sends next may have been there.
        """
        self.note_damage(damage)
        self.kept_from = None
        if header is None or header.is_control:
            self.producers.forgot(may_have_sent=damage.next_offset > damage.first_offset)
        else:
            self.producers.record_run([PlainBatch._make(getattr(header, each) for each in PlainBatch._fields)])
        self.end_position = damage.end_position
        self.end_offset = damage.next_offset
        self.epoch_free = True

    def give_up(self, position: int, header: BatchHeader) -> None:
        """Remember as damage that a lost batch stands at ``position``."""
        damage = Damage(position, position + header.size, header.base_offset, header.end_offset, LOST_TEXT, True)
        self.damages.pop(position, None)
        self.note_damage(damage)
        self.producers.mark(header.base_offset, header.end_offset, is_given_up=True)
        kept = self.kept_at
        if position < kept.end and damage.end_position > kept.begin.position:
            self.kept_at = KeptAt()  # who begins there would not know all of it: it is told anew

    def note_damage(self, damage: Damage) -> bool:
        """Remember a damaged range; False when it was known."""
        if damage.position in self.damages:
            return False
        if len(self.damages) >= DAMAGES_KEPT_MAX and not damage.is_given_up:
            # What is given up says so itself to who reads it: it does not keep out what is still to be looked after.
            given_up = [at for at, each in self.damages.items() if each.is_given_up]
            for at in given_up[:1]:
                del self.damages[at]
        if len(self.damages) < DAMAGES_KEPT_MAX:
            self.damages[damage.position] = damage
        return True
