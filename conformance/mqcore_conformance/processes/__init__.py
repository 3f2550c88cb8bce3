"""T1: real broker processes over TCP and Unix sockets, killed and stopped by signals, judged by the same checkers."""

from mqcore_conformance.processes._run import T1_FAMILIES, run_processes

__all__ = ["T1_FAMILIES", "run_processes"]
