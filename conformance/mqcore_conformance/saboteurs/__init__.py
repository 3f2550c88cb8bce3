"""Saboteurs: parts that each have one real bug, and the cell in which the suite must catch it (``selftest``).

A saboteur that survives means that the suite cannot see its bug: the selftest fails.
"""

from mqcore_conformance.saboteurs._arrays import ARRAYS
from mqcore_conformance.saboteurs._authenticators import AUTHENTICATOR_SABOTEURS
from mqcore_conformance.saboteurs._catalogue import INJECTORS, SABOTEURS
from mqcore_conformance.saboteurs._contracts import REFUSALS, ContractSaboteur
from mqcore_conformance.saboteurs._coordinators import COORDINATOR_SABOTEURS
from mqcore_conformance.saboteurs._model import MMAP, Saboteur, plan_of, plans_of
from mqcore_conformance.saboteurs._parts import PART_SABOTEURS, PartSaboteur
from mqcore_conformance.saboteurs._quic import QUIC_SABOTEURS
from mqcore_conformance.saboteurs._records import RECORDERS

__all__ = [
    "AUTHENTICATOR_SABOTEURS",
    "CONTRACT_SABOTEURS",
    "INJECTORS",
    "MMAP",
    "PART_SABOTEURS",
    "RECORDERS",
    "SABOTEURS",
    "COORDINATOR_SABOTEURS",
    "ContractSaboteur",
    "PartSaboteur",
    "Saboteur",
    "plan_of",
    "plans_of",
]

CONTRACT_SABOTEURS = (*REFUSALS, *COORDINATOR_SABOTEURS, *ARRAYS, *QUIC_SABOTEURS, *AUTHENTICATOR_SABOTEURS)
"""Those that a contract check sees."""
