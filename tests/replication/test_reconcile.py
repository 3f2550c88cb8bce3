"""R4 and R5: two copies of one log find exactly where they part, whatever reigns wrote them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.log import EpochEntry
from mqcore.replication import Counts, Held, PartsAt, cut_of_divergence, judge_report

BATCH = 10


class Copy:
    """A log as the list of the reigns (number, id) that wrote its batches, each of ``BATCH`` bytes."""

    def __init__(self, batches: list[tuple[int, bytes]]) -> None:
        self.batches = batches

    @property
    def end(self) -> int:
        return BATCH * len(self.batches)

    @property
    def history(self) -> list[EpochEntry]:
        found: list[EpochEntry] = []
        for at, (number, reign_id) in enumerate(self.batches):
            if not found or found[-1].number != number:
                found.append(EpochEntry(number, reign_id, at * BATCH, at))
        return found

    @property
    def held(self) -> Held:
        return Held(*self.batches[-1], self.end - BATCH, self.end) if self.batches else Held(0, bytes(16), 0, 0)


def reign(number: int, of: int = 0) -> tuple[int, bytes]:
    return number, bytes([of + 1]) * 16


@st.composite
def copies(draw: st.DrawFn) -> tuple[Copy, Copy, int]:
    """Two copies that share a prefix and part for good after it, as reigns make them: each on one log before it."""
    numbers = draw(st.lists(st.integers(1, 3), max_size=4))
    shared: list[tuple[int, bytes]] = []
    number = 0
    for more in numbers:
        number += more
        shared += [reign(number)] * draw(st.integers(1, 3))
    tails: list[list[tuple[int, bytes]]] = []
    for of in (1, 2):
        tail: list[tuple[int, bytes]] = []
        at = number
        for _ in range(draw(st.integers(0, 3))):
            at += draw(st.integers(1, 3))
            tail += [reign(at, of)] * draw(st.integers(1, 3))
        tails.append(tail)
    # The last shared reign may have written on for one of them: a reign has one writer, its copies are prefixes.
    if shared:
        tails[draw(st.integers(0, 1))][:0] = [shared[-1]] * draw(st.integers(0, 3))
    return Copy(shared + tails[0]), Copy(shared + tails[1]), len(shared)


def walk(primary: Copy, replica: Copy) -> int:
    """Reconcile as the two nodes do; the number of cuts."""
    for cuts in range(len(replica.batches) + 2):
        judgement = judge_report(primary.history, 0, primary.end, replica.held)
        if isinstance(judgement, Counts):
            assert judgement.end == replica.end
            return cuts
        cut = cut_of_divergence(replica.history, replica.end, judgement)
        assert cut < replica.end
        assert cut % BATCH == 0
        replica.batches = replica.batches[: cut // BATCH]
    raise AssertionError("the walk does not end")


@given(copies())
def test_r5_the_walk_ends_where_the_histories_part_and_cuts_nothing_that_both_have(
    drawn: tuple[Copy, Copy, int],
) -> None:
    primary, replica, _ = drawn
    common = 0
    for mine, theirs in zip(primary.batches, replica.batches, strict=False):
        if mine != theirs:
            break
        common += 1
    walk(primary, replica)
    assert replica.batches == primary.batches[:common]


def test_r4_a_longer_copy_of_the_same_reign_is_cut_at_the_primarys_end() -> None:
    assert judge_report(Copy([reign(1)] * 2).history, 0, 20, Copy([reign(1)] * 3).held) == PartsAt(1, 20)


def test_r4_two_reigns_of_one_number_are_told_apart_by_their_ids() -> None:
    primary, replica = Copy([reign(1), reign(2, 1)]), Copy([reign(1), reign(2, 2)])
    assert walk(primary, replica) == 1
    assert replica.batches == [reign(1)]


def test_r4_a_reign_whose_id_is_not_known_proves_nothing() -> None:
    unknown = (2, bytes(16))
    assert judge_report(Copy([reign(1), unknown]).history, 0, 20, Held(*unknown, 10, 20)) == PartsAt(1, 10)


def test_r15_an_empty_copy_of_a_trimmed_log_is_told_where_that_begins() -> None:
    assert judge_report([EpochEntry(1, b"\1" * 16, 10, 1)], 10, 30, Held(0, bytes(16), 0, 0)) == PartsAt(0, 10)


def test_r5_an_answer_that_cuts_nothing_is_a_contradiction_and_not_a_loop() -> None:
    copy = Copy([reign(1)] * 2)
    with pytest.raises(ValueError, match="agrees"):
        cut_of_divergence(copy.history, copy.end, PartsAt(1, 40))
