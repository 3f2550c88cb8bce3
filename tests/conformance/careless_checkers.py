"""Careless checkers: each judges carelessly in one way. At least one story has to be judged otherwise by it.

Knows names inside ``mqcore_conformance.checkers``; what is general is in ``checker_mutants``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
from checker_stories import STORIES, Case

from mqcore.guarantees import Fault
from mqcore_conformance.checkers import check_history
from mqcore_conformance.histories import DRAIN, FaultInjected, FetchAnswered, FetchFailed, Flushed
from mqcore_conformance.saboteurs._replacing import Replacement, replacing
from mqcore_conformance.worlds.model import Sabotage

__all__ = ["CARELESS_CHECKERS", "stories_judged_otherwise"]

FACTS = "mqcore_conformance.checkers._facts"
LOSS = "mqcore_conformance.checkers._loss"


def stories_judged_otherwise(sabotage: Sabotage) -> list[str]:
    """Return the names of the stories about which the sabotaged checkers say something else than they should."""
    with sabotage.installed():
        return [tale.name for tale in STORIES.values() if _red(tale) != set(tale.clauses)]


def _red(tale: Case) -> set[str] | None:
    try:
        return {violation.clause for violation in check_history(tale.events)}
    except Exception:  # a checker that dies of it has noticed
        return None


@replacing
def unknown_taken_for_failed() -> tuple[Replacement, ...]:
    """An unknown outcome is taken for a rejection."""

    def make(_: Any) -> Any:
        return property(lambda send: all(one.completed for one in send.attempts) and not send.acknowledgements)

    return ((FACTS, "SendFacts", "rejected", make),)


@replacing
def partition_ignored() -> tuple[Replacement, ...]:
    """Only the first partition is looked at."""

    def make(original: Any) -> Any:
        def acknowledged(facts: Any) -> Iterator[Any]:
            return (each for each in original(facts) if each[0].invoked.partition.endswith("/0"))

        return acknowledged

    return ((FACTS, "Facts", "acknowledged", make),)


@replacing
def drain_forgotten() -> tuple[Replacement, ...]:
    """Nobody looks whether a message is in the drain."""
    return (
        (FACTS, "DrainedLog", "has", lambda _: lambda *_: True),
        (LOSS, "", "_missing", lambda _: lambda *_: []),
    )


@replacing
def read_dropped() -> tuple[Replacement, ...]:
    """What a consumer was given last is forgotten."""

    def make(original: Any) -> Any:
        def take(facts: Any, index: int, event: Any) -> None:
            if isinstance(event, FetchAnswered) and event.process != DRAIN:
                event = attrs.evolve(event, batches=event.batches[:-1])
            original(facts, index, event)

        return take

    return ((FACTS, "Facts", "_take", make),)


@replacing
def offsets_swapped() -> tuple[Replacement, ...]:
    """The drain's offsets are taken in pairs the wrong way round."""

    def make(original: Any) -> Any:
        return lambda log, offset, digest: original(log, offset ^ 1, digest)

    return ((FACTS, "DrainedLog", "has", make),)


@replacing
def bound_off_by_one() -> tuple[Replacement, ...]:
    """A loss may exceed its bound by one."""

    def make(original: Any) -> Any:
        def excesses(bounds: Any, batches: Any, span: str) -> Any:
            known = {name: value + 1 for name, value in attrs.asdict(bounds).items() if value is not None}
            return original(attrs.evolve(bounds, **known), batches, span)

        return excesses

    return ((LOSS, "", "_excesses", make),)


@replacing
def kill_taken_for_power_cut() -> tuple[Replacement, ...]:
    """Every end of a life excuses what a power cut excuses."""
    return ((FACTS, "", "ENDINGS", lambda endings: dict.fromkeys(endings, Fault.NODE_POWER_CUT)),)


@replacing
def failed_flush_counts() -> tuple[Replacement, ...]:
    """A flush that failed is taken for one that worked."""

    def make(original: Any) -> Any:
        def take(facts: Any, index: int, event: Flushed) -> None:
            original(facts, index, attrs.evolve(event, failed=False))

        return take

    return ((FACTS, "Facts", "_take_flush", make),)


@replacing
def first_attempt_only() -> tuple[Replacement, ...]:
    """Of a send that was tried again only the first attempt is looked at."""

    def make(original: Any) -> Any:
        return lambda facts: (each for each in original(facts) if len(each[0].attempts) == 1)

    return ((FACTS, "Facts", "acknowledged", make),)


@replacing
def consumers_forgotten() -> tuple[Replacement, ...]:
    """Only the drain is looked at."""
    return ((FACTS, "Facts", "readers", lambda _: lambda facts: iter(())),)


@replacing
def damage_excuses_everything() -> tuple[Replacement, ...]:
    """Any offset counts as reported to be damaged."""
    return ((FACTS, "DrainedLog", "is_damaged", lambda _: lambda *_: True),)


@replacing
def damage_believed() -> tuple[Replacement, ...]:
    """What is reported to be damaged is damaged."""

    def make(original: Any) -> Any:
        def take(facts: Any, index: int, event: Any) -> None:
            if isinstance(event, FetchFailed) and event.code == "damaged":
                facts.rotted[event.partition].append((event.point, event.until))
                facts.injected.append((index - 1, _rot(event)))
            original(facts, index, event)

        return take

    return ((FACTS, "Facts", "_take", make),)


def _rot(event: FetchFailed) -> FaultInjected:
    return FaultInjected(
        time_us=event.time_us,
        kind="rot",
        life=event.life,
        partition=event.partition,
        first_offset=event.point,
        next_offset=event.until,
    )


@replacing
def failed_flush_excuses_everything() -> tuple[Replacement, ...]:
    """After a flush that failed anything may be lost."""

    def make(original: Any) -> Any:
        return lambda facts, *_: any(fault.kind == "flush-error" for _, fault in facts.injected)

    return ((FACTS, "Facts", "voided", make),)


CARELESS_CHECKERS: dict[str, Callable[[], Sabotage]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        unknown_taken_for_failed,
        partition_ignored,
        drain_forgotten,
        read_dropped,
        offsets_swapped,
        bound_off_by_one,
        kill_taken_for_power_cut,
        failed_flush_counts,
        first_attempt_only,
        consumers_forgotten,
        damage_excuses_everything,
        damage_believed,
        failed_flush_excuses_everything,
    )
}
"""By name: what makes the sabotage."""
