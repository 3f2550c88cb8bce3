"""The list: every saboteur with the bug that it plants, the clause that it breaks, its cell, and where it is not seen.

The bugs are those of docs/design/guarantees.md, section 8, that one node can have; ``_set_catalogue`` has those that
only a set can. Not planted, because nothing that runs on the model disk or on one node can show them:

- SIGBUS on a full disk: the port has no mapping that can be stored to, so that no storage in T0 can have it;
- a truncation that a crash undoes: one node never reports what it truncates, and its epochs tell old bytes from new;
- check epoch, await, append: within one process the epoch never changes;
- an emptied storage not noticed: alone, an empty storage is a new one; a half emptied one is a matter of tests/log.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from mqcore_conformance.plans import RunPlan
from mqcore_conformance.saboteurs import _broker as broker
from mqcore_conformance.saboteurs import _disks as disks
from mqcore_conformance.saboteurs import _injectors as injectors
from mqcore_conformance.saboteurs import _kept as kept
from mqcore_conformance.saboteurs import _log as log
from mqcore_conformance.saboteurs import _shapes as shapes
from mqcore_conformance.saboteurs._model import Saboteur
from mqcore_conformance.saboteurs._set_catalogue import SETS
from mqcore_conformance.worlds.model import Sabotage

# ---- flushes -----------------------------------------------------------------------------------------------------

# An entry is a row: what it is, and how it is planted and shown. What its bug is says what plants it.
# fmt: off
FLUSHES = (
    Saboteur(
        name="empty-flush", clause="G01", flush="sync", family="power-cut",
        make=disks.planted(disks.EmptyFlush), green=("sync/none", "sync/kill"),
    ),
    Saboteur(
        name="reply-before-flush", clause="G14", flush="sync", family="none",
        make=broker.reply_before_flush, green=("none/none", "none/kill"),
    ),
    Saboteur(
        name="large-unflushed", clause="G01", flush="sync", family="power-cut",
        make=disks.planted(disks.LargeWritesUnflushed), shape=shapes.large_batches, green=("sync/kill",), seed=1,
    ),
    Saboteur(
        name="roll-unflushed", clause="G01", flush="sync", family="power-cut",
        make=disks.planted(disks.OnlyNewestFileFlushed), shape=shapes.large_batches, green=("sync/kill",), seed=3,
    ),
    Saboteur(
        name="close-unflushed", clause="G14", flush="sync", family="stop",
        make=broker.close_unflushed, green=("sync/kill",),
    ),
    Saboteur(
        name="flush-retried", clause="G11", flush="sync", family="flush-error",
        make=disks.planted(disks.FlushRetried), green=("sync/power-cut",),
    ),
    Saboteur(
        name="rescan-through-cache", clause="G01", flush="sync", family="flush-error",
        make=disks.planted(disks.DroppedCacheIsKept), shape=shapes.failing_flush_then("process-kill"),
        green=("sync/kill",), seed=1,
    ),
    Saboteur(
        name="clean-mark-laundered", clause="G01", flush="sync", family="flush-error",
        make=log.clean_mark_laundered, shape=shapes.failing_flush_then("stop"), green=("sync/stop",),
        seed=9,
    ),
    Saboteur(
        name="no-flush-after-create", clause="G01", flush="sync", family="power-cut",
        make=disks.planted(disks.NoDirectoryFlushAfterCreate), green=("sync/kill",), seed=6,
    ),
    Saboteur(
        name="no-flush-after-rename", clause="G01", flush="sync", family="power-cut",
        make=disks.planted(disks.NoDirectoryFlushAfterRename), green=("sync/kill",),
    ),
)

# ---- recovery ----------------------------------------------------------------------------------------------------

RECOVERY = (
    Saboteur(
        name="cut-at-bad-checksum", clause="G12", flush="sync", family="rot",
        make=log.cut_at_bad_checksum, green=("sync/power-cut",),
    ),
    Saboteur(
        name="start-empty", clause="G12", flush="sync", family="rot-identity",
        make=log.starts_empty, green=("sync/power-cut",),
    ),
    Saboteur(
        name="damage-served", clause="G12", flush="sync", family="rot",
        make=log.damage_served, green=("sync/power-cut",),
    ),
    Saboteur(
        name="damage-invented", clause="G12", flush="sync", family="none",
        make=log.damage_invented, seed=5,
    ),
    Saboteur(
        name="damage-too-wide", clause="G12", flush="sync", family="rot",
        make=log.damage_too_wide, green=("sync/none", "sync/power-cut"),
    ),
    Saboteur(
        name="record-by-length", clause="G12", flush="none", family="power-cut",
        make=log.any_record_accepted, green=("none/none", "none/kill"), seed=8,
    ),
    Saboteur(
        name="stale-bytes", clause="G04", flush="none", family="kill",
        make=log.one_salt, shape=shapes.same_files_again, green=("sync/none",), seed=3,
    ),
    Saboteur(
        name="recovery-skipped", clause="G17", flush="none", family="power-cut",
        make=log.recovery_skipped, shape=shapes.recovery_checked, green=("none/none",), seed=7, seeds_max=200,
    ),
    Saboteur(
        name="epoch-resumed", clause="G05", flush="none", family="power-cut",
        make=log.epoch_resumed, green=("none/none",),
    ),
)

# ---- what clients are told ---------------------------------------------------------------------------------------

REPLIES = (
    Saboteur(
        name="hoped-level", clause="G14", flush="none", family="none",
        make=broker.hoped_level,
    ),
    Saboteur(
        name="fallback-to-async", clause="G14", flush="sync", family="slow",
        make=broker.fallback_to_async, green=("sync/none", "sync/kill"), seed=6,
    ),
    Saboteur(
        name="duplicate-at-once", clause="G14", flush="sync", family="network", transport="tcp",
        make=broker.duplicate_at_once, shape=shapes.retries_in_a_stall, green=("sync/none",), seed=5, seeds_max=150,
    ),
    Saboteur(
        name="duplicate-appended", clause="G15", flush="sync", family="network", transport="tcp",
        make=broker.appends_duplicates, shape=shapes.retries_in_a_stall, green=("sync/none",),
    ),
    Saboteur(
        name="trim-forgets-producers", clause="G15", flush="sync", family="network", transport="tcp",
        make=log.forgets_with_a_trim, shape=shapes.retries_over_a_trim, green=("sync/none",), seed=7,
    ),
    Saboteur(
        name="unknown-called-rejected", clause="G07", flush="sync", family="flush-error",
        make=broker.unknown_called_rejected, shape=shapes.appends_beside_a_failing_flush,
        green=("sync/none", "sync/kill"), seed=6,
    ),
    Saboteur(
        name="rejected-after-append", clause="G07", flush="none", family="none",
        make=broker.rejected_after_append,
    ),
    Saboteur(
        name="window-ignored", clause="G03", flush="async", family="slow",
        make=broker.window_ignored, shape=shapes.power_cut_in_a_stall, green=("async/kill", "sync/slow"), seed=2,
        seeds_max=120,
    ),
    Saboteur(
        name="reads-above-committed", clause="G08", flush="sync", family="none",
        make=broker.reads_above_committed, green=("none/none",), seed=4,
    ),
    Saboteur(
        name="position-unchecked", clause="G06", flush="none", family="power-cut",
        make=broker.positions_unchecked, shape=shapes.reader_over_a_power_cut, green=("none/none", "none/kill"),
    ),
    Saboteur(
        name="divergence-too-low", clause="G06", flush="none", family="power-cut",
        make=log.divergence_too_low, shape=shapes.reader_over_a_power_cut, green=("none/none",), seed=1,
    ),
    Saboteur(
        name="first-tag-only", clause="G06", flush="sync", family="none",
        make=broker.looks_at_the_first_tag, shape=shapes.reads_by_tags,
    ),
    Saboteur(
        name="tag-position-dropped", clause="G13", flush="sync", family="none",
        make=broker.position_not_told, shape=shapes.reads_by_tags,
    ),
    Saboteur(
        name="tag-position-past-committed", clause="G08", flush="sync", family="none",
        make=broker.position_past_committed, shape=shapes.reads_by_tags,
    ),
    Saboteur(
        name="flusher-dies", clause="G13", flush="sync", family="none",
        make=broker.flusher_dies, shape=shapes.runs_on, green=("none/none",),
    ),
    Saboteur(
        name="sessions-kept", clause="G20", flush="none", family="none",
        make=broker.sessions_kept,
    ),
)

# ---- what is kept for clients ------------------------------------------------------------------------------------

KEPT = (
    Saboteur(
        name="cursor-without-epoch", clause="G16", flush="none", family="cursors",
        make=kept.cursors_without_epoch, green=("none/none", "sync/names"),
    ),
    Saboteur(
        name="cursor-acknowledged-early", clause="G16", flush="sync", family="cursors",
        make=kept.commits_not_awaited, green=("sync/none",), seed=33,
    ),
    Saboteur(
        name="claim-not-kept", clause="G15", flush="sync", family="names",
        make=kept.claims_not_kept, green=("sync/none", "sync/cursors"),
    ),
    Saboteur(
        name="older-last-told", clause="G15", flush="sync", family="names",
        make=kept.older_last_told, green=("sync/none", "sync/cursors"),
    ),
)

# fmt: on
SABOTEURS: tuple[Saboteur, ...] = (*FLUSHES, *RECOVERY, *REPLIES, *KEPT, *SETS)
"""Saboteurs of what is under test."""


def _injector(name: str, make: Callable[[], Sabotage], family: str) -> Saboteur:
    return Saboteur(name=name, make=make, clause="", flush="sync", family=family)


def _only_cuts(plan: RunPlan) -> bool:
    """Say whether cuts are all that befalls the network: other faults strike although a cut drops nothing."""
    return bool(plan.faults) and {fault.kind for fault in plan.faults} <= {"cut", "cut-to-broker", "cut-from-broker"}


INJECTORS: tuple[Saboteur, ...] = (
    _injector("cut-that-flushes", injectors.CutThatFlushes, "power-cut"),
    _injector("kill-that-kills-nothing", injectors.KillThatKillsNothing, "kill"),
    attrs.evolve(
        _injector("network-cut-that-drops-nothing", injectors.network_cuts_nothing, "network"),
        transport="tcp",
        suits=_only_cuts,
    ),
    _injector("flush-error-not-raised", injectors.flush_errors_not_raised, "flush-error"),
    _injector("error-not-raised", injectors.errors_not_raised, "io-error"),
    _injector("stall-of-no-time", injectors.stalls_take_no_time, "slow"),
    _injector("rot-that-flips-nothing", injectors.rot_flips_nothing, "rot"),
    _injector("disk-that-never-fills", injectors.disk_never_fills, "full"),
    _injector("clock-that-never-jumps", injectors.clock_never_jumps, "clock"),
)
"""Injectors that do nothing: their cell must end INCONCLUSIVE, never PASS."""
