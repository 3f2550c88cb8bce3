"""The small world finds what it is there for: each planted mistake makes two nodes hold the lease within short runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from model_of_lease import SCRIPTS, TERMS, TwoAtOnce, play_script, run_of

from mqcore.replication import LeaseHolder, LeaseObserver

Mutant = tuple[type, str, Callable[[Any], Any]]
"""A class of the machine, the name in it to replace, and what makes the mistaken one from the right one."""


def counts_from_the_answer(applied: Any) -> Any:
    """Validity is counted from the answer to a renewal, not from its sending."""

    def apply(it: Any, write_id: bytes, now: Any) -> None:
        it._pending[write_id] = now
        applied(it, write_id, now)

    return apply


def revived_by_a_late_answer(applied: Any) -> Any:
    """An answer that comes after the end begins the lease anew."""

    def apply(it: Any, write_id: bytes, now: Any) -> None:
        applied(it, write_id, now)
        it._sent, it.is_over = now, False

    return apply


def goes_on_after_a_conflict(found: Any) -> Any:
    """What the cell shows after a conflict is taken for one's own, and for a renewal."""

    def find(it: Any, write_id: bytes, now: Any) -> bool:
        if write_id not in it._pending:
            it._pending[write_id] = now
        return bool(found(it, write_id, now))

    return find


def release_goes_on(release: Any) -> Any:
    """The holder reigns on until its release is answered."""

    def give_up(it: Any) -> bytes:
        was_over = it.is_over
        value: bytes = release(it)
        it.is_over = was_over
        return value

    return give_up


def no_margin(_: Any) -> Any:
    """The margin is forgotten, in which what a hypervisor takes away has room."""
    return property(lambda it: it._terms.lease_ms * 1000)


def trusts_the_boottime_clock(holds: Any) -> Any:
    """The wall clock is not asked whether the machine stood still."""
    return lambda it, sent, now: holds(it, sent, now._replace(wall_ms=sent.wall_ms))


def counts_from_the_look(saw: Any) -> Any:
    """Vacancy is counted from the sending of a look, not from its answer."""
    return lambda it, write_id, value, *, sent, received: saw(it, write_id, value, sent=sent, received=sent)


def no_stretch(_: Any) -> Any:
    """Vacancy ignores that clocks drift."""

    def vacant_at_us(it: Any) -> int | None:
        if it._write_id is None or it.holder is None or it.holder.released:
            return None if it._write_id is None else it._since_us
        return int(it._since_us + it.holder.ttl_ms * 1000)

    return property(vacant_at_us)


def one_count_for_all_ids(saw: Any) -> Any:
    """A renewal that is seen does not begin the count anew."""

    def see(it: Any, write_id: bytes, value: bytes | None, *, sent: Any, received: Any) -> None:
        since = it._since_us if it._write_id is not None else None
        saw(it, write_id, value, sent=sent, received=received)
        it._since_us = it._since_us if since is None else since

    return see


def blind_to_breaks(saw: Any) -> Any:
    """A cell that looks as before counts as unchanged, however long no one looked."""

    def see(it: Any, write_id: bytes, value: bytes | None, *, sent: Any, received: Any) -> None:
        it._seen_sent_us = received.boottime_us
        saw(it, write_id, value, sent=sent, received=received)

    return see


def acts_on_an_old_look(is_vacant: Any) -> Any:
    """A promotion stands on a look of any age."""

    def decide(it: Any, now: Any) -> bool:
        it._seen_sent_us = max(it._seen_sent_us, now.boottime_us - TERMS.gap_ms * 1000)
        return bool(is_vacant(it, now))

    return decide


MUTANTS: tuple[Mutant, ...] = (
    (LeaseHolder, "applied", counts_from_the_answer),
    (LeaseHolder, "applied", revived_by_a_late_answer),
    (LeaseHolder, "found", goes_on_after_a_conflict),
    (LeaseHolder, "release", release_goes_on),
    (LeaseHolder, "_span_us", no_margin),
    (LeaseHolder, "_holds", trusts_the_boottime_clock),
    (LeaseObserver, "saw", counts_from_the_look),
    (LeaseObserver, "vacant_at_us", no_stretch),
    (LeaseObserver, "saw", one_count_for_all_ids),
    (LeaseObserver, "saw", blind_to_breaks),
    (LeaseObserver, "is_vacant", acts_on_an_old_look),
)


def runs_until_found(runs_max: int) -> str:
    """Return which run was the first in which two nodes hold the lease; empty if there is none."""
    for number, script in enumerate(SCRIPTS):
        try:
            play_script(script)
        except TwoAtOnce as violation:
            return f"script {number}: {violation}"
    for seed in range(runs_max):
        try:
            run_of(seed)
        except TwoAtOnce as violation:
            return f"seed {seed}: {violation}"
    return ""


@pytest.mark.parametrize(("owner", "name", "mistake"), MUTANTS, ids=[mutant[2].__name__ for mutant in MUTANTS])
def test_the_world_finds(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, mistake: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(owner, name, mistake(getattr(owner, name)))
    found = runs_until_found(500)
    print(mistake.__doc__, found)
    assert found


def test_the_machine_itself_is_never_held_twice() -> None:
    assert not runs_until_found(300)
