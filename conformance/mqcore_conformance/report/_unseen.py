"""What a report could not have caught: cells and checks that did not run or met nothing, clauses that were not judged.

Made from records alone, as sentences; a page makes a list of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.report._not_built import NOT_BUILT
from mqcore_conformance.report._records import Record

NAMES_MAX = 4
SEEDS_ENOUGH = 20
"""Some planted bugs show first at a seed between 5 and 18."""
_JUDGED = frozenset({"PASS", "FAIL", "LIVENESS", "XFAIL", "XPASS"})


@attrs.frozen
class Unseen:
    """One sentence, and the names of the records that it is about."""

    text: str
    names: tuple[str, ...] = ()


def unseen(records: Sequence[Record]) -> list[Unseen]:
    """Return what ``records`` could not have caught, the gravest first."""
    cells = [record for record in records if record["kind"] in ("cell", "part")]
    checks = [record for record in records if record["kind"] == "check"]
    found = [*_not_met(cells), *_not_run([*cells, *checks])]
    judged = {clause for cell in cells for clause, status in cell["clauses"].items() if status in _JUDGED}
    judged |= {check["clause"] for check in checks if check["status"] in _JUDGED}
    if left := [clause for clause in CHECKERS if clause not in judged]:
        found.append(Unseen(f"No cell and no check had anything to judge for {', '.join(left)}."))
    few = [cell for cell in cells if cell["tier"] == "T0" and 0 < len(cell["seeds"]) < SEEDS_ENOUGH]
    if few:
        least = min(len(cell["seeds"]) for cell in few)
        found.append(
            Unseen(
                f"{len(few)} simulated cells tried {least} {'seed' if least == 1 else 'seeds'} or a few more: bugs "
                f"that need a rare order of events show from some {SEEDS_ENOUGH} seeds on (--seeds {SEEDS_ENOUGH})."
            )
        )
    tiers = {cell["tier"] for cell in cells if cell["runs"]}
    if "T1" not in tiers:
        found.append(Unseen("No real broker process ran (--tier T1): what only real files and sockets show is unseen."))
    if "T0" not in tiers:
        found.append(Unseen("Nothing was simulated (T0): power cuts that take single sectors and directory entries."))
    later = "; ".join(one.what for one in NOT_BUILT)
    return [*found, Unseen(f"The suite has no cells yet for: {later}.")]


def _not_met(cells: Iterable[Record]) -> Iterator[Unseen]:
    names = tuple(cell["name"] for cell in cells if cell["status"] == "INCONCLUSIVE")
    if names:
        yield Unseen("The fault of these cells found nothing that it could take, so that nothing is proved:", names)


def _not_run(records: Iterable[Record]) -> Iterator[Unseen]:
    by_reason: dict[str, list[str]] = {}
    for record in records:
        if record["status"] == "NOT RUN":
            reason = record.get("reason") or record.get("text") or "no reason is recorded"
            by_reason.setdefault(reason, []).append(record["name"])
    for reason, names in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        yield Unseen(f"Not run, {reason}:", tuple(names))


def judged_of(cell: Record) -> tuple[int, int]:
    """Return how many clauses of a cell were judged, of how many that the suite can judge."""
    clauses = cell["clauses"]
    return sum(clauses.get(clause) in _JUDGED for clause in CHECKERS), len(CHECKERS)
