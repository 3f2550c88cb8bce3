"""Which claimed levels met the fault that they are claimed against: one that met none is unproved, and said to be.

Knows pieces of a run and how they ended; runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import attrs

from mqcore.abc import Capabilities
from mqcore.guarantees import Level
from mqcore_conformance.contract import part_facts
from mqcore_conformance.plans import CRASH_POINTS
from mqcore_conformance.running._request import CellPiece, Piece, Request

CLAUSE = "G01"
"""The clause that a level is about: what was acknowledged at it is there."""


@attrs.frozen
class _Trial:
    """A fault, the least level that promises something about it, and where a storage meets it."""

    fault: str
    level: Level
    families: frozenset[str]
    checks: frozenset[str]


TRIALS = (
    _Trial(
        "kill",
        Level.PAGE_CACHE,
        frozenset({"kill", "kill-at-call", CRASH_POINTS}),
        frozenset({"claimed_levels_hold_when_the_process_is_killed"}),
    ),
    _Trial(
        "power cut",
        Level.DISK,
        frozenset({"power-cut", CRASH_POINTS}),
        frozenset(
            {"what_was_flushed_is_on_the_disk_and_not_in_the_process", "what_a_flush_returned_is_on_the_disk_at_once"}
        ),
    ),
)


def unproved_levels(request: Request, pieces: Sequence[Piece], has_judged: Callable[[Piece], bool]) -> list[str]:
    """Return a line for each storage and level that no fault of ``request`` met.

    ``has_judged``: whether a piece came to a verdict about ``CLAUSE``. A request that leaves out the clause, the
    cells or the faults on purpose is not asked: its verdict is about what it names. Nor is one about sets: what a
    storage keeps by itself is for cells of a broker that is alone.
    """
    narrowed = request.cells or request.nodes > 1 or (request.clauses and CLAUSE not in request.clauses)
    if narrowed or not {"kill", "power-cut"} <= set(request.families) or set(request.flushes) == {"none"}:
        return []
    return [
        line
        for url in request.storages
        if url not in request.partners
        for line in _unproved(url, [piece for piece in pieces if _storage_of(piece) == url], has_judged)
    ]


def _unproved(url: str, pieces: list[Piece], has_judged: Callable[[Piece], bool]) -> Iterator[str]:
    capabilities = part_facts("storage", url).capabilities
    if not isinstance(capabilities, Capabilities):
        return
    level = max(capabilities.append_level, capabilities.flush_level)
    for trial in TRIALS:
        here = [piece for piece in pieces if _meets(piece, trial, capabilities)]
        if level >= trial.level and not any(map(has_judged, here)):
            tried = [piece.name for piece in here if not getattr(piece, "why", "")]
            seen = f"what ran came to no verdict: {', '.join(tried)}" if tried else "no check or cell that runs has one"
            yield f"{url} claims level {level.label}, and no {trial.fault} has put it to the test; {seen}"


def _storage_of(piece: Piece) -> str:
    return piece.cell.storage if isinstance(piece, CellPiece) else piece.url


def _meets(piece: Piece, trial: _Trial, capabilities: Capabilities) -> bool:
    if isinstance(piece, CellPiece):
        return piece.cell.family in trial.families and piece.cell.flush != "none"
    return piece.check in trial.checks
