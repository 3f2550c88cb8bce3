"""G09, G10: one writer per epoch, and nodes whose copies are the same once a set is whole again."""

from __future__ import annotations

from collections.abc import Iterator

from mqcore.guarantees import Level, survives
from mqcore_conformance.checkers._facts import Attempt, Facts, SendFacts
from mqcore_conformance.checkers._loss import is_voided
from mqcore_conformance.checkers._rotten import rotten_on, whole_elsewhere
from mqcore_conformance.histories import Completed, LogHeld
from mqcore_conformance.verdicts import Anomaly, Violation


def check_g09(facts: Facts) -> Iterator[Violation]:
    """An epoch is one node's, and an old reign acknowledges nothing that the newer one does not have."""
    writers: dict[int, tuple[str, int]] = {}
    for index, event in facts.reigns.events:
        node, first = writers.setdefault(event.epoch, (event.node, index))
        if node != event.node:
            text = f"{node} (event {first}) and {event.node} (event {index}) both reign under epoch {event.epoch}"
            yield Violation("G09", Anomaly.TWO_WRITERS, text, "", (first, index))
    for send, attempt, receipt in facts.acknowledged():
        end = attempt.completed_at
        # A retry is answered with the epoch of what it repeats, by whoever reigns then.
        epoch = facts.reigns.epoch_at(receipt.by, end) if receipt.duplicate else facts.reign_of(receipt)
        # A reply may be long on its way; what was sent when the newer reign had begun cannot have been done before it.
        newer = facts.reigns.newer_than(epoch, attempt.invoked_at)
        why = "and before it was sent"
        if newer is None and _is_lost_although_held(facts, send, attempt, receipt):
            newer, why = facts.reigns.newer_than(epoch, end), "whose log does not have it"
        if newer is not None:
            text = (
                f"{send.name} was acknowledged by {receipt.by} under epoch {epoch} at event {end}, after a "
                f"newer reign began (event {newer[0]}) {why}"
            )
            yield Violation("G09", Anomaly.TWO_WRITERS, text, send.invoked.partition, (newer[0], end))


def _is_lost_although_held(facts: Facts, send: SendFacts, attempt: Attempt, receipt: Completed) -> bool:
    """Whether several nodes held what is not in the final log, and no fault may have taken it."""
    if len(attempt.copies) < 2 or not whole_elsewhere(facts, send, attempt):
        return False
    log = facts.log(send.invoked.partition)
    is_there = all(log.has(at, each) for at, each in enumerate(send.invoked.messages, receipt.offset))
    return log.complete and not is_there and not is_voided(facts, send, attempt)


def check_g10(facts: Facts) -> Iterator[Violation]:
    """Once a set is whole again, every node's copy of a log is the same, byte for byte."""
    held: dict[str, tuple[int, LogHeld]] = {}
    for index, event in facts.held:
        first, other = held.setdefault(event.partition, (index, event))
        if other.content != event.content:
            text = f"{event.node} holds {event.content}, {other.node} holds {other.content}"
            yield Violation("G10", Anomaly.DIVERGED, text, event.partition, (first, index))
    nodes = {event.node for _, event in facts.held}
    for partition, (first, _) in held.items():
        missing = sorted(nodes - {event.node for _, event in facts.held if event.partition == partition})
        if missing:
            text = f"{', '.join(missing)} has no copy of this log at all"
            yield Violation("G10", Anomaly.DIVERGED, text, partition, (first,))
    yield from _cut_and_not_kept(facts)


def _cut_and_not_kept(facts: Facts) -> Iterator[Violation]:
    """What was acknowledged, and is cut, is kept aside by who had it, unless a fault took that copy."""
    if not facts.held:
        return
    for send, attempt, receipt in facts.acknowledged():
        partition, log = send.invoked.partition, facts.log(send.invoked.partition)
        if not log.complete:
            continue
        lost = [each for at, each in enumerate(send.invoked.messages, receipt.offset) if not log.has(at, each)]
        rotten = rotten_on(facts, send, attempt) if lost else ()
        for level, by in attempt.copies if lost else ():
            if (
                level is Level.NONE
                or by.node in rotten
                or not all(survives(level, fault) for fault in facts.faults_since(by))
            ):
                continue
            missing = [each for each in lost if each not in facts.kept_aside[partition, by.node]]
            if missing and not is_voided(facts, send, attempt):
                text = (
                    f"{send.name}, acknowledged by {receipt.by} under epoch {receipt.epoch} at event "
                    f"{attempt.completed_at}, is not in the log any more, and {by.node} has kept no copy aside"
                )
                yield Violation("G10", Anomaly.DISCARDED, text, partition, (attempt.completed_at,))
