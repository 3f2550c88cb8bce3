"""Contract checks: each storage and each transport alone, in seconds, before any tier."""

from mqcore_conformance.contract import _authenticator as _authenticator
from mqcore_conformance.contract import _authenticator_beside as _authenticator_beside
from mqcore_conformance.contract import _coordinator as _coordinator
from mqcore_conformance.contract import _coordinator_leases as _coordinator_leases
from mqcore_conformance.contract import _coordinator_servers as _coordinator_servers
from mqcore_conformance.contract import _offset_store as _offset_store
from mqcore_conformance.contract import _offset_store_servers as _offset_store_servers
from mqcore_conformance.contract import _storage as _storage
from mqcore_conformance.contract import _storage_arrays as _storage_arrays
from mqcore_conformance.contract import _storage_begun as _storage_begun
from mqcore_conformance.contract import _storage_claims as _storage_claims
from mqcore_conformance.contract import _storage_elsewhere as _storage_elsewhere
from mqcore_conformance.contract import _storage_faults as _storage_faults
from mqcore_conformance.contract import _transport as _transport
from mqcore_conformance.contract import _transport_claims as _transport_claims
from mqcore_conformance.contract import _transport_ends as _transport_ends
from mqcore_conformance.contract import _transport_timing as _transport_timing
from mqcore_conformance.contract._checks import (
    CHECKS,
    Check,
    CheckFailed,
    CheckResult,
    NotApplicable,
    checks_of,
    run_check,
)
from mqcore_conformance.contract._coordinator_harness import CoordinatorHarness
from mqcore_conformance.contract._login_control import LoginControl, login_control_of
from mqcore_conformance.contract._parts import PartFacts, part_facts
from mqcore_conformance.contract._repro import (
    CHECK_FILE,
    check_part,
    explain_check,
    load_check_repro,
    replay_check,
    replay_command,
    write_check_repro,
)
from mqcore_conformance.contract._server_control import ServerControl, use_server
from mqcore_conformance.contract._storage import StorageHarness

__all__ = [
    "CHECKS",
    "CHECK_FILE",
    "Check",
    "CheckFailed",
    "CheckResult",
    "CoordinatorHarness",
    "LoginControl",
    "NotApplicable",
    "PartFacts",
    "ServerControl",
    "StorageHarness",
    "check_part",
    "checks_of",
    "explain_check",
    "load_check_repro",
    "login_control_of",
    "part_facts",
    "replay_check",
    "replay_command",
    "run_check",
    "use_server",
    "write_check_repro",
]
