"""T1: real processes, real sockets, signals."""

from __future__ import annotations

import attrs
import pytest

from mqcore_conformance.checkers import check_history
from mqcore_conformance.histories import Completed, Drained
from mqcore_conformance.plans import FLUSH_POLICIES, draw_plan
from mqcore_conformance.processes import run_processes


@pytest.mark.slow
@pytest.mark.parametrize(("transport", "flush", "family"), [("tcp", "sync", "kill"), ("unix", "async", "pause")])
def test_processes_under_signals_keep_every_clause(transport: str, flush: str, family: str) -> None:
    plan = draw_plan(
        1, storage="mmap://{dir}", transport=transport, flush=FLUSH_POLICIES[flush], family="none"
    )
    result = run_processes(attrs.evolve(plan, family=family))
    assert result.error == ""
    assert [str(violation) for violation in check_history(result.history)] == []
    assert result.witnesses["process-kill" if family == "kill" else "pause"] > 0
    assert any(isinstance(event, Completed) and event.outcome == "acknowledged" for event in result.history)
    assert any(isinstance(event, Drained) for event in result.history)
