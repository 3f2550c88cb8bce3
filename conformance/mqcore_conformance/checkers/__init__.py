"""Checkers: one pure function per clause, over a recorded history; each linear in its length.

(Epoch, offset) gives a total order, so no search over linearizations is needed. A checker knows the clause and the
history, nothing of who recorded it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from mqcore_conformance.checkers._consumers import check_g06, check_g08
from mqcore_conformance.checkers._content import check_g04, check_g05, check_g07, check_g15
from mqcore_conformance.checkers._facts import Facts
from mqcore_conformance.checkers._flushes import check_g11, check_g12, check_g14
from mqcore_conformance.checkers._kept import check_g16
from mqcore_conformance.checkers._loss import bounds_of, check_g01, check_g02, check_g03, is_voided
from mqcore_conformance.checkers._observed import check_g13, check_g17, check_g18, check_g20
from mqcore_conformance.checkers._replicas import check_g19
from mqcore_conformance.checkers._sets import check_g09, check_g10
from mqcore_conformance.histories import Event
from mqcore_conformance.verdicts import Violation

__all__ = ["CHECKERS", "Facts", "bounds_of", "check_history", "is_voided"]

Checker = Callable[[Facts], Iterator[Violation]]

CHECKERS: Mapping[str, Checker] = MappingProxyType(
    {
        "G01": check_g01,
        "G02": check_g02,
        "G03": check_g03,
        "G04": check_g04,
        "G05": check_g05,
        "G06": check_g06,
        "G07": check_g07,
        "G08": check_g08,
        "G09": check_g09,
        "G10": check_g10,
        "G11": check_g11,
        "G12": check_g12,
        "G13": check_g13,
        "G14": check_g14,
        "G15": check_g15,
        "G16": check_g16,
        "G17": check_g17,
        "G18": check_g18,
        "G19": check_g19,
        "G20": check_g20,
    }
)
"""Checkers by clause."""


def check_history(history: Sequence[Event], clauses: Iterable[str] = ()) -> list[Violation]:
    """Return every violation of ``clauses`` (all that have a checker when empty) in ``history``."""
    facts = Facts(history)
    return [violation for clause in (clauses or CHECKERS) for violation in _of(clause, facts)]


def _of(clause: str, facts: Facts) -> Iterator[Violation]:
    return CHECKERS[clause](facts) if clause in CHECKERS else iter(())
