"""Assignors: every partition has a member, shares are equal, and sticky moves as few as that takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore_assignors import RangeAssignor, RoundRobinAssignor, StickyAssignor

ALL = [RangeAssignor, RoundRobinAssignor, StickyAssignor]

groups = st.integers(1, 12).flatmap(
    lambda members: st.tuples(
        st.just([f"m{number:02}" for number in range(members)]),
        st.lists(st.integers(0, 100), max_size=40, unique=True).map(sorted),
    )
)


@pytest.mark.parametrize("assignor", ALL)
@given(groups, st.data())
def test_every_partition_has_a_member_and_shares_differ_by_one_at_most(assignor, group, data):
    members, partitions = group
    owners = data.draw(st.dictionaries(st.sampled_from(partitions or [0]), st.sampled_from(members)))
    assigned = assignor().assign(members, partitions, owners)
    assert assigned.keys() == set(partitions)
    shares = [sum(owner == member for owner in assigned.values()) for member in members]
    assert max(shares) - min(shares) <= 1
    assert dict(assigned) == dict(assignor().assign(members, partitions, owners))


@given(groups, st.data())
def test_sticky_moves_only_what_equal_shares_make_it_move(group, data):
    members, partitions = group
    owners = data.draw(st.dictionaries(st.sampled_from(partitions or [0]), st.sampled_from(members)))
    owners = {number: owner for number, owner in owners.items() if number in partitions}
    assigned = StickyAssignor().assign(members, partitions, owners)
    moved = sum(assigned[number] != owner for number, owner in owners.items())
    share, more = divmod(len(partitions), len(members))
    held = sorted((sum(owner == member for owner in owners.values()) for member in members), reverse=True)
    quotas = [share + (number < more) for number in range(len(members))]
    assert moved == sum(max(0, has - quota) for has, quota in zip(held, quotas, strict=True))


def test_range_gives_neighbours_and_round_robin_turns():
    assert RangeAssignor().assign(["a", "b"], [0, 1, 2, 3, 4], {}) == {0: "a", 1: "a", 2: "a", 3: "b", 4: "b"}
    assert RoundRobinAssignor().assign(["a", "b"], [0, 1, 2], {}) == {0: "a", 1: "b", 2: "a"}
