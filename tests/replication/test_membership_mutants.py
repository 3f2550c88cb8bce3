"""The model of membership finds what it is there for: each loose reading of a rule is met within some hundred runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from model_of_membership import POLICIES, MembershipPlay, SetViolation, random_set_steps

from mqcore.replication import Membership, SetRecord
from mqcore.replication._progress import CountedLog, FollowerProgress

RUNS_MAX = 2_000

Loose = tuple[type, str, Callable[[Any], Any]]
"""A class of the machine, the name in it to replace, and what makes the loose one from the right one."""


def joins_at_what_was_known(_: Any) -> Any:
    """R6: a node joins at the committed offset that the reign knows, though it began with more (KAFKA-7128)."""
    return property(lambda it: it.committed_offset if it.is_held_by_all else 0)


def joins_at_what_the_reign_began_with(_: Any) -> Any:
    """R6: what was committed since does not count."""
    return property(lambda it: it._floor)


def forgets_what_a_policy_was(set_policy: Any) -> Any:
    """R6: what was acknowledged under a stronger policy is not asked for once it is lowered."""

    def adopt(it: Any, policy: Any) -> None:
        floor = it._floor
        set_policy(it, policy)
        it._floor = floor

    return adopt


def joins_at_any_level(reported: Any) -> Any:
    """R6: a report at a lower level is taken for one at the level that the topic needs."""
    return lambda it, key, log, offset, level, now_us: reported(it, key, log, offset, log.level, now_us)


def joins_when_it_is_nearly_there(outsiders: Any) -> Any:
    """R6: one log that is short does not matter."""

    def found(it: Any) -> Any:
        nearly = outsiders(it)
        for follower in nearly:
            follower.logs_short = max(follower.logs_short - 1, 0)
        return nearly

    return found


def new_set_counts_when_the_answer_has_come(_: Any) -> Any:
    """R7: the set that was asked for is not waited for."""
    return property(lambda it: None)


def unknown_is_not_applied(change_sent: Any) -> Any:
    """R7: a change is taken for applied when it is sent."""

    def sent(it: Any, record: Any) -> None:
        change_sent(it, record)
        it.record, it._sent = record, None

    return sent


def incarnations_are_one(session_opened: Any) -> Any:
    """R2: what a node held before it came back is taken for held still."""

    def opened(it: Any, member: Any, session: Any, now_us: int) -> None:
        known = it._followers.get(member.node_id)
        session_opened(it, member, session, now_us)
        if known is not None:
            known.member = member
            it._followers[member.node_id] = known

    return opened


def leaves_at_once(_: Any) -> Any:
    """R7: a member leaves as soon as it lacks anything."""

    def overdue(it: Any, member: Any) -> int | None:
        follower = it._followers.get(member.node_id)
        return None if follower is None else follower.behind_since_us

    return overdue


def idle_members_leave(_: Any) -> Any:
    """R8: a member that is silent leaves, though nothing waits for it."""

    def overdue(it: Any, member: Any) -> int | None:
        gone = it._gone_since_us.get(member)
        return None if gone is None else int(gone + it._timeout_us)

    return overdue


def there_is_no_floor(_: Any) -> Any:
    """R8: the set shrinks below what the topics ask for."""
    return property(lambda it: 1)


def refuses_nothing(_: Any) -> Any:
    """R8: a record is written as it is wanted."""

    def changed(it: Any, members: Any, *, names: Any = None, copies_min: Any = None) -> Any:
        return attrs.evolve(it, members=members, names=names, copies_min=copies_min)

    return changed


def manual_shrinks(init: Any) -> Any:
    """R16: a configured set shrinks by itself."""

    def begin(it: Any, *facts: Any, is_manual: bool = False, **more: Any) -> None:
        init(it, *facts, **more)

    return begin


MUTANTS: tuple[tuple[Loose, ...], ...] = (
    ((CountedLog, "target", joins_at_what_was_known),),
    ((CountedLog, "target", joins_at_what_the_reign_began_with),),
    ((CountedLog, "set_policy", forgets_what_a_policy_was),),
    ((FollowerProgress, "reported", joins_at_any_level),),
    ((Membership, "_outsiders", joins_when_it_is_nearly_there),),
    ((Membership, "pending", new_set_counts_when_the_answer_has_come),),
    ((Membership, "change_sent", unknown_is_not_applied),),
    ((Membership, "session_opened", incarnations_are_one),),
    ((Membership, "_overdue_us", leaves_at_once),),
    ((Membership, "_overdue_us", idle_members_leave),),
    ((SetRecord, "floor", there_is_no_floor), (SetRecord, "with_members", refuses_nothing)),
    ((Membership, "__init__", manual_shrinks),),
)


def runs_until_met() -> tuple[int, str] | None:
    """Number of the first run that the model objects to, and what it says; None if there is none."""
    for seed in range(RUNS_MAX):
        rng = random.Random(seed)
        play = MembershipPlay.begin(
            [rng.randrange(len(POLICIES)) for _ in range(3)],
            copies_min=rng.randint(1, 3),
            is_manual=rng.random() < 0.2,
        )
        try:
            for word, numbers in random_set_steps(rng, 60):
                play.step(word, *numbers)
        except SetViolation as violation:
            return seed, str(violation)
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=["-".join(loose[2].__name__ for loose in each) for each in MUTANTS])
def test_the_model_of_membership_finds(monkeypatch: pytest.MonkeyPatch, mutant: tuple[Loose, ...]) -> None:
    for owner, name, loosened in mutant:
        monkeypatch.setattr(owner, name, loosened(getattr(owner, name)))
    met = runs_until_met()
    print(mutant[0][2].__doc__, met)
    assert met is not None


def test_the_model_has_nothing_to_say_about_membership_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.RUNS_MAX", 200)
    assert runs_until_met() is None
