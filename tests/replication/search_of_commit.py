"""Every interleaving of a small set of events, played on the commit rule and the model.

Events of one chain keep their order, those of different chains come in any. Interleavings that lead to the same state
of rule and model are gone on with once, which is what makes millions of them affordable; nothing else is left out.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from model_of_commit import Play, Violation

from mqcore.errors import RemoteProtocolError
from mqcore.guarantees import Level
from mqcore.replication import CommitPolicy

Event = Callable[[Play], None]


class Searched(NamedTuple):
    """What a search went through."""

    events: int
    interleavings: int
    states: int
    steps: int


def append(number: int) -> Event:
    return lambda play: play.step("append", 2, 20, 0, 1)


def flush(number: int) -> Event:
    """A flush that began when ``number`` batches were in the log."""
    return lambda play: play.step("flush", max(len(play.model.batches) - number, 0), Level.DISK)


def held(node: int, number: int) -> Event:
    """A replica that says it holds ``number`` batches: believed if there are so many."""

    def report(play: Play) -> None:
        model = play.model
        if number <= len(model.batches):
            play.step("held", node, len(model.batches) - number, Level.DISK)
        elif not model.is_stopped:
            try:
                play.rule.held(play._member(node), 2 * number, 20 * number, Level.DISK, model.now_us)
            except RemoteProtocolError:
                return
            raise Violation(f"R4: a report of {number} batches is believed, of {len(model.batches)}")

    return report


CHAINS: tuple[tuple[Event, ...], ...] = (
    (append(1), append(2)),
    (flush(1), flush(2)),
    (held(0, 1), held(0, 2)),
    (held(1, 1), held(1, 2)),
    (lambda play: play.step("set", 3, 1), lambda play: play.step("set", 1, 9)),  # C leaves: asked for, then answered
)
"""Three nodes, two batches; C leaves the set."""


def time_passes(play: Play) -> None:
    """Longer than any interval or delay of the policies."""
    play.step("wait", 11)


def retry_comes(play: Play) -> None:
    """A retry of the first batch, if there is one."""
    play.step("duplicate", 0, 0)


def search(policy: CommitPolicy, *others: Event) -> Searched:
    """Play every interleaving of ``CHAINS`` and ``others``; raise ``Violation`` at the first that is wrong."""
    chains = (*CHAINS, *((event,) for event in others))
    play = Play.begin(policy)
    play.step("set", 3, 9)
    # A state is how far each chain is and the pickle of both; how many interleavings lead to it.
    states: Counter[tuple[tuple[int, ...], bytes]] = Counter({((0,) * len(chains), pickle.dumps(play)): 1})
    events, visited, steps = sum(map(len, chains)), 0, 0
    for _ in range(events):
        visited += len(states)
        following: Counter[tuple[tuple[int, ...], bytes]] = Counter()
        for (done, before), interleavings in states.items():
            for chain, progress in enumerate(done):
                if progress < len(chains[chain]):
                    after = pickle.loads(before)
                    chains[chain][progress](after)
                    steps += 1
                    reached = (*done[:chain], progress + 1, *done[chain + 1 :])
                    following[reached, pickle.dumps(after)] += interleavings
        states = following
    for _, ended in states:
        pickle.loads(ended).finish()
    return Searched(events, states.total(), visited, steps)
