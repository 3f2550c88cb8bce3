"""What the real machines do is allowed by the model, step by step; a machine that reads a rule loosely is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from set_of_machines import MachineSet
from set_traces import SetTrace, TraceRefused

from mqcore import replication
from mqcore.replication import Counts, InSyncSet, Membership, SetRecord
from mqcore.replication._progress import CountedLog

RUNS_MAX = 3_000
EVENTS = 300

Loose = tuple[object, str, Callable[[Any], Any], str]
"""What owns a name, the name, what makes the loose one from the right one, and the rules one of which is named."""


def believes_any_history(judge: Any) -> Any:
    """A report counts though its last batch is not in the primary's history."""
    return lambda history, start, end, held: Counts(held.end) if held.end <= end else judge(history, start, end, held)


def cuts_a_batch_more(cut: Any) -> Any:
    """A replica cuts what both have."""
    return lambda history, end, parts: max(cut(history, end, parts) - 10, 0)


def elects_by_name(judge: Any) -> Any:
    """A node is taken for the member that it was, whatever it has lost since."""

    def judged(record: Any, own: Any, others: Any) -> Any:
        known = record.member_of(own.member.node_id)
        return judge(record, own if known is None else attrs.evolve(own, member=known), others)

    return judged


def promotes_anybody(promoted: Any) -> Any:
    """The record takes any node as primary."""
    return lambda it, by, *, epoch, reign_id: promoted(it, by, epoch=epoch, reign_id=reign_id, unclean=True)


def joins_too_early(_: Any) -> Any:
    """A node joins with half of what the set has."""
    return property(lambda it: it.committed_offset // 2)


def new_members_do_not_count(_: Any) -> Any:
    """The set that was asked for is not waited for."""
    return property(lambda it: None)


def leaves_when_asked(change: Any) -> Any:
    """A member stops counting when its removal is asked for."""
    return lambda it, members, pending: change(it, members if pending is None else pending, None)


def takes_a_change_for_done(change_sent: Any) -> Any:
    """A change is taken for applied when it is sent."""

    def sent(it: Any, record: Any) -> None:
        change_sent(it, record)
        it.record, it._sent = record, None

    return sent


def there_is_no_floor(_: Any) -> Any:
    """The set shrinks below its copies."""
    return property(lambda it: 1)


LOOSE: tuple[tuple[Loose, ...], ...] = (
    ((replication, "judge_report", believes_any_history, "R4"),),
    ((replication, "cut_of_divergence", cuts_a_batch_more, "R5"),),
    (
        (replication, "judge_candidacy", elects_by_name, "R2"),
        (SetRecord, "promoted", promotes_anybody, "R2"),
    ),
    ((CountedLog, "target", joins_too_early, "R6"),),
    ((Membership, "pending", new_members_do_not_count, "R7"),),
    ((InSyncSet, "change", leaves_when_asked, "R7"),),
    ((Membership, "change_sent", takes_a_change_for_done, "R7"),),
    ((SetRecord, "floor", there_is_no_floor, "R8"),),
)


def first_refusal() -> tuple[int, str] | None:
    for seed in range(RUNS_MAX):
        try:
            MachineSet(seed).run(EVENTS)
        except TraceRefused as refused:
            return seed, str(refused)
    return None


@pytest.mark.slow
def test_what_the_machines_of_a_set_do_is_allowed_by_the_model() -> None:
    words: Counter[str] = Counter()
    for seed in range(300):
        machines = MachineSet(seed)
        machines.run(EVENTS)
        words.update(step.word for step in machines.trace.steps)
    assert min(words[word] for word in ("commit", "settle", "cut", "learn", "elect", "power-cut")) > 100, words


@pytest.mark.parametrize("loose", LOOSE, ids=["-".join(each[2].__name__ for each in group) for group in LOOSE])
def test_a_machine_that_reads_a_rule_loosely_is_refused_by_its_rule(
    monkeypatch: pytest.MonkeyPatch, loose: tuple[Loose, ...]
) -> None:
    for owner, name, mistaken, _ in loose:
        monkeypatch.setattr(owner, name, mistaken(getattr(owner, name)))
    refusal = first_refusal()
    print(loose[0][2].__doc__, refusal)
    assert refusal is not None
    assert refusal[1].startswith(loose[0][3])


def test_g09_a_reply_after_the_promotion_of_another_is_refused() -> None:
    trace = SetTrace("AB", "AB")
    trace.take("append", "A", value="one")
    trace.take("answer", "A")
    trace.take("elect", "B", number=2)
    with pytest.raises(TraceRefused, match="R11: the lease of A is over"):
        trace.take("answer", "A")


def test_a_commit_is_counted_in_batches_up_to_a_message() -> None:
    trace = SetTrace("AB", "AB")
    trace.take("append", "A", value="one", messages=3)
    trace.take("append", "A", value="two", messages=2)
    assert [trace.batches_below("A", offset) for offset in (0, 2, 3, 4, 5)] == [0, 0, 2, 2, 3]


def test_a_refusal_says_the_rule_and_the_steps_that_led_to_it() -> None:
    trace = SetTrace("AB", "AB")
    trace.take("append", "A", value="one")
    with pytest.raises(TraceRefused, match=r"(?s)R7: 2 batches are not held.*append A one.*commit A 2"):
        trace.take("commit", "A", number=2)
