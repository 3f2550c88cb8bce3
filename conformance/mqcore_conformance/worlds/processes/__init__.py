"""T1: real broker processes over real transports, a proxy, faulty ports; the same clients and checkers as T0."""

from mqcore_conformance.broker_process.pages import why_no_dirty_pages
from mqcore_conformance.worlds.processes._feasible import why_no_eatmydata, why_not_a_set, why_not_in_processes
from mqcore_conformance.worlds.processes._image import cut_power
from mqcore_conformance.worlds.processes._set import SetWorld
from mqcore_conformance.worlds.processes._set_coordinator import SERVERS as SET_COORDINATORS
from mqcore_conformance.worlds.processes._world import ProcessWorld

__all__ = [
    "SET_COORDINATORS",
    "ProcessWorld",
    "SetWorld",
    "cut_power",
    "why_no_dirty_pages",
    "why_no_eatmydata",
    "why_not_a_set",
    "why_not_in_processes",
]
