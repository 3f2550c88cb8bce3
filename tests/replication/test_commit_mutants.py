"""The model finds what it is there for: each planted mistake of a commit rule is met within some hundred short runs."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from model_of_commit import POLICIES, Play, Violation, random_steps

from mqcore.errors import RemoteProtocolError
from mqcore.replication import AsyncWindow, CommitRule, InSyncSet
from mqcore.replication._lag import ReplicaLag
from mqcore.replication._window import _Span

RUNS_MAX = 4_000

Mutant = tuple[type, str, Callable[[Any], Any]]
"""A class of the rule, the name in it to replace, and what makes the mistaken one from the right one."""


def leaves_when_asked(change: Any) -> Any:
    """A member stops counting when its removal is asked for, not when the answer has come (R7)."""
    return lambda it, members, pending: change(it, members if pending is None else pending, None)


def old_set_only(change: Any) -> Any:
    """A member that is being added is not waited for until the answer has come (R7)."""
    return lambda it, members, pending: change(it, members, None)


def counts_pairs(change: Any) -> Any:
    """A node under two incarnations counts twice (R4)."""

    def changed(it: Any, members: Any, pending: Any) -> None:
        change(it, members, pending)
        it.nodes = min(len(each) for each in (members, members if pending is None else pending))
        it._others = tuple({member.node_id: member for member in it._others}.values())

    return changed


def believes_old_incarnation(report: Any) -> Any:
    """What a node held before it came back is taken for held still (R2)."""

    def believe(it: Any, member: Any, offset: int, position: int, level: Any) -> None:
        known = it._reported.get(member.node_id)
        if known is not None and member.incarnation > known.incarnation:
            known.incarnation = member.incarnation
        with contextlib.suppress(RemoteProtocolError):
            report(it, member, offset, position, level)

    return believe


def bound_off_by_one(fits: Any) -> Any:
    """One message more than the bound is acknowledged."""
    return lambda it, end_offset, end_position: fits(it, end_offset - 1, end_position)


def bytes_of_the_batch_only(fits: Any) -> Any:
    """Of the bytes only those of the newest batch are counted."""

    def decide(it: Any, end_offset: int, end_position: int) -> bool:
        return bool(fits(it, end_offset, end_position - max(it._acknowledged_position - it._durable_position, 0)))

    return decide


def span_of_the_newest(_: Any) -> Any:
    """The span is counted from the newest batch, not from the oldest."""
    return lambda it, now_us: bool(it._acknowledged) and now_us - it._acknowledged[-1][1] >= it.span_us


def duplicate_at_once(_: Any) -> Any:
    """A duplicate is answered at once from the producer table (R12)."""
    return lambda it, end_offset, own_policy, reply, now_us: [(reply, it._copies_flushed)]


def never_throttles(_: Any) -> Any:
    """Acknowledgements go on however far a replica lags."""
    return lambda *_: False


def forgets_what_waits(stop: Any) -> Any:
    """A log that stops answers one kind of waiting reply only (G11)."""
    return lambda it: stop(it)[:1]


def begins_unconfirmed(_: Any) -> Any:
    """A reign acknowledges before what the log held at its beginning is confirmed (R10)."""
    return lambda it: True


def believes_any_report(held: Any) -> Any:
    """A report beyond the primary's end is believed (R4)."""

    def believe(it: Any, member: Any, offset: int, position: int, level: Any, now_us: int) -> Any:
        return held(it, member, min(offset, it.end.offset), min(position, it.end.position), level, now_us)

    return believe


def hopes_for_the_flush(count: Any) -> Any:
    """The primary's own flush is not waited for under ``sync(..., disk)``."""

    def counted(it: Any) -> None:
        count(it)
        it._gate_is_flushed = False

    return counted


def states_the_level_hoped_for(flushed: Any) -> Any:
    """Receipts state the level of a flush for what was appended only."""

    def state(it: Any, *facts: Any) -> Any:
        it._copies_appended = it._copies_flushed
        return flushed(it, *facts)

    return state


MUTANTS: tuple[Mutant, ...] = (
    (InSyncSet, "change", leaves_when_asked),
    (InSyncSet, "change", old_set_only),
    (InSyncSet, "change", counts_pairs),
    (InSyncSet, "report", believes_old_incarnation),
    (AsyncWindow, "_fits", bound_off_by_one),
    (AsyncWindow, "_fits", bytes_of_the_batch_only),
    (_Span, "is_full", span_of_the_newest),
    (CommitRule, "duplicate", duplicate_at_once),
    (ReplicaLag, "is_exceeded", never_throttles),
    (CommitRule, "stop", forgets_what_waits),
    (CommitRule, "_confirm", begins_unconfirmed),
    (CommitRule, "held", believes_any_report),
    (CommitRule, "_count_members", hopes_for_the_flush),
    (CommitRule, "flushed", states_the_level_hoped_for),
)


def runs_until_found() -> tuple[int, str] | None:
    """Number of the first short run that the model objects to, and what it says; None if there is none."""
    for seed in range(RUNS_MAX):
        rng = random.Random(seed)
        batches = [(2, 30), (3, 40)] if rng.random() < 0.3 else []
        try:
            play = Play.begin(rng.choice(POLICIES), batches=batches)
            play.step("set", 3, 9)
            for word, numbers in random_steps(rng, 20):
                play.step(word, *numbers)
            if rng.random() < 0.2:
                play.step("stop")
            play.finish()
        except Violation as violation:
            return seed, str(violation)
    return None


@pytest.mark.parametrize(("owner", "name", "mistake"), MUTANTS, ids=[mutant[2].__name__ for mutant in MUTANTS])
def test_the_model_finds(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, mistake: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(owner, name, mistake(getattr(owner, name)))
    found = runs_until_found()
    print(mistake.__doc__, found)
    assert found is not None


def test_the_model_has_nothing_to_say_about_the_rule_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.RUNS_MAX", 300)
    assert runs_until_found() is None
