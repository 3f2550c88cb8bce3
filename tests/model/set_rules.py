"""The rules R1 to R11 as a machine over ``SetState``: ``take`` does a step, or says which rule forbids it.

``Reading`` names one loose reading a rule: True is the rule as it is written. What the steps leave out: trimming,
cursors, producers, policies per send, the levels of a copy (a power cut takes any suffix, and with it the incarnation).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, NoReturn

from set_state import Log, Pair, SetNode, SetRecordModel, SetState, Step, Write

__all__ = ["NotAllowed", "Reading", "SetBroken", "commit_limit", "divergence", "messages_end", "take"]


class NotAllowed(Exception):
    """The rules do not allow the step in this state; the message begins with the rule."""


class SetBroken(Exception):
    """A step that the reading allows breaks a clause of the guarantees; the message begins with it."""


class Reading(NamedTuple):
    """How each rule is read. ``copies``: of the topic's policy."""

    copies: int = 2
    r1_conditional: bool = True
    """A change applies only to the record that it was made from."""
    r2_incarnation: bool = True
    """A node that came back with less is not promoted as the member that it was."""
    r3_new_reign: bool = True
    """Every start opens a new reign."""
    r4_own_history: bool = True
    """A report counts only if its last batch is in the primary's history."""
    r5_whole_walk: bool = True
    """A replica cuts until the histories meet, not once."""
    r5_cuts_divergence_only: bool = True
    """A replica cuts where the histories part, not at the committed offset that it knows."""
    r5_commits_after_cut: bool = True
    """A replica takes over a committed offset after it has reconciled."""
    r6_joins_at_beginning: bool = True
    """A node that joins holds what the log had when the reign began, not only the committed offset that is known."""
    r7_waits_for_both: bool = True
    """While a change is open the members of both sets are waited for."""
    r7_removed_counts: bool = True
    """A member that is to leave counts until the answer has come."""
    r7_unknown_is_open: bool = True
    """A change whose answer is lost stays open until its outcome is known."""
    r8_floor: bool = True
    """The set does not fall below ``copies``."""
    r11_lease: bool = True
    """A promotion waits until the old primary's lease is over."""


def _refuse(rule: str, text: str) -> NoReturn:
    raise NotAllowed(f"{rule}: {text}")


def _demand(holds: object, rule: str, text: str) -> None:
    if not holds:
        _refuse(rule, text)


def _reported(node: SetNode) -> dict[Pair, int]:
    return dict(node.reported)


def _note(node: SetNode, pair: Pair, batches: int) -> SetNode:
    known = _reported(node)
    known[pair] = max(known.get(pair, 0), batches)
    return node._replace(reported=tuple(sorted(known.items())))


def _primary(state: SetState, name: str) -> SetNode:
    node = state.node(name)
    _demand(node.is_up and node.role == "primary", "R3", f"{name} does not reign")
    return node


def _follower(state: SetState, name: str, primary: str) -> tuple[SetNode, SetNode]:
    node, other = state.node(name), _primary(state, primary)
    _demand(node.is_up and node.role == "follower", "R4", f"{name} does not follow")
    _demand(node.epoch == other.epoch, "R4", f"{name} and {primary} are in two epochs")
    return node, other


# steps of a primary


def _append(state: SetState, step: Step, reading: Reading) -> SetState:
    node = _primary(state, step.node)
    log = node.log
    if not log or log[-1][0] != node.epoch:
        log += ((node.epoch, ""),)  # the epoch batch opens the reign in the log, before its first batch (R3)
    log += ((node.epoch, step.value),)
    node = _note(node._replace(log=log), state.pair(step.node), len(log))
    spent = state.spent._replace(values=state.spent.values + 1)
    return state.with_node(step.node, node)._replace(spent=spent)


def counted_members(node: SetNode, reading: Reading) -> list[Pair]:
    """Pairs that a primary waits for."""
    counted = set(node.members)
    if node.pending is not None:
        if reading.r7_waits_for_both:
            counted |= node.pending
        if not reading.r7_removed_counts:
            counted &= node.pending
    return sorted(counted)


def commit_limit(node: SetNode, reading: Reading) -> int:
    """Up to which message everyone that counts holds everything, in batches; 0 while a set is too small."""
    if min(len(node.members), len(node.members if node.pending is None else node.pending)) < reading.copies:
        return 0
    known = _reported(node)
    return messages_end(node.log[: min(known.get(pair, 0) for pair in counted_members(node, reading))])


