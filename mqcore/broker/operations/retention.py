"""Operations on retention: an operator confirms the wall clock."""

from __future__ import annotations

import trio

from mqcore.broker.operations._scope import AdminScope
from mqcore.operations import ClockConfirmed, ConfirmClock

__all__ = ["confirm_clock"]


async def confirm_clock(scope: AdminScope, request: ConfirmClock) -> ClockConfirmed:
    """Take the wall clock as it is for right; the next look of the primary trims by it."""
    reign = scope.reign()
    step = reign.retention.step
    step_ms = step.step_ms
    step.confirm()
    reign.store.clock_base_ms = step.base_ms
    await trio.lowlevel.checkpoint()
    return ClockConfirmed(step_ms=step_ms)
