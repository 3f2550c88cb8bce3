"""A run: what is asked for, the pieces of work that follow from it, and how they are done and recorded."""

from mqcore_conformance.running._estimates import Pace, estimate_s, machine_factor
from mqcore_conformance.running._levels import unproved_levels
from mqcore_conformance.running._repeating import why_not_repeatable, without_proof
from mqcore_conformance.running._request import (
    TIERS,
    CellPiece,
    Piece,
    Request,
    pieces_of,
    plan_cells,
    tiers_of,
)
from mqcore_conformance.running._resolve import (
    AUTHENTICATORS,
    COORDINATORS,
    OFFSET_STORES,
    STORAGES,
    TRANSPORTS,
    resolve_authenticator,
    resolve_coordinator,
    resolve_offset_store,
    resolve_storage,
    resolve_transport,
    suggest,
)
from mqcore_conformance.running._runner import Ending, RunWatcher, run_request

__all__ = [
    "COORDINATORS",
    "AUTHENTICATORS",
    "OFFSET_STORES",
    "STORAGES",
    "TIERS",
    "TRANSPORTS",
    "CellPiece",
    "Ending",
    "Pace",
    "Piece",
    "Request",
    "RunWatcher",
    "estimate_s",
    "machine_factor",
    "pieces_of",
    "plan_cells",
    "resolve_coordinator",
    "resolve_authenticator",
    "resolve_offset_store",
    "resolve_storage",
    "resolve_transport",
    "run_request",
    "suggest",
    "tiers_of",
    "unproved_levels",
    "why_not_repeatable",
    "without_proof",
]
