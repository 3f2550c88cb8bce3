"""T0: the real broker on a model disk, a model network and virtual time, from one seed. Its clients serve T1 too."""

from mqcore_conformance.simulation._addresses import model_url, why_not_on_the_model_network
from mqcore_conformance.simulation._consumers import Consumer, drain_partition
from mqcore_conformance.simulation._crash_calls import CrashCalls, crash_calls
from mqcore_conformance.simulation._producers import Producer
from mqcore_conformance.simulation._run import RunResult, run_plan
from mqcore_conformance.simulation._session import CallFailed, Session, SessionLost
from mqcore_conformance.simulation._world import Sabotage

__all__ = [
    "CallFailed",
    "Consumer",
    "CrashCalls",
    "Producer",
    "RunResult",
    "Sabotage",
    "Session",
    "SessionLost",
    "crash_calls",
    "drain_partition",
    "model_url",
    "run_plan",
    "why_not_on_the_model_network",
]
