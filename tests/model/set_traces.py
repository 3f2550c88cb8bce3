"""Holds what a real set does against the model: each event is a step that the model has to allow.

A simulation makes one ``SetTrace`` per log that it watches, and calls ``take`` for every event, when it happens, under
the letter that it gives each node. The words, and what stands for what:

- ``append`` (value, messages): a primary appended a batch; the epoch batch of its reign is the model's own
- ``report`` (other: the primary; number: batches held): a position report counted; ``cut``: a replica cut its log
- ``receive``: a replica appended what the primary has; ``learn``: it took over a committed offset
- ``commit``: a primary's committed offset moved; ``answer``: it acknowledged without waiting for a replica
- ``send`` (members): a change was sent; ``apply``: the coordinator did it; ``settle``: the primary knows that;
  ``withdraw``: it knows that it was not, and cannot be
- ``elect`` (number: the epoch), ``leave`` (a primary that runs on), ``follow``, ``kill``, ``start``,
  ``power-cut`` (number: batches kept)

That a lease is over shows in nothing, so it is taken to be when another node is promoted: an ``answer`` after that is
what G09 forbids.
"""

from __future__ import annotations

from set_rules import NotAllowed, Reading, SetBroken, take
from set_state import Members, SetState, Step, beginning

__all__ = ["SetTrace", "TraceRefused"]

STEPS_SHOWN = 12


class TraceRefused(AssertionError):
    """A set did what the model does not allow; the message begins with the rule or clause."""


class SetTrace:
    """One log of one set. ``nodes``: a letter each, the first one reigns in epoch 1; ``members``: in sync then.

    ``begin``: another state to begin with. ``has_leases``: whether promotions wait for one (not where people promote).
    """

    def __init__(
        self, nodes: str, members: str, *, copies: int = 2, begin: SetState | None = None, has_leases: bool = True
    ) -> None:
        self.state = beginning(nodes, members) if begin is None else begin
        self.steps: list[Step] = []
        self.refusal: TraceRefused | None = None
        """The first one; what comes after it means nothing, and raises it again."""
        self._reading = Reading(copies=copies, r11_lease=has_leases)
        self._messages: dict[str, int] = {}

    def take(
        self,
        word: str,
        node: str,
        other: str = "",
        number: int = 0,
        *,
        members: Members = frozenset(),
        value: str = "",
        messages: int = 1,
    ) -> None:
        """Take in an event. Raises ``TraceRefused`` with the last steps.

        Look at ``refusal`` in the end: a server may have taken the error for one of a request.
        """
        if self.refusal is not None:
            raise self.refusal
        if word == "append":
            self._messages[value] = messages
        if word == "elect":
            for each, facts in self.state.nodes:
                if facts.has_lease:
                    self._do(Step("lapse", each))
        self._do(Step(word, node, other, number, members, value))

    def batches_below(self, node: str, offset: int) -> int:
        """How many batches of a node's log, up to its last message, lie below ``offset``."""
        messages = batches = 0
        for place, (_, value) in enumerate(self.state.node(node).log, 1):
            messages += self._messages[value] if value else 0
            if messages > offset:
                break
            if value:
                batches = place
        return batches

    def _do(self, step: Step) -> None:
        self.steps.append(step)
        try:
            self.state = take(self.state, step, self._reading)
        except (NotAllowed, SetBroken) as error:
            shown = "\n".join(map(str, self.steps[-STEPS_SHOWN:]))
            text = f"{error}\nafter {len(self.steps)} steps, the last of them:\n{shown}"
            self.refusal = TraceRefused(text)
            raise self.refusal from None
