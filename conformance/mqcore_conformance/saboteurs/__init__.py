"""Saboteurs: parts that each have one real bug, and the cell in which the suite must catch it (``selftest``).

A saboteur that survives means that the suite cannot see its bug: the selftest fails.
"""

from mqcore_conformance.saboteurs._catalogue import INJECTORS, SABOTEURS
from mqcore_conformance.saboteurs._contracts import CONTRACT_SABOTEURS, ContractSaboteur
from mqcore_conformance.saboteurs._model import MMAP, Saboteur, plan_of, plans_of
from mqcore_conformance.saboteurs._records import RECORDERS

__all__ = [
    "CONTRACT_SABOTEURS",
    "INJECTORS",
    "MMAP",
    "RECORDERS",
    "SABOTEURS",
    "ContractSaboteur",
    "Saboteur",
    "plan_of",
    "plans_of",
]
