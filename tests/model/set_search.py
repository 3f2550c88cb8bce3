"""Goes through the states of the set model: every one within bounds, or random walks far beyond them.

A search ends with the first step that breaks a clause, and the steps that lead to it, or with the number of states.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from set_rules import NotAllowed, Reading, SetBroken, commit_limit, divergence, take
from set_state import SetState, Step, beginning

__all__ = ["Bounds", "Counterexample", "search_sets", "walk_sets"]


class Bounds(NamedTuple):
    """How often each kind of event may happen.

    ``answers``: whether asynchronous replies and leases are looked at; ``reads``: whether replicas learn committed
    offsets and show what lies below.
    """

    values: int = 1
    kills: int = 0
    cuts: int = 0
    elections: int = 1
    changes: int = 0
    answers: bool = False
    reads: bool = False


class Counterexample(NamedTuple):
    """Steps from the beginning, and the clause that the last one breaks."""

    steps: tuple[Step, ...]
    text: str

    def __str__(self) -> str:
        return "\n".join([*(f"{number:2}. {step}" for number, step in enumerate(self.steps, 1)), self.text])


def search_sets(
    reading: Reading, bounds: Bounds, *, nodes: str = "ABC", members: str = "AB", states_max: int = 200_000
) -> tuple[Counterexample | None, int]:
    """Look at every state within ``bounds``, the nearest first; return what was found, and how many there are."""
    begin = beginning(nodes, members)
    before: dict[SetState, tuple[SetState, Step] | None] = {begin: None}
    open_states = deque([begin])
    while open_states:
        state = open_states.popleft()
        for step in steps_of(state, bounds, reading):
            try:
                after = take(state, step, reading)
            except NotAllowed:
                continue
            except SetBroken as broken:
                return Counterexample((*_steps_to(before, state), step), str(broken)), len(before)
            if after not in before:
                before[after] = state, step
                open_states.append(after)
        if len(before) > states_max:
            raise AssertionError(f"more than {states_max} states within {bounds}")
    return None, len(before)


def walk_sets(
    reading: Reading, bounds: Bounds, *, seed: int, steps: int, members: str = "ABC"
) -> Counterexample | None:
    """Take random steps within ``bounds``; return what was found."""
    rng = random.Random(seed)
    state, taken = beginning("ABC", members), []
    for _ in range(steps):
        options = list(steps_of(state, bounds, reading))
        rng.shuffle(options)
        for step in options:
            try:
                state = take(state, step, reading)
            except NotAllowed:
                continue
            except SetBroken as broken:
                return Counterexample((*taken, step), str(broken))
            taken.append(step)
            break
        else:
            return None
    return None


def steps_of(state: SetState, bounds: Bounds, reading: Reading) -> Iterator[Step]:
    """Return the steps that may be possible; whether they are, ``take`` says."""
    spent = state.spent
    for name, node in state.nodes:
        if not node.is_up:
            yield Step("start", name)
            continue
        if spent.kills < bounds.kills:
            yield Step("kill", name)
        if spent.cuts < bounds.cuts:
            for keeps in range(len(node.log)):
                yield Step("power-cut", name, number=keeps)
        if spent.elections < bounds.elections:
            yield Step("elect", name, number=state.record.epoch + 1)
        yield Step("follow", name)
        if node.role == "primary":
            yield from _steps_of_primary(state, name, bounds, reading)
        elif node.role == "follower":
            yield from _steps_of_follower(state, name, bounds, reading)
    if state.write is not None:
        yield Step("apply", state.write.node)


def _steps_of_primary(state: SetState, name: str, bounds: Bounds, reading: Reading) -> Iterator[Step]:
    node = state.node(name)
    if state.spent.values < bounds.values:
        yield Step("append", name, value=f"v{state.spent.values + 1}")
    limit = commit_limit(node, reading)
    if limit > node.committed:
        yield Step("commit", name, number=limit)
    if bounds.answers:
        yield Step("answer", name)
        if node.has_lease:
            yield Step("lapse", name)
    if node.pending is not None:
        yield Step("settle", name)
        yield Step("withdraw", name)
    elif state.spent.changes < bounds.changes:
        for pair in sorted(node.members):
            yield Step("send", name, members=node.members - {pair})
        for other, _ in state.nodes:
            pair = state.pair(other)
            if pair not in node.members:
                kept = frozenset(each for each in node.members if each[0] != other)
                yield Step("send", name, members=kept | {pair})


def _steps_of_follower(state: SetState, name: str, bounds: Bounds, reading: Reading) -> Iterator[Step]:
    node = state.node(name)
    for other, primary in state.nodes:
        if primary.role != "primary" or other == name:
            continue
        yield Step("report", name, other, len(node.log))
        if bounds.reads:
            yield Step("learn", name, other, min(primary.committed, len(node.log)))
        if node.is_reconciled:
            yield Step("receive", name, other, len(node.log) + 1)
        elif node.log:
            keeps = divergence(node.log, primary.log, reading) if reading.r5_cuts_divergence_only else node.committed
            if keeps < len(node.log):
                yield Step("cut", name, other, keeps)


def _steps_to(before: dict[SetState, tuple[SetState, Step] | None], state: SetState) -> list[Step]:
    steps: list[Step] = []
    while (entry := before[state]) is not None:
        state, step = entry
        steps.append(step)
    return steps[::-1]
