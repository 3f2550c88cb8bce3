"""Who may reign next where a coordinator decides (rules R2, R9, R14; guarantees, section 5). Pure.

Judged from the record and from what the nodes of the set say about themselves. The judgement says who may try; the
conditional write of the record, with a vacant lease, says who does. Must not know of leases, streams or people.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import attrs

from mqcore.errors import RefusedError
from mqcore.log import METADATA_NAME
from mqcore.replication._members import Member
from mqcore.replication._record import SetRecord

__all__ = ["Candidacy", "LogTip", "NodeState", "check_arbiter", "judge_candidacy", "logs_to_fetch"]


class LogTip(NamedTuple):
    """How far a node's valid copy of a log goes: the epoch of its last batch, and the position of its end.

    Of two copies the greater tip is the more advanced one: what a newer reign wrote stands on what it had.
    """

    epoch: int
    end: int


_EMPTY = LogTip(0, 0)


@attrs.frozen(kw_only=True)
class NodeState:
    """What a node says about itself while nobody reigns.

    ``seen_epoch``: the highest that its identity or a log of it has seen. ``tips``: of its logs by name, the metadata
    log among them; what is not named is empty. ``record``: the newest record in its metadata log, where there is no
    coordinator. ``reigns``: whether it reigns now. ``has_failed``: whether it could not hold its last reign.
    """

    member: Member
    seen_epoch: int
    tips: Mapping[str, LogTip] = attrs.field(factory=dict, hash=False)
    record: SetRecord | None = None
    reigns: bool = False
    has_failed: bool = False

    @property
    def metadata(self) -> LogTip:
        """Tip of its metadata log, which each reign opens at once: its epoch says which reign the node has followed."""
        return self.tip_of(METADATA_NAME)

    def tip_of(self, log_name: str) -> LogTip:
        """Return the tip of a log, zeros where it is empty."""
        return self.tips.get(log_name, _EMPTY)

    def lacks_of(self, other: NodeState) -> list[str]:
        """Return the names of the logs of which ``other`` has more."""
        return [name for name, tip in other.tips.items() if tip > self.tip_of(name)]


@attrs.frozen(kw_only=True)
class Candidacy:
    """Whether a node may reign, and what it does before.

    ``rank``: 0: try at once; n: try when the n before it had time to; None: do not. ``reason``: why, in words.
    ``fetch``: logs of which another node has more, by name, and that node. What is fetched of them has to be flushed
    *before* the record is written: after it this node alone may be electable. ``unclean``: the record takes a node that
    is no member.
    """

    rank: int | None
    reason: str
    fetch: Mapping[str, bytes] = attrs.field(factory=dict, hash=False)
    unclean: bool = False


def check_arbiter(nodes: int, *, has_coordinator: bool) -> None:
    """Refuse automatic failover that cannot be safe. Raises ``RefusedError`` with the reason."""
    if nodes < 2:
        raise RefusedError("automatic failover needs a second node; this set has one")
    if not has_coordinator:
        two = (
            "with two nodes each would take the other for dead when only the link is"
            if nodes == 2
            else ("nodes that cannot reach each other would each elect one of their own")
        )
        raise RefusedError(
            f"automatic failover without a coordinator is refused: {two}, and both would acknowledge. Name a "
            "coordinator, or promote by hand with `mqcore cluster promote`"
        )


def judge_candidacy(record: SetRecord | None, own: NodeState, others: Collection[NodeState]) -> Candidacy:
    """Judge whether ``own`` may reign, given what ``others`` answered.

    Read ``record`` after the last answer came: one that is older than an epoch that a node has seen counts as gone
    back.
    """
    states = [own, *others]
    if record is None:
        return _none("R14: there is no record of the set; `mqcore cluster init` makes it, `recover` makes it again")
    for state in states:
        if state.seen_epoch > record.epoch:
            return _none(
                f"R14: the record says epoch {record.epoch}, and {record.name_of(state.member.node_id)} has seen "
                f"{state.seen_epoch}: the coordinator's record went back; `mqcore cluster recover` makes a newer one"
            )
    electable = [state for state in states if state.member in record.members]
    if own in electable:
        return _ranked(record, own, electable, "a member of the in-sync set")
    name, known = record.name_of(own.member.node_id), record.member_of(own.member.node_id)
    why = (
        f"R2: {name} is not in the in-sync set"
        if known is None
        else f"R2: {name} was in sync under incarnation {known.incarnation} and now has {own.member.incarnation}"
    )
    if electable:
        names = record.names_of(state.member for state in electable)
        return _none(f"{why}; {names} may reign")
    answered = {state.member.node_id for state in states}
    missing = [member for member in record.members if member.node_id not in answered]
    if missing:
        # One of them may hold what was acknowledged and have lost nothing: then it alone may reign.
        return _none(
            f"{why}; waiting for {record.names_of(missing)}, which may hold what nobody else does. If it never "
            "returns: `mqcore cluster promote --unclean`"
        )
    # Every member has lost something, so all of what is left is on these nodes: the most advanced copy of each log.
    ranked = _ranked(record, own, states, "no member kept its incarnation, and all have answered")
    return attrs.evolve(ranked, unclean=True)


def logs_to_fetch(own: NodeState, others: Collection[NodeState]) -> dict[str, bytes]:
    """Return the logs of which another node has more than ``own``, by name, and the node that has the most."""
    return {name: node_id for name, (tip, node_id) in _best(others).items() if tip > own.tip_of(name)}


def _best(states: Collection[NodeState]) -> dict[str, tuple[LogTip, bytes]]:
    """Return the most advanced tip of every log, and a node that has it."""
    best: dict[str, tuple[LogTip, bytes]] = {}
    for state in states:
        for name, tip in state.tips.items():
            best[name] = max(best.get(name, (_EMPTY, b"")), (tip, state.member.node_id))
    return best


def _ranked(record: SetRecord, own: NodeState, candidates: list[NodeState], why: str) -> Candidacy:
    """Order the candidates by what they lack (R9), the same on every node that has the same answers.

    One whose last reign failed comes behind all others: what it has more of they fetch.
    """
    best = _best(candidates)

    def lack(state: NodeState) -> tuple[bool, int, int, int, bytes]:
        mine = [(tip, state.tip_of(name)) for name, (tip, _) in best.items()]
        older = sum(tip.epoch > own_tip.epoch for tip, own_tip in mine)
        missing = sum(max(tip.end - own_tip.end, 0) for tip, own_tip in mine)
        return state.has_failed, -state.metadata.epoch, older, missing, state.member.node_id

    order = sorted(candidates, key=lack)
    rank = order.index(own)
    fetch = logs_to_fetch(own, candidates)
    if rank:
        before = record.names_of(state.member for state in order[:rank])
        why += f"; {before} {'lacks' if rank == 1 else 'lack'} less, or as little"
    elif fetch:
        why += f"; others have more of {len(fetch)} logs"
    return Candidacy(rank=rank, reason=why, fetch=fetch)


def _none(reason: str) -> Candidacy:
    return Candidacy(rank=None, reason=reason)
