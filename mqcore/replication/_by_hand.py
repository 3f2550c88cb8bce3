"""Promotion by an operator (rules R14, R16): what is refused, what has to be confirmed, what it may lose. Pure.

Must not know how the nodes are asked, nor how an order reaches them.
"""

from __future__ import annotations

from collections.abc import Collection

import attrs

from mqcore.errors import CommandNotPossibleError
from mqcore.replication._candidates import NodeState
from mqcore.replication._record import SetRecord

__all__ = ["ManualPromotion", "judge_promotion", "newest_record", "reason_to_wait"]


@attrs.frozen(kw_only=True)
class ManualPromotion:
    """What follows from an operator's order to promote a node.

    ``stop``: nodes that reign and answered. They are to be ordered to stop, and all nodes asked again; while there are
    any the rest is not to be done. ``record``, ``epoch``: promote the node in this record, to this epoch. ``unclean``:
    the record takes a node that is no member. ``losses``: what may be lost, one sentence each, to be shown.
    """

    stop: tuple[bytes, ...]
    record: SetRecord
    epoch: int
    unclean: bool
    losses: tuple[str, ...]


def newest_record(states: Collection[NodeState]) -> SetRecord | None:
    """Return the record of the node whose metadata log is the most advanced of those that have one."""
    known = [state for state in states if state.record is not None]
    return max(known, key=lambda state: (state.metadata, state.member)).record if known else None


def judge_promotion(
    record: SetRecord | None,
    node_id: bytes,
    states: Collection[NodeState],
    *,
    old_primary_is_stopped: bool = False,
    unclean: bool = False,
) -> ManualPromotion:
    """Judge the order to promote ``node_id``, given the states of every configured node that answered.

    ``record``: the coordinator's, or the newest that the nodes have. ``old_primary_is_stopped``: the operator has made
    sure. ``unclean``: the operator accepts the losses. Raises ``CommandNotPossibleError`` with the remedy.
    """
    if record is None:
        raise CommandNotPossibleError(
            "R14: no node has a record of the set: `mqcore cluster init` makes it, `recover` makes it again"
        )
    chosen = next((state for state in states if state.member.node_id == node_id), None)
    name = record.name_of(node_id)
    if chosen is None:
        raise CommandNotPossibleError(f"{name} does not answer; a node is promoted when it runs")
    if chosen.reigns:
        raise CommandNotPossibleError(f"{name} reigns already, in epoch {chosen.seen_epoch}")
    answered = {state.member.node_id for state in states}
    old = record.primary
    if old is not None and old not in answered and not old_primary_is_stopped:
        raise CommandNotPossibleError(
            f"R16: the primary {record.name_of(old)} does not answer, and may still acknowledge. Make sure that it is "
            "stopped and cannot start by itself, then repeat with --old-primary-is-stopped"
        )
    missing = [member for member in record.members if member.node_id not in answered]
    if old == node_id and missing and not old_primary_is_stopped:
        # To this node it is the primary itself; one of the others may have been promoted while it was away.
        raise CommandNotPossibleError(
            f"R16: {record.names_of(missing)} does not answer, and may have been promoted since. Make sure that no "
            "other node reigns or can start by itself, then repeat with --old-primary-is-stopped"
        )
    if not unclean:
        _check_answers(record, chosen, answered)
        _check_admitted(record, chosen)
        _check_ahead(record, chosen, states)
    return ManualPromotion(
        stop=tuple(sorted(state.member.node_id for state in states if state.reigns)),
        record=record,
        epoch=max(record.epoch, *(state.seen_epoch for state in states)) + 1,
        unclean=chosen.member not in record.members,
        losses=tuple(_losses_of(record, chosen, states)),
    )


