"""The oracle (guarantees, section 2): what must survive a list of faults, as a pure function of receipts.

The conformance suite judges by it and ``explain`` is computed from it, so that the two cannot be different opinions.
Must not know how a broker reaches what a receipt states.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import attrs

from mqcore.guarantees.faults import Fault, survives
from mqcore.guarantees.levels import Level
from mqcore.guarantees.policies import NoReplication, ReplicationPolicy, SyncReplication

__all__ = ["HeldCopy", "FaultEvent", "SendOutcome", "Promotion", "SentReceipt", "Sent", "may_survive", "must_survive"]


class SendOutcome(enum.Enum):
    """SendOutcome of a send, one of three (guarantees, section 1); a one-way send has none and counts as unknown."""

    ACKNOWLEDGED = "acknowledged"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


@attrs.frozen(kw_only=True)
class HeldCopy:
    """One node's copy as a receipt states it.

    ``reported`` is the lowest level at which that node reports anything as held, in any log: what a fault takes from it
    there costs the node its incarnation. It is never above ``level``.
    """

    node: str
    level: Level
    reported: Level = attrs.field(default=attrs.Factory(lambda self: self.level, takes_self=True))

    def __attrs_post_init__(self) -> None:
        if self.reported > self.level:
            raise ValueError(f"node {self.node!r} reports at {self.reported.label} a copy at {self.level.label}")


@attrs.frozen(kw_only=True)
class SentReceipt:
    """What an acknowledgement states: the copies it counts, the primary's first, and the replication policy it met."""

    copies: tuple[HeldCopy, ...] = attrs.field(validator=attrs.validators.min_len(1))
    replication: ReplicationPolicy = attrs.field(factory=NoReplication)


@attrs.frozen(kw_only=True)
class Sent:
    """One batch that was sent: its outcome, its receipt if acknowledged, and whether retention has passed it."""

    outcome: SendOutcome
    receipt: SentReceipt | None = None
    below_log_start: bool = False

    def __attrs_post_init__(self) -> None:
        if (self.outcome is SendOutcome.ACKNOWLEDGED) != (self.receipt is not None):
            raise ValueError("a batch has a receipt exactly when it is acknowledged")


@attrs.frozen
class FaultEvent:
    """A fault that befell ``node``; a power cut of a set is one event for every node of it."""

    fault: Fault
    node: str


@attrs.frozen
class Promotion:
    """``node`` became primary: automatic, by hand or unclean. Counted as the loss of the old primary."""

    node: str


def must_survive(sent: Sent, faults: Iterable[FaultEvent | Promotion]) -> bool:
    """Whether the final drain has to hold ``sent`` after ``faults`` (clause G01).

    Acknowledged, not below its log's start, and a node of its receipt keeps the copy and is not barred.
    """
    if sent.receipt is None or sent.below_log_start:
        return False
    events = tuple(faults)
    return any(
        _copy_survives(copy, events) and not _bars(copy, events, sent.receipt.replication)
        for copy in sent.receipt.copies
    )


def may_survive(sent: Sent) -> bool:
    """Whether ``sent`` may be in the final drain at all: attempted and not rejected (clauses G04, G07)."""
    return sent.outcome is not SendOutcome.REJECTED


def _copy_survives(copy: HeldCopy, events: tuple[FaultEvent | Promotion, ...]) -> bool:
    """Whether ``copy`` is still there; at level none it is nowhere to begin with."""
    if copy.level is Level.NONE:
        return False
    return all(survives(copy.level, event.fault) for event in _befell(copy.node, events))


def _bars(copy: HeldCopy, events: tuple[FaultEvent | Promotion, ...], replication: ReplicationPolicy) -> bool:
    """Whether the faults keep ``copy``'s node from bringing the batch back, by the policy that its receipt states."""
    if not isinstance(replication, SyncReplication):
        # Whatever was awaited: what another node's reign does not have is cut when its node comes back.
        promoted = any(isinstance(event, Promotion) and event.node != copy.node for event in events)
        return promoted or any(event.fault is Fault.HOST_LOSS for event in _befell(copy.node, events))
    return any(not survives(copy.reported, event.fault) for event in _befell(copy.node, events))


def _befell(node: str, events: tuple[FaultEvent | Promotion, ...]) -> list[FaultEvent]:
    return [event for event in events if isinstance(event, FaultEvent) and event.node == node]
