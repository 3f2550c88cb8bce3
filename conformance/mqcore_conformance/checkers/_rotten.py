"""Which copies of what was acknowledged have rotted, and whether the others have to be enough. Judges nothing."""

from __future__ import annotations

from mqcore_conformance.checkers._facts import Attempt, Facts, SendFacts


def rotten_on(facts: Facts, send: SendFacts, attempt: Attempt) -> frozenset[str]:
    """The nodes in whose copies of an acknowledged send bits rotted."""
    assert attempt.completed is not None
    partition, first = send.invoked.partition, attempt.completed.offset
    until = first + len(send.invoked.messages)
    return frozenset(
        fault.node
        for _, fault in facts.injected
        if fault.kind == "rot" and fault.partition == partition
        if first < fault.next_offset and fault.first_offset < until
    )


def whole_elsewhere(facts: Facts, send: SendFacts, attempt: Attempt) -> bool:
    """Whether what was acknowledged has to be in the final drain by those of its copies in which no bits rotted."""
    assert attempt.completed is not None
    rotten = rotten_on(facts, send, attempt)
    whole = tuple((level, by) for level, by in attempt.copies if by.node not in rotten)
    return facts.must_survive(whole, send.invoked.partition, facts.reign_of(attempt.completed))
