"""T1: real broker processes over real transports, a proxy, faulty ports; the same clients and checkers as T0."""

from mqcore_conformance.broker_process.pages import why_no_dirty_pages
from mqcore_conformance.worlds.processes._feasible import why_no_eatmydata, why_not_in_processes
from mqcore_conformance.worlds.processes._world import ProcessWorld

__all__ = ["ProcessWorld", "why_no_dirty_pages", "why_no_eatmydata", "why_not_in_processes"]
