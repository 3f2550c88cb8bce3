"""Contract checks: each storage and each transport alone, in seconds, before any tier."""

from mqcore_conformance.contract import _storage as _storage
from mqcore_conformance.contract import _transport as _transport
from mqcore_conformance.contract._checks import (
    CHECKS,
    Check,
    CheckFailed,
    CheckResult,
    NotApplicable,
    checks_of,
    run_check,
)
from mqcore_conformance.contract._storage import StorageHarness
from mqcore_conformance.contract._transport import TransportHarness

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailed",
    "CheckResult",
    "NotApplicable",
    "StorageHarness",
    "TransportHarness",
    "checks_of",
    "run_check",
]
