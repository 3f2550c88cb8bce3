"""The lease of one set in small whole numbers, every order of events: two nodes, a coordinator, clocks that differ.

Rules R1 and R11 as ``mqcore.replication``'s lease machine has them, abstract: time is in ticks, and each node counts
with its own clock. Node 0 holds the lease and renews it, node 1 looks and promotes itself. One tick of drift between
them and one tick that the holder's machine is taken away are what the stretch and the margin are for; the search
spends them where they hurt. What is demanded: never do both hold a valid lease. ``LeaseReading`` names one loose
reading a rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["LeaseBounds", "LeaseReading", "TwoHolders", "search_leases"]

TTL, MARGIN, STRETCH, GAP = 3, 1, 1, 2
"""Ticks: the lease, how much earlier its holder stops, how much longer others wait, how far apart looks may be."""


class LeaseReading(NamedTuple):
    """How each rule is read; True is as it is written."""

    counts_from_sending: bool = True
    """Validity is counted from the sending of a renewal, not from its answer."""
    waits_from_receipt: bool = True
    """Vacancy is counted from the receipt of an answer, not from the sending of the question."""
    has_margin: bool = True
    has_stretch: bool = True
    restart_forgets: bool = True
    """A process that starts again holds nothing, though the cell names its node."""
    promotes_on_lease: bool = True
    """A promotion is conditional on the lease cell too, not on the record alone."""
    break_counts_anew: bool = True
    """After a break an observer counts anew: the coordinator may have gone back meanwhile."""
    conflict_is_not_own: bool = True
    """What a conflict shows is one's own only if it was sent by this process."""


class LeaseBounds(NamedTuple):
    """How often each kind of event may happen."""

    ticks: int = 7
    writes: int = 3
    looks: int = 2
    losses: int = 0
    restarts: int = 0
    restores: int = 0


class LeaseMessage(NamedTuple):
    """A question or a write on its way; ``age`` by the sender's clock. ``shows``: the cell when it was served, or 0."""

    node: int
    kind: str
    expects: int
    puts: int
    age: int
    shows: int = 0
    is_applied: bool = False


class LeaseNode(NamedTuple):
    """``held``: ticks since the last renewal that is known to be applied was sent; None: it holds nothing.

    ``sees``: the cell that it has seen last, ``waited`` ticks since it saw it first, ``silent`` since it asked last.
    ``sent``: own writes without an outcome, with their ages. ``base``: what its next renewal expects.
    """

    held: int | None = None
    base: int = 0
    sees: int = 0
    waited: int = 0
    silent: int = 0
    sent: tuple[tuple[int, int], ...] = ()


class LeaseState(NamedTuple):
    """``cell``: the write id in it, ``owner`` who wrote that, ``record`` the promotion that stands in the record."""

    nodes: tuple[LeaseNode, LeaseNode]
    messages: tuple[LeaseMessage, ...] = ()
    cell: int = 1
    owner: int = 0
    record: int = 1
    closed: int = 0
    next_id: int = 2
    drift: int = 0
    taken: int = 0
    spent: LeaseBounds = LeaseBounds(*[0] * len(LeaseBounds._fields))

    def with_node(self, number: int, node: LeaseNode) -> LeaseState:
        return self._replace(nodes=(node, self.nodes[1]) if number == 0 else (self.nodes[0], node))


class TwoHolders(NamedTuple):
    """The events that lead to two valid leases."""

    events: tuple[str, ...]


Event = tuple[str, LeaseState]


def search_leases(
    reading: LeaseReading, bounds: LeaseBounds, *, states_max: int = 400_000
) -> tuple[TwoHolders | None, int]:
    """Look at every state within ``bounds``, the nearest first; return what was found, and how many there are."""
    begin = LeaseState((LeaseNode(held=0, base=1, sees=1), LeaseNode()))
    before: dict[LeaseState, tuple[LeaseState, str] | None] = {begin: None}
    open_states = deque([begin])
    limit = TTL - (MARGIN if reading.has_margin else 0)
    while open_states:
        state = open_states.popleft()
        for name, after in events_of(state, bounds, reading, limit):
            if after in before:
                continue
            before[after] = state, name
            if all(node.held is not None and node.held < limit for node in after.nodes):
                return TwoHolders(_events_to(before, after)), len(before)
            open_states.append(after)
        if len(before) > states_max:
            raise AssertionError(f"more than {states_max} states within {bounds}")
    return None, len(before)


def _events_to(before: dict[LeaseState, tuple[LeaseState, str] | None], state: LeaseState) -> tuple[str, ...]:
    events: list[str] = []
    while (entry := before[state]) is not None:
        state, name = entry
        events.append(name)
    return tuple(events[::-1])


