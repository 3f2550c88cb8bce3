"""Which policies of a topic may have been in force between two events of a history.

A change is in force at some moment between its request and its answer; one whose outcome is unknown, at any moment from
its request on or never.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import attrs

from mqcore.guarantees import AsyncFlush, FlushPolicy, NoFlush, SyncFlush, parse_flush
from mqcore_conformance.histories import Altered, TopicSetting


@attrs.frozen
class InForce:
    """Policies of a topic: its own, the weakest that a send may ask for (None: its own), and what consumers see."""

    flush: FlushPolicy
    weakest: FlushPolicy | None
    visible: str

    @property
    def shows_flushed_only(self) -> bool:
        """Whether consumers see flushed messages only."""
        return self.visible == "stable" or isinstance(self.flush, SyncFlush)

    def answering(self, send_policy: str) -> FlushPolicy:
        """The policy that decides when a send under ``send_policy`` is acknowledged."""
        if send_policy == "sync":
            return SyncFlush()
        if send_policy == "none":
            return NoFlush()
        if send_policy == "async":
            bounds = [each for each in (self.flush, self.weakest) if isinstance(each, AsyncFlush)]
            return bounds[0] if bounds else self.flush
        return self.flush


@attrs.frozen
class _Period:
    """``state`` may have been in force from event ``first`` to event ``last``."""

    first: int
    last: float
    state: InForce


class Timeline:
    """The policies of one topic through a history: those of ``setting``, then each of ``changes`` (index, event)."""

    def __init__(self, setting: TopicSetting, changes: Iterable[tuple[int, Altered]]) -> None:
        own, *weaker = map(policy_of, setting.flush)
        self._default = InForce(own, weaker[0] if weaker else None, setting.visible)
        self._periods = [_Period(0, float("inf"), self._default)]
        for index, change in changes:
            if change.outcome != "refused":
                self._change(index, change)

    def _change(self, index: int, change: Altered) -> None:
        """Any state that may be in force becomes another one, and is over once the change is known to be done."""
        states = dict.fromkeys(period.state for period in self._periods if period.last >= change.asked_at)
        if change.outcome == "done":
            self._periods = [attrs.evolve(period, last=min(period.last, index)) for period in self._periods]
        self._periods += [_Period(change.asked_at, float("inf"), self._changed(state, change)) for state in states]

    def _changed(self, state: InForce, change: Altered) -> InForce:
        if change.flush is not None:
            state = attrs.evolve(state, flush=policy_of(change.flush) if change.flush else self._default.flush)
        if change.weakest_send is not None:
            weakest = policy_of(change.weakest_send) if change.weakest_send else None
            state = attrs.evolve(state, weakest=weakest)
        if change.visible is not None:
            state = attrs.evolve(state, visible=change.visible or "committed")
        return state

    @property
    def is_constant(self) -> bool:
        """Whether nothing ever changed."""
        return len(self._periods) == 1

    def between(self, first: int, last: int) -> list[InForce]:
        """Return everything that may have been in force at some moment between two events."""
        if self.is_constant:
            return [self._default]
        return [period.state for period in self._periods if period.first <= last and period.last >= first]


@cache
def policy_of(text: str) -> FlushPolicy:
    """Return the flush policy of a text."""
    return parse_flush(text)


def widest(policies: Iterable[FlushPolicy]) -> AsyncFlush | None:
    """Return the widest bounds among ``policies``; None where there are none, or where one has no bounds at all."""
    known = list(policies)
    bounded = [policy for policy in known if isinstance(policy, AsyncFlush)]
    if not bounded or any(isinstance(policy, NoFlush) for policy in known):
        return None
    return AsyncFlush(
        max_messages=_most([policy.max_messages for policy in bounded]),
        max_bytes=_most([policy.max_bytes for policy in bounded]),
        max_interval_ms=_most([policy.max_interval_ms for policy in bounded]),
    )


def _most(bounds: list[int | None]) -> int | None:
    known = [bound for bound in bounds if bound is not None]
    return max(known) if len(known) == len(bounds) else None
