"""What is known of one log: its ends, history, producers, damage met so far. Nothing of it is read for that.

Knows nothing of topics, requests or flush policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mqcore.abc import Log, Notice
from mqcore.errors import StorageError
from mqcore.guarantees import Level
from mqcore.log._history import UNKNOWN_REIGN
from mqcore.log._mending import GoodCopies, Mends
from mqcore.log._producers import ProducerTable
from mqcore.log._state import KeptAt, LogState
from mqcore.log._types import Damage, EpochEntry, LogPoint

__all__ = ["TRIM_STEP_BYTES", "LogFacts"]

TRIM_STEP_BYTES = 256 * 1024 * 1024
"""Of how much a log is trimmed at once: a storage holds flushes up while it takes the names from files."""


class LogFacts:
    """The facts of a ``PartitionLog``, all at once there."""

    __slots__ = (
        "_cursors",
        "_failure",
        "_generation",
        "_good",
        "_log",
        "_mends",
        "_report",
        "_state",
        "committed_offset",
        "durable_level",
        "durable_offset",
        "durable_position",
        "failed",
        "least_level",
        "may_be_damaged",
        "name",
        "salt",
    )

    def __init__(
        self, log: Log, state: LogState, *, salt: int, report: Callable[[Notice], None], good: GoodCopies
    ) -> None:
        self.name = log.name
        self.salt = salt
        """32 bits that seal the headers of this log."""
        self.failed: StorageError | None = None
        """Why the log takes no more appends; None while it does."""
        self._failure: StorageError | None = None  # what stopped it in every term, not the end of this one
        self.durable_level = log.level
        self.least_level = Level.NONE
        """Level below which a flush proves nothing of this log, and below which it takes no sends."""
        self.durable_offset = 0
        """Offset below which everything is at the backend's flush level."""
        self.durable_position = 0
        self.committed_offset = state.start_offset
        """Where the last reign of this process left the committed offset, below which the next does not go (R10)."""
        self._log, self._good = log, good
        self._state = state
        self._report = report
        self.may_be_damaged = bool(state.damages)
        """Whether damage was ever met, which is asked for every reply: plain for that."""
        self._generation = 0
        self._cursors: dict[int, int] | None = None
        self._mends: Mends | None = None  # made when first needed, of which most logs have none

    @property
    def level(self) -> Level:
        """Level that a flush gives this log now."""
        return self._log.level

    @property
    def start_offset(self) -> int:
        """First offset kept; never goes back."""
        return self._state.start_offset

    @property
    def start_position(self) -> int:
        """Position of the first batch kept."""
        return self._state.start_position

    @property
    def end_offset(self) -> int:
        """Offset that the next message gets."""
        return self._state.end_offset

    @property
    def end_position(self) -> int:
        """Position after the last batch."""
        return self._state.end_position

    @property
    def end(self) -> LogPoint:
        """Position and offset after the last batch."""
        return self._state.end

    @property
    def last_batch(self) -> tuple[int, bytes, int]:
        """Of the last batch: epoch number, reign id (16 bytes) and position. Zeros in a log without one."""
        state = self._state
        if state.last_position < 0:
            return 0, UNKNOWN_REIGN, 0
        return state.epoch, state.history.last_id, state.last_position

    @property
    def producers(self) -> ProducerTable:
        """What is remembered of idempotent producers (R12)."""
        return self._state.producers

    @property
    def kept_at(self) -> KeptAt:
        """Where the log itself says what is remembered of producers, for who has not read what was before."""
        return self._state.kept_at

    def lacks_producers(self, position: int) -> bool:
        """Whether who begins at ``position`` would not know all that is remembered of producers at the end (R12)."""
        state = self._state
        is_told = bool(state.kept_at.end) and position <= state.kept_at.begin.position
        return position > 0 and not is_told and not state.producers.is_empty

    @property
    def bytes_total(self) -> int:
        """Bytes that the log holds, from its first batch to its last."""
        return self._state.end_position - self._state.start_position

    @property
    def has_stopped(self) -> bool:
        """Whether a failure stopped it for as long as this process lives: nothing beyond what is durable is served."""
        return self._failure is not None

    @property
    def dirty(self) -> bool:
        """Whether a flush would move ``durable_offset``."""
        return self.failed is None and self._state.end_position > self.durable_position

    @property
    def history(self) -> list[EpochEntry]:
        """The reigns of this log, oldest first."""
        return self._state.history.entries()

    @property
    def is_damaged(self) -> bool:
        """Whether damage was met so far."""
        return bool(self._state.damages)

    @property
    def damages(self) -> list[Damage]:
        """Damaged ranges met so far, in order."""
        return sorted(self._state.damages.values())

    def damage_of(self, offset: int) -> Damage | None:
        """The damaged range met so far that holds ``offset``; None where there is none."""
        damages = self._state.damages.values()
        return next((each for each in damages if each.first_offset <= offset < each.next_offset), None)

    @property
    def open_end(self) -> int | None:
        """Where damage begins beyond which recovery found nothing whole; None if it found where the log ends.

        What the last batch was is not known then, and how many offsets it took is a guess.
        """
        state = self._state
        for damage in state.damages.values():
            if damage.end_position == state.end_position and damage.position > state.last_position:
                return damage.position
        return None

    def hidden_reign(self, position: int) -> EpochEntry | None:
        """The reign that was opened in the damaged range around ``position``, as far as the batch behind it tells."""
        for damage in self._state.damages.values():
            if damage.position <= position < damage.end_position:
                for each in self.history:
                    if each.start_position == damage.end_position and each.reign_id == UNKNOWN_REIGN:
                        return each
        return None

    @property
    def hides_reign(self) -> bool:
        """Whether damage hides what opened a reign, so that its history does not show whether another's is the same."""
        return any(self.hidden_reign(position) is not None for position in self._state.damages)

    def epoch_at(self, offset: int) -> int:
        """Epoch number of the batch that contains ``offset``; at the end, of the last batch; 0 in an empty log."""
        return self._state.history.number_at(offset)

    def epoch_up_to(self, epoch: int) -> int:
        """The highest epoch of a batch here that is not above ``epoch``; 0 for none."""
        return self._state.history.number_up_to(epoch)

    def divergence(self, offset: int, epoch: int) -> int | None:
        """Where the history of a reader at (``offset``, ``epoch``) leaves this log's; None if it does not (G06).

        ``epoch`` is the number of the epoch of the last batch that was read before ``offset``.
        """
        return self._state.history.divergence(offset, epoch, self._state.end_offset)

    def boundary_below(self, position: int) -> tuple[int, int]:
        """Offset and position of a batch at or below ``position``, as near as the index knows; else of the start."""
        state = self._state
        found = state.index.below(position)
        return found if found and found[1] > state.start_position else (state.start_offset, state.start_position)

    def trim_steps(self, offset: int, position: int) -> Iterator[tuple[int, int]]:
        """Offsets and positions at which to trim in turn on the way to these, which are the last.

        For a caller that lets others have the log, and the flusher, between two. Each is looked for once the one before
        it was trimmed.
        """
        start = -1
        while start < self.start_position < position - TRIM_STEP_BYTES:
            start = self.start_position
            at = self.boundary_below(start + TRIM_STEP_BYTES)
            if at[1] > start:
                yield at
        yield offset, position

    def boundary_above(self, position: int) -> tuple[int, int]:
        """Offset and position of the next batch beyond ``position`` that the index knows; else of the start."""
        state = self._state
        return state.index.after(position) or (state.start_offset, state.start_position)

    def boundary_of(self, offset: int) -> int:
        """Position of a batch at or below ``offset``, as near as the index knows; else of the start."""
        state = self._state
        found = state.index.floor(offset)
        return max(found[1], state.start_position) if found else state.start_position