def _commit(state: SetState, step: Step, reading: Reading) -> SetState:
    node = _primary(state, step.node)
    _demand(step.number > node.committed, "R10", "a committed offset does not go back")
    _demand(step.number >= node.began, "R10", "what the reign began with is not held by the set yet")
    limit = commit_limit(node, reading)
    _demand(step.number <= limit, "R7", f"{step.number} batches are not held by every member of each set, {limit} are")
    committed = node.log[: step.number]
    if not _has(committed, state.visible[: step.number]):
        raise SetBroken(f"G05: {step.node} commits {committed}, and {state.visible} was committed before")
    visible = committed + state.visible[step.number :]
    return state.with_node(step.node, node._replace(committed=step.number))._replace(visible=visible)


def _send(state: SetState, step: Step, reading: Reading) -> SetState:
    node = _primary(state, step.node)
    _demand(node.pending is None, "R7", "one change at a time")
    _demand(state.pair(step.node) in step.members, "R7", "the primary does not leave its own set")
    floor = min(len(node.members), reading.copies) if reading.r8_floor else 1
    _demand(len(step.members) >= floor, "R8", f"the set would have {len(step.members)} members")
    known = _reported(node)
    need = max(node.committed, node.began if reading.r6_joins_at_beginning else 0)
    for pair in step.members - node.members:
        _demand(known.get(pair, 0) >= need, "R6", f"{pair} has not reported {need} batches in this reign")
    _demand(len({name for name, _ in step.members}) == len(step.members), "R4", "a node under two incarnations")
    base = SetRecordModel(node.epoch, step.node, node.members)
    spent = state.spent._replace(changes=state.spent.changes + 1)
    node = node._replace(pending=step.members)
    return state.with_node(step.node, node)._replace(write=Write(step.node, base, step.members), spent=spent)


def _apply(state: SetState, step: Step, reading: Reading) -> SetState:
    """The coordinator does what was sent, whether or not its sender still lives."""
    write = state.write
    if write is None or write.node != step.node:
        _refuse("R1", f"{step.node} has sent no change")
    if reading.r1_conditional:
        _demand(write.base == state.record, "R1", "the record is not the one that the change was made from")
    return state._replace(record=state.record._replace(members=write.members), write=None)


def _settle(state: SetState, step: Step, reading: Reading) -> SetState:
    """The primary learns that its change was applied."""
    node = _primary(state, step.node)
    _demand(node.pending is not None, "R7", "no change is open")
    _demand(
        state.record == SetRecordModel(node.epoch, step.node, node.pending or frozenset()),
        "R7",
        "the record does not say what was asked for",
    )
    return state.with_node(step.node, node._replace(members=state.record.members, pending=None))


def _withdraw(state: SetState, step: Step, reading: Reading) -> SetState:
    """The primary learns that its change was not applied, and cannot be any more."""
    node = _primary(state, step.node)
    write = state.write
    _demand(node.pending is not None and write is not None and write.node == step.node, "R7", "no change is open")
    node = node._replace(pending=None)
    if not reading.r7_unknown_is_open:
        return state.with_node(step.node, node)  # it only believes so: the write is still on its way
    return state.with_node(step.node, node)._replace(write=None)


def _answer(state: SetState, step: Step, reading: Reading) -> SetState:
    """An acknowledgement that waits for no replica goes out."""
    node = _primary(state, step.node)
    _demand(node.has_lease or not reading.r11_lease, "R11", f"the lease of {step.node} is over")
    if state.record.epoch > node.epoch:
        raise SetBroken(
            f"G09: {step.node} acknowledges in epoch {node.epoch}, and {state.record.epoch} is in the record"
        )
    return state


# steps of a replica


def _matches(log: Log, history: Log) -> bool:
    """Whether the last batch of ``log`` is in ``history``, by epoch and position, which is all that is reported."""
    return not log or (len(log) <= len(history) and history[len(log) - 1][0] == log[-1][0])


def _report(state: SetState, step: Step, reading: Reading) -> SetState:
    node, primary = _follower(state, step.node, step.other)
    # What was reported may be less than what is held by now; it is judged as it was.
    holds, log = step.number, node.log[: step.number]
    _demand(holds <= len(node.log), "R4", f"{step.node} holds {len(node.log)} batches")
    if reading.r4_own_history:
        _demand(_matches(log, primary.log), "R4", "its last batch is not in the primary's history")
    else:
        holds = min(holds, len(primary.log))
    state = state.with_node(step.node, node._replace(is_reconciled=True, is_suspect=False))
    return state.with_node(step.other, _note(primary, state.pair(step.node), holds))