def events_of(state: LeaseState, bounds: LeaseBounds, reading: LeaseReading, limit: int) -> Iterator[Event]:
    """Return what may happen, and what follows."""
    spent, holder = state.spent, state.nodes[0]
    if holder.held is None and not holder.sent and not any(message.node == 0 for message in state.messages):
        return  # it holds nothing and cannot any more: there is only one from here on
    if spent.ticks < bounds.ticks:
        for steps, drift, taken in ((1, 1), 0, 0), ((0, 1), 1, 0), ((1, 2), 1, 0), ((0, 1), 0, 1):
            if state.drift + drift <= 1 and state.taken + taken <= 1:
                yield f"tick {steps}", _tick(state, steps, drift, taken, reading, limit)
    for number, node in enumerate(state.nodes):
        yield from _sendings(state, number, node, bounds, reading)
    if spent.restarts < bounds.restarts:
        # Its messages may still be served; their answers find nobody.
        fresh = LeaseNode()
        if not reading.restart_forgets and state.owner == 0:
            fresh = LeaseNode(held=0, base=state.cell)  # it reads its own name there, and believes it
        messages = tuple(each for each in state.messages if each.node == 1)
        after = state.with_node(0, fresh)._replace(messages=messages)
        yield "restart 0", after._replace(spent=spent._replace(restarts=spent.restarts + 1))
    for place, message in enumerate(state.messages):
        rest = state.messages[:place] + state.messages[place + 1 :]
        if message.shows == 0:
            if not state.closed:
                yield f"serve {message.kind} {message.node}", _serve(state, place, message, reading)
        else:
            after = _deliver(state._replace(messages=rest), message, reading, limit)
            yield f"deliver {message.kind} {message.node}", after
            if spent.losses < bounds.losses:
                lost = state._replace(messages=rest, spent=spent._replace(losses=spent.losses + 1))
                yield f"lose {message.kind} {message.node}", lost
    if spent.restores < bounds.restores and state.cell != 1 and state.record == 1:
        # Stopped, an old copy put back, started: nothing on the way survives, and it takes longer than a gap.
        restored = state._replace(cell=1, owner=0, messages=(), closed=GAP + 1)
        yield "restore", restored._replace(spent=spent._replace(restores=spent.restores + 1))


def _tick(
    state: LeaseState, steps: tuple[int, int], drift: int, taken: int, reading: LeaseReading, limit: int
) -> LeaseState:
    nodes = []
    for node, step in zip(state.nodes, steps, strict=True):
        held = None if node.held is None else node.held + step
        if held is not None and held >= limit:
            held = None  # for good: what is over is not renewed
        nodes.append(
            node._replace(
                held=held,
                waited=min(node.waited + step, TTL + STRETCH),
                silent=min(node.silent + step, GAP + 1),
                sent=tuple((write, min(age + step, TTL)) for write, age in node.sent),
            )
        )
    messages = tuple(each._replace(age=min(each.age + steps[each.node], TTL + STRETCH)) for each in state.messages)
    return state._replace(
        nodes=(nodes[0], nodes[1]),
        messages=messages,
        closed=max(state.closed - 1, 0),
        drift=state.drift + drift,
        taken=state.taken + taken,
        spent=state.spent._replace(ticks=state.spent.ticks + 1),
    )


def _sendings(
    state: LeaseState, number: int, node: LeaseNode, bounds: LeaseBounds, reading: LeaseReading
) -> Iterator[Event]:
    spent = state.spent
    if any(message.node == number for message in state.messages):
        return  # one question at a time
    if number == 1 and node.held is None and spent.looks < bounds.looks:
        look = LeaseMessage(number, "look", 0, 0, 0)
        after = state._replace(messages=(*state.messages, look), spent=spent._replace(looks=spent.looks + 1))
        yield f"look {number}", after
    if spent.writes >= bounds.writes:
        return
    wait = TTL + (STRETCH if reading.has_stretch else 0)
    is_fresh = node.silent <= GAP or not reading.break_counts_anew
    if number == 0 and node.held is not None:
        kind, expects = "renew", node.base
    elif number == 1 and node.held is None and node.sees and node.waited >= wait and is_fresh:
        kind, expects = "promote", node.sees
    else:
        return
    write = LeaseMessage(number, kind, expects, state.next_id, 0)
    sender = node._replace(sent=(*node.sent, (state.next_id, 0)))
    after = state.with_node(number, sender)._replace(
        messages=(*state.messages, write),
        next_id=state.next_id + 1,
        spent=spent._replace(writes=spent.writes + 1),
    )
    yield f"{kind} {number}", after


def _serve(state: LeaseState, place: int, message: LeaseMessage, reading: LeaseReading) -> LeaseState:
    if message.kind != "look":
        applies = state.cell == message.expects
        if message.kind == "promote" and not reading.promotes_on_lease:
            applies = state.record == 1  # nobody else was promoted, whatever became of the lease meanwhile
        if applies:
            record = message.puts if message.kind == "promote" else state.record
            state = state._replace(cell=message.puts, owner=message.node, record=record)
            message = message._replace(is_applied=True)
    served = message._replace(shows=state.cell)
    return state._replace(messages=(*state.messages[:place], served, *state.messages[place + 1 :]))


def _deliver(state: LeaseState, message: LeaseMessage, reading: LeaseReading, limit: int) -> LeaseState:
    node = state.nodes[message.node]
    if message.kind == "look":
        broke = node.silent > GAP and reading.break_counts_anew
        if node.sees != message.shows or broke:
            node = node._replace(sees=message.shows, waited=0 if reading.waits_from_receipt else message.age)
        node = node._replace(silent=message.age)
    shown = dict(node.sent).get(message.shows)
    if message.is_applied or shown is not None:
        age = message.age if message.is_applied else shown
        write = message.puts if message.is_applied else message.shows
        node = _renewed(node, write, age or 0, message.kind == "promote" and message.is_applied, reading, limit)
    elif message.kind == "renew" and not reading.conflict_is_not_own:
        node = node._replace(held=0, base=message.shows)
    elif node.held is not None and message.shows != node.base:
        node = node._replace(held=None)  # another's, or an old one that came back: over, whatever the ticks say
    return state.with_node(message.node, node)


def _renewed(node: LeaseNode, write: int, age: int, is_promotion: bool, reading: LeaseReading, limit: int) -> LeaseNode:
    """The node knows that its ``write``, sent ``age`` ticks ago, was applied."""
    sent = tuple(each for each in node.sent if each[0] > write)
    held: int | None = age if reading.counts_from_sending else 0
    if (node.held is None and not is_promotion) or (held is not None and held >= limit):
        held = None
    return node._replace(held=held, base=write, sees=write, waited=0, sent=sent)
