"""The commit rule against a model written from guarantees.md: random sequences, every interleaving of small ones."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_of_commit import POLICIES, STEPS, Play, random_steps
from search_of_commit import Event, retry_comes, search, time_passes

from mqcore.replication import CommitPolicy

SEQUENCES = st.lists(
    st.one_of(
        *(
            st.tuples(
                st.just(word),
                st.tuples(
                    *(
                        st.integers(1, each) if word == "append" and index < 2 else st.integers(0, each - 1)
                        for index, each in enumerate(ranges)
                    )
                ),
            )
            for word, ranges in STEPS
        )
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=400)
@given(
    number=st.integers(0, len(POLICIES) - 1),
    total=st.none() | st.integers(20, 100),
    began=st.booleans(),
    steps=SEQUENCES,
    stops=st.booleans(),
)
def test_g03_g08_g14_every_reply_and_every_commit_is_justified_and_none_is_lost(
    number: int, total: int | None, began: bool, steps: list[tuple[str, tuple[int, ...]]], stops: bool
) -> None:
    batches = [(2, 30), (3, 40)] if began else []
    play = Play.begin(POLICIES[number], total_bytes_max=total, batches=batches)
    for word, numbers in steps:
        play.step(word, *numbers)
    if stops:
        play.step("stop")
        play.step("append", 1, 1, 0, 1)
    play.finish()


@pytest.mark.parametrize("seed", range(8))
def test_long_runs_of_one_policy_agree_with_the_model(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(len(POLICIES)):
        play = Play.begin(POLICIES[number], total_bytes_max=rng.choice([None, 60]))
        play.step("set", 3, 9)
        for word, numbers in random_steps(rng, 60):
            if word != "policy":
                play.step(word, *numbers)
        play.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "event"),
    [(POLICIES[4], retry_comes), (POLICIES[20], time_passes)],
    ids=["sync-disk", "async-throttle"],
)
def test_every_interleaving_of_two_batches_on_three_nodes_agrees_with_the_model(
    policy: CommitPolicy, event: Event
) -> None:
    searched = search(policy, event)
    print(policy, searched)
    assert (searched.events, searched.interleavings) == (11, 1_247_400)
    assert searched.states < 30_000, "states are told apart by something that does not matter"
