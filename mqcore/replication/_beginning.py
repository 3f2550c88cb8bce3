"""The first record of a set, and a new one after the old was lost or went back (rule R14). Pure.

Both are an operator's order to the node that is to reign. Must not know how the others were asked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs

from mqcore.errors import CommandNotPossibleError
from mqcore.replication._candidates import NodeState, logs_to_fetch
from mqcore.replication._record import SetRecord

__all__ = ["RecoveredRecord", "first_record", "no_record", "recovered_record"]


@attrs.frozen(kw_only=True)
class RecoveredRecord:
    """The ``record`` to write, and the logs to ``fetch`` before: by name, the node that has more of it.

    What is fetched is flushed before the record is written: after that the node is the only one in sync.
    """

    record: SetRecord
    fetch: Mapping[str, bytes] = attrs.field(hash=False)


def first_record(
    record: SetRecord | None,
    own: NodeState,
    others: Collection[NodeState],
    *,
    set_id: bytes,
    reign_id: bytes,
    names: Mapping[bytes, str],
    missing: Mapping[str, str],
) -> SetRecord:
    """Return the record by which ``own`` opens the first reign of a set of empty nodes, all of them in sync.

    ``record``: what the coordinator has. ``names``: of every node that answered, by id; ``missing``: of those that did
    not, by configured name, why, as ``b refused: ...``. Raises ``CommandNotPossibleError`` where there is, or may be,
    something already.
    """
    if record is not None:
        raise CommandNotPossibleError(f"the set has a record already, of epoch {record.epoch}; init is for a new set")
    if missing:
        raise CommandNotPossibleError(
            f"{_all_of(missing)}: a node that may have stored something is not begun anew. Have it answer, or take it "
            "out of the configuration"
        )
    states = [own, *others]
    used = sorted(names[state.member.node_id] for state in states if state.seen_epoch or any(state.tips.values()))
    if used:
        raise CommandNotPossibleError(
            f"R14: {', '.join(used)} has stored something already; `mqcore cluster recover` makes a record from that"
        )
    return SetRecord(
        set_id=set_id,
        epoch=1,
        reign_id=reign_id,
        primary=own.member.node_id,
        members=[state.member for state in states],
        names=names,
    )


def no_record(where: str, seen_epoch: int) -> str:
    """Return what to do about a record that is not ``where`` it should be, for a node that has seen ``seen_epoch``."""
    if not seen_epoch:
        return "there is no record of the set: `mqcore cluster init` makes it (R14)"
    return (
        f"R14: there is no record at {where}, and this node has seen epoch {seen_epoch}: has it the coordinator, the "
        "prefix and the set's name that the other nodes have? `mqcore cluster recover` makes one that was lost anew"
    )


def _all_of(missing: Mapping[str, str]) -> str:
    return "; ".join(why for _, why in sorted(missing.items()))


def recovered_record(
    record: SetRecord | None,
    own: NodeState,
    others: Collection[NodeState],
    *,
    set_id: bytes,
    reign_id: bytes,
    names: Mapping[bytes, str],
    missing: Mapping[str, str],
    missing_are_lost: bool = False,
) -> RecoveredRecord:
    """Return the record by which ``own`` reigns above every epoch that a node has seen, and what it fetches before.

    Who was in sync is not known any more, so ``own`` alone is: with the most advanced copy of every log it has whatever
    any of the nodes that answered held. Arguments as for ``first_record``; ``missing_are_lost``: the operator's word.
    Raises ``CommandNotPossibleError`` with the remedy.
    """
    states = [own, *others]
    seen = max(state.seen_epoch for state in states)
    reigning = sorted(names[state.member.node_id] for state in states if state.reigns)
    if record is not None and record.epoch >= seen and (missing_are_lost or not missing):
        raise CommandNotPossibleError(
            f"the record, of epoch {record.epoch}, is not older than what the nodes have seen: there is nothing to "
            "recover; `mqcore cluster promote` changes the primary"
        )
    if reigning:
        raise CommandNotPossibleError(f"{', '.join(reigning)} reigns: stop it first, it may acknowledge meanwhile")
    if missing and not missing_are_lost:
        raise CommandNotPossibleError(
            f"{_all_of(missing)}; {', '.join(sorted(missing))} may hold what no other node does. Have it answer, or "
            "repeat with --missing-are-lost if it never will"
        )
    if not seen:
        raise CommandNotPossibleError("no node has seen an epoch: this is a new set, `mqcore cluster init` begins it")
    # A node that came back with an empty storage has another id under its old name.
    kept = {} if record is None else {node: name for node, name in record.names.items() if name not in names.values()}
    return RecoveredRecord(
        record=SetRecord(
            set_id=set_id,
            epoch=seen + 1,
            reign_id=reign_id,
            primary=own.member.node_id,
            members=[own.member],
            names={**kept, **names},
            copies_min=1 if record is None else record.copies_min,
        ),
        fetch=logs_to_fetch(own, others),
    )
