"""Playing plans: one script for every world, and what a run leaves behind.

A simulated plan (T0) gives the same history each time; one of real processes (T1) is judged all the same.
"""

from mqcore_conformance.play._crash_calls import CrashCalls, crash_calls
from mqcore_conformance.play._lying_disk import run_on_lying_disk, why_no_lying_disk
from mqcore_conformance.play._real_time import run_until_shown, shrink_in_real_time
from mqcore_conformance.play._run import RunResult, run_plan

__all__ = [
    "CrashCalls",
    "RunResult",
    "crash_calls",
    "run_on_lying_disk",
    "run_plan",
    "run_until_shown",
    "shrink_in_real_time",
    "why_no_lying_disk",
]
