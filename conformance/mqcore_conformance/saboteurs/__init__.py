"""Saboteurs: parts that each have one real bug, and the cell in which the suite must catch it (``selftest``).

A saboteur that survives means that the suite cannot see its bug: the selftest fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs

from mqcore_conformance.cells import Cell
from mqcore_conformance.plans import CHURN_SIZES, Plan
from mqcore_conformance.saboteurs import _cores as cores
from mqcore_conformance.saboteurs import _disks as disks
from mqcore_conformance.saboteurs._records import RECORDERS
from mqcore_conformance.simulation import Sabotage

__all__ = ["INJECTORS", "RECORDERS", "SABOTEURS", "Saboteur"]

MMAP = "mmap://{dir}"


@attrs.frozen
class Saboteur:
    """One of ``clauses`` must turn red in the cell of ``flush`` and ``family``; the family ``green`` stays green."""

    name: str
    bug: str
    make: Callable[[], Sabotage]
    clauses: tuple[str, ...]
    flush: str
    family: str
    green: str = "none"
    seeds_max: int = 60
    transport: str = "inproc"
    suits: Callable[[Plan], bool] = lambda plan: True

    @property
    def cell(self) -> Cell:
        """Where it has to be caught."""
        return Cell(tier="T0", storage=MMAP, transport=self.transport, flush=self.flush, family=self.family)

    @property
    def green_cell(self) -> Cell:
        """Where nothing must be seen of it."""
        return Cell(tier="T0", storage=MMAP, transport="inproc", flush=self.flush, family=self.green)


def _uses_files_again(plan: Plan) -> bool:
    """Whether logs of one shape take turns in small segments, so that old bytes lie where a new batch may end."""
    alike = all(send.sizes == CHURN_SIZES for producer in plan.producers for send in producer.sends)
    return plan.churn and alike and "segment_bytes=4096" in plan.storage


def _dies_while_it_starts(plan: Plan) -> bool:
    """Whether a power cut is followed by one within the next start, and batches are large enough to be torn."""
    if sum(sum(send.sizes) > 1_000 for producer in plan.producers for send in producer.sends) < 4:
        return False
    calls = sorted(fault.when for fault in plan.faults if fault.trigger == "call")
    return any(0 < later - earlier < 90 for earlier, later in itertools.pairwise(calls))


SABOTEURS: tuple[Saboteur, ...] = (
    Saboteur(
        "empty-flush",
        "acknowledge before the flush (NATS JetStream #7564)",
        disks.EmptyFlush,
        ("G01",),
        "sync",
        "power-cut",
        "kill",
    ),
    Saboteur(
        "reply-before-flush",
        "the broker replies that a batch is on disk before the flush",
        cores.ReplyBeforeFlush,
        ("G14",),
        "sync",
        "none",
        "",
    ),
    Saboteur(
        "large-unflushed",
        "large messages skip the group commit (MetaQ)",
        disks.LargeWritesUnflushed,
        ("G01", "G02"),
        "sync",
        "power-cut",
        "kill",
    ),
    Saboteur(
        "roll-unflushed",
        "a roll skips the flush of the file before it (MetaQ)",
        disks.OnlyNewestFileFlushed,
        ("G01", "G02"),
        "sync",
        "power-cut",
        "kill",
    ),
    Saboteur(
        "close-unflushed",
        "a close skips the flush (MetaQ)",
        cores.CloseUnflushed,
        ("G01", "G14"),
        "sync",
        "stop",
        "kill",
    ),
    Saboteur(
        "cut-at-bad-checksum",
        "one flipped bit cuts off the rest of a file (NATS JetStream #7549)",
        cores.CutAtFirstBadChecksum,
        ("G12",),
        "sync",
        "rot",
        "power-cut",
    ),
    Saboteur(
        "start-empty",
        "unreadable metadata answered by starting empty (NATS JetStream #7556)",
        cores.StartsEmpty,
        ("G12",),
        "sync",
        "rot-identity",
        "power-cut",
    ),
    Saboteur(
        "flush-retried",
        "a failed flush is tried again (PostgreSQL's fsyncgate)",
        disks.FlushRetried,
        ("G01", "G02", "G11", "G12", "G13"),
        "sync",
        "flush-error",
        "power-cut",
    ),
    Saboteur(
        "rescan-through-cache",
        "recovery rescans through the page cache",
        disks.DroppedCacheIsKept,
        ("G01", "G02", "G03", "G12", "G13"),
        "sync",
        "flush-error",
        "kill",
    ),
    Saboteur(
        "record-by-length",
        "a record is accepted by its length field",
        cores.AnyRecordAccepted,
        ("G04", "G12", "G13", "G02"),
        "none",
        "power-cut",
        "none",
    ),
    Saboteur(
        "stale-bytes",
        "stale bytes of a file used again are accepted",
        cores.StaleBytesAccepted,
        ("G04", "G12", "G02", "G05", "G13"),
        "async",
        "power-cut",
        "none",
        suits=_uses_files_again,
    ),
    Saboteur(
        "no-directory-flush",
        "the directory is not flushed after a create",
        disks.NoDirectoryFlush,
        ("G01", "G02", "G13"),
        "sync",
        "power-cut",
        "kill",
    ),
    Saboteur(
        "no-rename-flush",
        "the directory is not flushed after a rename",
        disks.NoDirectoryFlushAfterRename,
        ("G01", "G02", "G13"),
        "sync",
        "power-cut",
        "kill",
    ),
    Saboteur(
        "duplicate-at-once",
        "a duplicate is answered from the table before the original is flushed",
        cores.DuplicateAnsweredAtOnce,
        ("G14", "G01"),
        "sync",
        "network",
        "none",
        120,
        "tcp",
    ),
    Saboteur(
        "window-ignored",
        "the window's bound is ignored during a stall",
        cores.WindowIgnored,
        ("G03",),
        "async",
        "slow",
        "kill",
        120,
    ),
    Saboteur(
        "rejected-after-append",
        "rejected after the append",
        cores.RejectedAfterAppend,
        ("G07",),
        "none",
        "none",
        "",
    ),
    Saboteur(
        "reads-above-committed",
        "a reader sees above the committed offset",
        cores.ReadsAboveCommitted,
        ("G08",),
        "sync",
        "none",
        "",
    ),
    Saboteur(
        "epoch-resumed",
        "own epoch resumed after a power cut",
        cores.EpochResumed,
        ("G05", "G06", "G02", "G01"),
        "none",
        "power-cut",
        "none",
    ),
    Saboteur(
        "recovery-skipped",
        "recovery skipped after a crash during loading (KAFKA-10471)",
        cores.RecoverySkippedAfterCrash,
        ("G01", "G02", "G03", "G04", "G12", "G13", "G17"),
        "async",
        "power-cut",
        "none",
        300,
        suits=_dies_while_it_starts,
    ),
)

INJECTORS: tuple[Saboteur, ...] = (
    Saboteur(
        "cut-that-flushes", "a power cut that flushes first", disks.CutThatFlushes, (), "sync", "power-cut", ""
    ),
    Saboteur(
        "kill-that-kills-nothing", "a kill that kills nothing", disks.KillThatKillsNothing, (), "sync", "kill", ""
    ),
)
"""Injectors that do nothing: their cell must end INCONCLUSIVE, never PASS."""
