"""Playing plans: one script for every world, and what a run leaves behind.

A simulated plan (T0) gives the same history each time; one of real processes (T1) is judged all the same.
"""

from mqcore_conformance.play._lying_disk import run_on_lying_disk, why_no_lying_disk
from mqcore_conformance.play._run import (
    TRIES_IN_REAL_TIME,
    CrashCalls,
    RunResult,
    crash_calls,
    run_plan,
    run_until_shown,
)

__all__ = [
    "TRIES_IN_REAL_TIME",
    "CrashCalls",
    "RunResult",
    "crash_calls",
    "run_on_lying_disk",
    "run_plan",
    "run_until_shown",
    "why_no_lying_disk",
]
