"""Verdicts: what a checker found, what a cell is worth. Values only; nothing here decides."""

from __future__ import annotations

import enum

import attrs

__all__ = ["Anomaly", "Status", "Violation"]


class Anomaly(enum.Enum):
    """Names of anomalies, Jepsen's where it has one."""

    LOST_WRITE = "lost write"
    ABORTED_READ = "aborted read"
    DUPLICATE = "duplicate"
    INCONSISTENT_OFFSET = "inconsistent offset"
    NONMONOTONIC_POLL = "nonmonotonic poll"
    SKIPPED_POLL = "skipped poll"
    PHANTOM = "phantom"
    HOLE = "hole"
    UNBOUNDED_LOSS = "loss beyond its bound"
    TWO_WRITERS = "two writers"
    DIVERGED = "copies differ"
    DISCARDED = "discarded"
    UNSTABLE_READ = "unstable read"
    STALE_READ = "stale read"
    FAILED_FLUSH_TRUSTED = "failed flush trusted"
    SILENT_DAMAGE = "silent damage"
    INVENTED_DAMAGE = "invented damage"
    UNJUSTIFIED_RECEIPT = "unjustified receipt"
    NO_PROGRESS = "no progress"
    UNREPEATABLE_RECOVERY = "unrepeatable recovery"
    NOT_REFUSED = "not refused"
    UNBOUNDED_RESOURCE = "unbounded resource"


@attrs.frozen
class Violation:
    """One clause that does not hold, promise against observation; ``events`` are indices into the history."""

    clause: str
    anomaly: Anomaly
    text: str
    partition: str = ""
    events: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = f" {self.partition}" if self.partition else ""
        return f"{self.clause} {self.anomaly.value}{where}: {self.text}"


class Status(enum.Enum):
    """What a cell is worth for one clause. FAIL is never rewritten."""

    PASS = "PASS"
    FAIL = "FAIL"
    LIVENESS = "LIVENESS"
    XFAIL = "XFAIL"
    XPASS = "XPASS"
    NOT_CLAIMED = "NOT CLAIMED"
    NOT_RUN = "NOT RUN"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
