"""T0: the real broker on a model disk, a model network and virtual time, from one seed."""

from mqcore_conformance.simulation._run import RunResult, run_plan
from mqcore_conformance.simulation._world import URLS, Sabotage

__all__ = ["URLS", "RunResult", "Sabotage", "run_plan"]
