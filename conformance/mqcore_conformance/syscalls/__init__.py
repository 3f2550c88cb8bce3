"""Faults below a part that does its own I/O: its process hands chosen system calls to the suite, which decides on each.

Linux only, no privilege, no tool: the kernel's seccomp user notification. Must not know of brokers or of clauses.
"""

from mqcore_conformance.broker_process.diverting import CALLS, READS, divert_to
from mqcore_conformance.syscalls._diverted import CallListener, DivertedCall, why_not_diverted
from mqcore_conformance.syscalls._files import FAIL_FLUSHES, FAIL_READS, DivertedFiles

__all__ = [
    "CALLS",
    "FAIL_FLUSHES",
    "FAIL_READS",
    "READS",
    "CallListener",
    "DivertedCall",
    "DivertedFiles",
    "divert_to",
    "why_not_diverted",
]
