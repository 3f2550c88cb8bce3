"""Retention: the word of an operator that the wall clock is right."""

from __future__ import annotations

import attrs

__all__ = ["ClockConfirmed", "ConfirmClock"]


@attrs.frozen(kw_only=True)
class ConfirmClock:
    """Trim by age again although the wall clock was set: it is right now (R15)."""


@attrs.frozen(kw_only=True)
class ClockConfirmed:
    """By how much the wall clock had been set since the broker started, in ms; negative: back."""

    step_ms: int
