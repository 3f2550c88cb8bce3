"""Saboteurs: parts that each have one real bug, and the cell in which the suite must catch it (``selftest``).

A saboteur that survives means that the suite cannot see its bug: the selftest fails.
"""

from mqcore_conformance.saboteurs._accepted import ACCEPTED_MUTANTS
from mqcore_conformance.saboteurs._catalogue import INJECTORS, SABOTEURS
from mqcore_conformance.saboteurs._checkers import CHECKER_SABOTEURS, stories_judged_otherwise
from mqcore_conformance.saboteurs._contracts import CONTRACT_SABOTEURS, ContractSaboteur
from mqcore_conformance.saboteurs._model import MMAP, Saboteur, plans_of
from mqcore_conformance.saboteurs._mutants import Mutant, mutants, noticed_by
from mqcore_conformance.saboteurs._records import RECORDERS

__all__ = [
    "ACCEPTED_MUTANTS",
    "CHECKER_SABOTEURS",
    "CONTRACT_SABOTEURS",
    "INJECTORS",
    "MMAP",
    "RECORDERS",
    "SABOTEURS",
    "ContractSaboteur",
    "Mutant",
    "Saboteur",
    "mutants",
    "noticed_by",
    "plans_of",
    "stories_judged_otherwise",
]