def reason_to_wait(record: SetRecord, own: NodeState, others: Collection[NodeState]) -> str | None:
    """Return why a node that reigned last does not reign again by itself when it starts; None: it may.

    ``record``: the newest that it has. While it was away a member may have been promoted, have acknowledged, and be
    away now; a reign that began meanwhile would take the members along and cut what that one acknowledged.
    """
    for state in others:
        if state.seen_epoch > own.seen_epoch:
            other = record.name_of(state.member.node_id)
            return (
                f"{other} has seen epoch {state.seen_epoch}, this node {own.seen_epoch}: there was a later reign; "
                "`mqcore cluster promote` on a node that has everything"
            )
    answered = {own.member.node_id, *(state.member.node_id for state in others)}
    missing = [member for member in record.members if member.node_id not in answered]
    if missing:
        return (
            f"waiting for {record.names_of(missing)}, which may have been promoted while this node was away. If it "
            "never returns: `mqcore cluster promote`, with --old-primary-is-stopped"
        )
    return None


def _losses_of(record: SetRecord, chosen: NodeState, states: Collection[NodeState]) -> list[str]:
    """Return what a promotion of ``chosen`` may lose of what was acknowledged, one sentence each; empty: nothing."""
    losses = []
    admitted = record.member_of(chosen.member.node_id)
    name = record.name_of(chosen.member.node_id)
    if admitted is None:
        losses.append(f"{name} is not in the in-sync set: whatever was acknowledged since it was, without bound.")
    elif admitted != chosen.member:
        losses.append(
            f"{name} came back under incarnation {chosen.member.incarnation}: what it had not flushed, without bound "
            "where the flush policy has none."
        )
    answered = {state.member.node_id for state in states}
    if missing := [member for member in record.members if member.node_id not in answered]:
        losses.append(
            f"Not asked, for there is no answer: {record.names_of(missing)}. What is only there, without bound; of "
            "synchronous topics nothing, if the promoted node is in sync."
        )
    for state in sorted(states, key=lambda state: state.member):
        ahead = chosen.lacks_of(state)
        if ahead:
            size = sum(max(state.tip_of(log).end - chosen.tip_of(log).end, 0) for log in ahead)
            losses.append(
                f"{record.name_of(state.member.node_id)} has more of {len(ahead)} logs, {size} bytes or more; its part "
                "goes to quarantine when it returns."
            )
    return losses


def _check_answers(record: SetRecord, chosen: NodeState, answered: Collection[bytes]) -> None:
    """Refuse where those that do not answer may have gone on without ``chosen``, which cannot know of it.

    A node may be removed while it is away. What was acknowledged then is on as many nodes as the floor says, the
    primary and at least one other: so one that answers has it, or has the record that says who has.
    """
    away = [node_id for node_id in record.names if node_id not in answered]
    if len(away) >= max(record.floor, 2):
        names = ", ".join(sorted(map(record.name_of, away)))
        raise CommandNotPossibleError(
            f"R16: {names} do not answer; they may have gone on without {record.name_of(chosen.member.node_id)} after "
            "it was removed from the set. Start one of them, or accept the loss with --unclean"
        )


def _check_admitted(record: SetRecord, chosen: NodeState) -> None:
    if chosen.member in record.members:
        return
    name, known = record.name_of(chosen.member.node_id), record.member_of(chosen.member.node_id)
    what = (
        "was not admitted to the in-sync set"
        if known is None
        else f"was admitted under incarnation {known.incarnation} and now has {chosen.member.incarnation}"
    )
    raise CommandNotPossibleError(
        f"R16: {name} {what}; it may lack what was acknowledged. Promote one of {record.names_of(record.members)}, or "
        "accept the loss with --unclean"
    )


def _check_ahead(record: SetRecord, chosen: NodeState, states: Collection[NodeState]) -> None:
    for state in sorted(states, key=lambda state: (state.member not in record.members, state.member)):
        ahead = len(chosen.lacks_of(state))
        if ahead:
            other = record.name_of(state.member.node_id)
            raise CommandNotPossibleError(
                f"R16: {record.name_of(chosen.member.node_id)} is behind {other} on {ahead} logs; promote {other}, or "
                "accept the loss with --unclean"
            )
