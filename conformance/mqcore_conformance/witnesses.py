"""Witnesses: what shows that a fault found something to bite, and that a run was not empty.

A fault that was injected and met nothing that it could take proves nothing: its cell is INCONCLUSIVE, never PASS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from mqcore.log import METADATA_NAME
from mqcore_conformance.checkers import Facts
from mqcore_conformance.histories import (
    Altered,
    Appended,
    Completed,
    CursorCommitted,
    CursorSeen,
    FaultInjected,
    FetchAnswered,
    LogHeld,
    NameClaimed,
    SideFileHeld,
)
from mqcore_conformance.plans import CRASH_POINTS, MEMBER_FAMILIES

__all__ = ["ABOUT", "ASKED_OF", "has_to_judge", "tally", "fault_took_effect"]

_KILL = ("in-flight-at-kill", "unflushed-at-kill", "lost-as-allowed")
_CUT = ("disk-sectors-lost", "disk-entries-lost")
_NETWORK = ("network-held", "network-reset", "network-break-*", "network-refuse")
_T0: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "none": (),
        "kill": _KILL,
        "stop": ("in-flight-at-stop", "unflushed-at-stop", "lost-as-allowed"),
        "power-cut": _CUT,
        "flush-error": ("disk-flush-error-sectors",),
        "full": ("disk-full",),
        "io-error": ("disk-error:*",),
        "rot": ("disk-rot",),
        "rot-identity": ("disk-rot",),
        "slow": ("disk-stall",),
        "network": _NETWORK,
        "clock": ("appended-after-wall-jump",),
        "kill-all": _KILL,
        "power-cut-all": _CUT,
        "failovers": ("failovers",),
        "emptied": ("emptied",),
        "copied-disk": ("cloned", "old-copy"),
        "isolate": ("isolate",),
        "cut-peers": ("cut-peers",),
        "asymmetric-cut": ("cut-to-peers", "cut-from-peers"),
        "flap": ("flap-peers",),
        "coordinator-lost": ("coordinator-all-frozen",),
        "coordinator-cut": ("coordinator-cut-off",),
        "coordinator-slow": ("coordinator-slow",),
        "cursors": ("cursors-seen-after-a-fault",),
        "names": ("claims-after-a-fault",),
        "topics": ("metadata-made-short",),
        CRASH_POINTS: (*_KILL, *_CUT),
        **dict.fromkeys(MEMBER_FAMILIES, ("member-struck",)),
        "member-slow": ("disk-stall",),
        "member-full": ("disk-error:*",),
        "member-flush-error": ("disk-flush-error",),
        "member-io-error": ("disk-error:*",),
        "mixed": (*_KILL, *_CUT, "disk-flush-error-sectors", "disk-full", "disk-stall", "network-held"),
    }
)
"""By family of T0: counters of which one at least must not be zero. ``*`` stands for any ending."""

_T1: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "none": (),
        "kill": ("process-kill",),
        "power-cut": ("pages-lost",),
        "full": ("disk-full",),
        "flush-error": ("disk-flush-error",),
        "topics": ("metadata-made-short",),
    }
)
"""The same for T1, where the others are counted under their own names: what a signal finds is not known there."""

ASKED_OF: Mapping[str, str] = MappingProxyType(
    {"flush-error": "G11", "full": "G20", "rot": "G12", "rot-identity": "G12", "cursors": "G16", "names": "G15"}
)
"""By family of T0: the clause for whose sake it exists."""


ABOUT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "none": ("G04", "G05", "G06", "G08", "G14"),
        "kill": ("G01", "G02", "G03", "G15", "G17"),
        "stop": ("G01",),
        "power-cut": ("G01", "G02", "G03", "G08"),
        "flush-error": ("G11",),
        "full": ("G07", "G20"),
        "io-error": ("G07", "G13"),
        "rot": ("G12",),
        "rot-identity": ("G12",),
        "slow": ("G03", "G13"),
        "network": ("G06", "G13", "G15", "G20"),
        "clock": ("G13",),
        "mixed": ("G01", "G02", "G05", "G13"),
        CRASH_POINTS: ("G01", "G17"),
        **dict.fromkeys(MEMBER_FAMILIES, ("G01", "G13", "G14")),
        "member-rot": ("G01", "G12"),
        "pause": ("G13", "G14"),
        "kill-at-call": ("G01", "G17"),
        "kill-all": ("G01", "G05", "G10"),
        "power-cut-all": ("G01", "G10", "G14"),
        "failovers": ("G01", "G05", "G09", "G10"),
        "emptied": ("G01", "G10", "G13"),
        "copied-disk": ("G01", "G10", "G12", "G13"),
        "isolate": ("G01", "G09", "G10"),
        "cut-peers": ("G09", "G10", "G13", "G19"),
        "asymmetric-cut": ("G05", "G09", "G10"),
        "flap": ("G05", "G10", "G13"),
        "coordinator-lost": ("G09", "G13"),
        "coordinator-cut": ("G09", "G13"),
        "coordinator-slow": ("G09", "G13"),
        "coordinator-frozen": ("G09", "G13"),
        "cursors": ("G16", "G06"),
        "names": ("G15", "G01"),
        "topics": ("G01", "G10", "G13", "G16"),
        "proxy-cut": ("G06", "G15"),
        "proxy-stall": ("G13", "G20"),
        "proxy-duplicate": ("G05", "G15"),
    }
)
"""By family: the clauses that its faults are about. Every other one is judged beside them."""


def has_to_judge(family: str, flush: str, tier: str = "T0") -> str:
    """Return the clause without which a cell proves nothing (empty: none); ``flush`` is the name of a policy.

    Where no acknowledgement waits for a flush (``none``), a log flushes so rarely that a failed flush is luck.
    """
    return "" if tier != "T0" or (family, flush) == ("flush-error", "none") else ASKED_OF.get(family, "")


def fault_took_effect(family: str, witnesses: Mapping[str, int], tier: str = "T0") -> bool:
    """Whether the faults of ``family`` found something to bite at least once."""
    names = _T1.get(family, (family,)) if tier == "T1" else _T0[family]
    return not names or any(
        count > 0 and (name in names or any(one.endswith("*") and name.startswith(one[:-1]) for one in names))
        for name, count in witnesses.items()
    )


def tally(facts: Facts) -> Counter[str]:
    """Count what a history shows of outcomes, of faults, and of what they took."""
    counts: Counter[str] = Counter()
    has_struck = has_jumped = False
    for event in facts.history:
        match event:
            case Completed():
                counts[event.outcome] += 1
                counts["duplicates-answered"] += event.duplicate
                if event.outcome == "acknowledged":
                    counts["acknowledged-after-a-fault" if has_struck else "acknowledged-before-any-fault"] += 1
            case FetchAnswered():
                counts["messages-read"] += sum(len(batch.messages) for batch in event.batches)
            case FaultInjected():
                has_struck = True
                counts["faults-injected"] += 1
                counts["faults-that-hit-unflushed"] += event.kind in ("power-cut", "flush-error") and event.hit > 0
                counts["crash-states"] += event.kind in ("process-kill", "power-cut")
                has_jumped = has_jumped or (event.kind == "wall-jump" and event.hit > 0)
            case CursorSeen():
                counts["cursors-seen-after-a-fault"] += has_struck and event.offset >= 0
                counts["cursors-diverged"] += event.status == "diverged"
            case CursorCommitted():
                counts[f"cursors-{event.outcome}"] += 1
            case NameClaimed():
                counts["claims-after-a-fault"] += has_struck
                counts["names-taken-over"] += event.epoch > 1
            case Appended():
                counts["appended-after-wall-jump"] += has_jumped
            case LogHeld() if event.partition == METADATA_NAME:
                counts["metadata-made-short"] += not event.content.startswith("positions 0 ")
            case SideFileHeld() if event.partition == METADATA_NAME:
                counts["metadata-kept-aside"] += 1
            case Altered():
                counts[f"policy-changes-{event.outcome}"] += 1
            case _:
                pass
    counts["lost-as-allowed"] += _lost(facts)
    return counts


def _lost(facts: Facts) -> int:
    """Acknowledged messages that are not in the drain although nothing is wrong with that."""
    lost = 0
    for send, attempt, receipt in facts.acknowledged():
        if facts.kept(send, attempt):
            continue
        log = facts.log(send.invoked.partition)
        if log.complete or facts.drain:  # a topic of a life that is forgotten has no drain at all
            lost += sum(
                offset >= log.start_offset and not log.has(offset, digest)
                for offset, digest in enumerate(send.invoked.messages, receipt.offset)
            )
    return lost