def divergence(log: Log, history: Log, reading: Reading) -> int:
    """How many batches of ``log`` the cuts leave: what both have."""
    if not reading.r5_whole_walk:
        # The epochs of the ends only: the end of the replica's last epoch in the primary's log.
        epoch = log[-1][0]
        return min(len(log), sum(each <= epoch for each, _ in history))
    common = 0
    for mine, theirs in zip(log, history, strict=False):
        if mine[0] != theirs[0]:
            break
        common += 1
    return common


def _cut(state: SetState, step: Step, reading: Reading) -> SetState:
    node, primary = _follower(state, step.node, step.other)
    _demand(not node.is_reconciled, "R5", "what counted as held is not cut in the same reign")
    _demand(not _matches(node.log, primary.log) or not reading.r5_cuts_divergence_only, "R5", "the histories agree")
    keeps = divergence(node.log, primary.log, reading) if reading.r5_cuts_divergence_only else node.committed
    # The histories may be walked in steps, one reign further back each time; nothing that both have is cut.
    _demand(keeps <= step.number < len(node.log), "R5", f"the histories part after {keeps} batches")
    node = node._replace(log=node.log[: step.number], is_reconciled=not reading.r5_whole_walk)
    return state.with_node(step.node, node)


def _receive(state: SetState, step: Step, reading: Reading) -> SetState:
    node, primary = _follower(state, step.node, step.other)
    _demand(node.is_reconciled, "R5", f"{step.node} has not reconciled with {step.other}")
    _demand(len(node.log) < step.number <= len(primary.log), "R4", f"the primary has {len(primary.log)} batches")
    log = node.log + primary.log[len(node.log) : step.number]
    return state.with_node(step.node, node._replace(log=log))


def _learn(state: SetState, step: Step, reading: Reading) -> SetState:
    node, primary = _follower(state, step.node, step.other)
    _demand(node.is_reconciled or not reading.r5_commits_after_cut, "R5", f"{step.node} has not reconciled")
    _demand(step.number > node.committed, "R10", "a committed offset does not go back")
    _demand(step.number <= min(primary.committed, len(node.log)), "R10", "that is not committed, or not here")
    return state.with_node(step.node, node._replace(committed=step.number))


def _follow(state: SetState, step: Step, reading: Reading) -> SetState:
    node, record = state.node(step.node), state.record
    _demand(node.is_up, "R4", f"{step.node} is down")
    _demand(record.primary != step.node, "R4", f"the record names {step.node} itself")
    _demand(record.epoch > node.epoch or node.role == "idle", "R4", f"{step.node} is in epoch {node.epoch} already")
    node = node.down()._replace(is_up=True, role="follower", epoch=record.epoch)
    return state.with_node(step.node, node)


# steps of anybody


def _elect(state: SetState, step: Step, reading: Reading) -> SetState:
    node, record, pair = state.node(step.node), state.record, state.pair(step.node)
    _demand(node.is_up, "R2", f"{step.node} is down")
    _demand(node.role != "primary" or node.epoch < record.epoch, "R3", f"{step.node} reigns")
    _demand(step.number > record.epoch, "R3", f"epoch {step.number} does not follow {record.epoch}")
    if reading.r2_incarnation:
        _demand(pair in record.members, "R2", f"{step.node} is not in the set under incarnation {node.incarnation}")
    else:
        _demand(step.node in {name for name, _ in record.members}, "R2", f"{step.node} is not in the set")
        _demand(not node.is_suspect, "R2", f"{step.node} has reported nothing since it came back")
    if reading.r11_lease:
        _demand(not any(each.has_lease for _, each in state.nodes), "R11", "a lease is valid still")
    if not _has(node.log, state.visible):
        raise SetBroken(f"G01: {step.node} reigns with {node.log}, and {state.visible} was committed")
    node = node.down()._replace(
        is_up=True,
        role="primary",
        epoch=step.number,
        members=record.members,
        began=messages_end(node.log),
        has_lease=True,
        is_suspect=False,
    )
    if not reading.r2_incarnation:
        node = node._replace(members=frozenset((name, state.node(name).incarnation) for name, _ in record.members))
    spent = state.spent._replace(elections=state.spent.elections + 1)
    record = SetRecordModel(step.number, step.node, node.members)
    state = state.with_node(step.node, _note(node, pair, len(node.log)))
    return state._replace(record=record, spent=spent)


