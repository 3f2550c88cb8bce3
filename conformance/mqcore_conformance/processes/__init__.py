"""T1: real broker processes over real transports, a recorder process, a proxy, faulty ports; the same checkers."""

from mqcore_conformance.broker_process.pages import why_no_dirty_pages
from mqcore_conformance.processes._families import (
    CONTROLLED_FAMILIES,
    PROXY_FAMILIES,
    T1_FAMILIES,
    draw_processes_plan,
    simpler_plans,
)
from mqcore_conformance.processes._feasible import why_not_in_processes
from mqcore_conformance.processes._lying_disk import run_on_lying_disk, why_no_lying_disk
from mqcore_conformance.processes._run import run_processes
from mqcore_conformance.processes._shrinking import run_until_shown, shrink_processes

__all__ = [
    "CONTROLLED_FAMILIES",
    "PROXY_FAMILIES",
    "T1_FAMILIES",
    "draw_processes_plan",
    "run_on_lying_disk",
    "run_processes",
    "run_until_shown",
    "shrink_processes",
    "simpler_plans",
    "why_no_dirty_pages",
    "why_no_lying_disk",
    "why_not_in_processes",
]