def _leave(state: SetState, step: Step, reading: Reading) -> SetState:
    """A node stops reigning, and runs on."""
    return state.with_node(step.node, _primary(state, step.node).down()._replace(is_up=True))


def messages_end(log: Log) -> int:
    """How many batches a log has up to its last message; an epoch batch behind it takes no offset."""
    return max((place for place, (_, value) in enumerate(log, 1) if value), default=0)


def _lapse(state: SetState, step: Step, reading: Reading) -> SetState:
    node = state.node(step.node)
    _demand(node.has_lease, "R11", f"{step.node} has no lease")
    return state.with_node(step.node, node._replace(has_lease=False))


def _kill(state: SetState, step: Step, reading: Reading) -> SetState:
    node = state.node(step.node)
    _demand(node.is_up, "faults", f"{step.node} is down")
    return state.with_node(step.node, node.down())._replace(spent=state.spent._replace(kills=state.spent.kills + 1))


def _power_cut(state: SetState, step: Step, reading: Reading) -> SetState:
    node = state.node(step.node)
    _demand(node.is_up and step.number < len(node.log), "faults", f"{step.node} is down, or keeps everything")
    log = node.log[: step.number]
    # What it had committed may be gone too: that is what its new incarnation says.
    node = node.down()._replace(
        log=log,
        committed=min(node.committed, len(log)),
        incarnation=node.incarnation + 1,
        is_suspect=not reading.r2_incarnation,
    )
    state = state.with_node(step.node, node)._replace(spent=state.spent._replace(cuts=state.spent.cuts + 1))
    if state.spent.cuts < reading.copies and not any(
        state.pair(name) in state.record.members for name, _ in state.nodes
    ):
        raise SetBroken(f"G13: {state.spent.cuts} of {reading.copies} copies are lost, and nobody may reign any more")
    return state


def _start(state: SetState, step: Step, reading: Reading) -> SetState:
    node, record = state.node(step.node), state.record
    _demand(not node.is_up, "faults", f"{step.node} is up")
    node = node._replace(is_up=True)
    if not reading.r3_new_reign and record.primary == step.node:
        node = node._replace(role="primary", epoch=record.epoch, members=record.members, began=len(node.log))
        node = _note(node, state.pair(step.node), len(node.log))
    return state.with_node(step.node, node)


STEPS: dict[str, Callable[[SetState, Step, Reading], SetState]] = {
    "append": _append,
    "commit": _commit,
    "send": _send,
    "apply": _apply,
    "settle": _settle,
    "withdraw": _withdraw,
    "answer": _answer,
    "report": _report,
    "cut": _cut,
    "receive": _receive,
    "learn": _learn,
    "follow": _follow,
    "elect": _elect,
    "lapse": _lapse,
    "leave": _leave,
    "kill": _kill,
    "power-cut": _power_cut,
    "start": _start,
}


def take(state: SetState, step: Step, reading: Reading) -> SetState:
    """Return the state after ``step``. Raises ``NotAllowed``, or ``SetBroken`` where a clause does not hold then."""
    after = STEPS[step.word](state, step, reading)
    if step.word in ("append", "receive", "cut", "learn", "commit"):
        _judge(after, step.node)
    return after


def _judge(state: SetState, name: str) -> None:
    node = state.node(name)
    if node.committed > len(node.log):
        raise SetBroken(f"G06: {name} has cut what it has shown: {node.committed} batches, and it has {len(node.log)}")
    if not _has(state.visible, node.log[: node.committed]):
        raise SetBroken(f"G08: {name} shows {node.log[: node.committed]}, and {state.visible} was committed")
    for other, each in state.nodes:
        for mine, theirs in zip(node.log, each.log, strict=False) if other != name else ():
            if mine[0] == theirs[0] and mine != theirs:
                raise SetBroken(f"G05: {mine} on {name} and {theirs} on {other} at one position")


def _has(log: Log, messages: Log) -> bool:
    """Whether every message of ``messages`` is at its place in ``log``; an epoch batch is none, and may be missing."""
    return all(place < len(log) and log[place] == batch for place, batch in enumerate(messages) if batch[1])
