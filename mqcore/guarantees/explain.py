"""What a build promises, as text and as plain values: the page that ``mqcore explain`` prints."""

from __future__ import annotations

import textwrap

import attrs

from mqcore.guarantees.build import Build, resolve_flush
from mqcore.guarantees.policies import NoReplication
from mqcore.guarantees.promises import PromiseTable, promise_tables
from mqcore.guarantees.refusals import Refusal, check_available, check_build

__all__ = ["ASSUMPTIONS", "Explanation", "explain"]

ASSUMPTIONS = (
    "a successful flush is on stable media",
    "nodes do not lie",
    "one fault of a kind at a time: the next counts once the node, the set or the array is whole again",
)
_REPLICATED_ASSUMPTIONS = (
    "clock rates differ by at most clock_drift_max",
    "a coordinator's record is linearizable and never goes back",
)


@attrs.frozen(kw_only=True)
class Explanation:
    """Everything that can be said of a build before its first message.

    ``refusals``: why it does not start; ``unavailable``: what it asks for that this version does not offer yet.
    """

    storage: str
    flush_sentence: str
    tables: tuple[PromiseTable, ...]
    refusals: tuple[Refusal, ...]
    unavailable: tuple[Refusal, ...]
    assumptions: tuple[str, ...]

    @property
    def starts(self) -> bool:
        """Whether a broker of this build starts."""
        return not self.refusals and not self.unavailable

    def as_json(self) -> dict[str, object]:
        """Return the explanation as plain values."""
        return {
            "storage": self.storage,
            "starts": self.starts,
            "flush": self.flush_sentence,
            "tables": [table.as_json() for table in self.tables],
            "refusals": [refusal.as_json() for refusal in (*self.refusals, *self.unavailable)],
            "assumptions": list(self.assumptions),
        }

    def lines(self, width: int = 100) -> list[str]:
        """Return the explanation as lines of at most ``width`` characters (60 at least)."""
        width = max(width, 60)
        lines = _wrap(f"storage {self.storage}; {self.flush_sentence}", width)
        for table in self.tables:
            lines += ["", *_wrap(table.title, width), *table_lines(table, width)]
        if self.tables:
            lines += ["", *_wrap("Assumed: " + "; ".join(self.assumptions) + ".", width)]
        for refusal in (*self.refusals, *self.unavailable):
            lines += _wrap(f"refused: {refusal}", width, "  ")
        return lines


def explain(build: Build) -> Explanation:
    """Return what ``build`` promises and why it may not start."""
    refusals = tuple(check_build(build))
    alone = isinstance(build.replication, NoReplication)
    impossible = any(refusal.name != "survive-not-met" for refusal in refusals)
    return Explanation(
        storage=build.storage,
        flush_sentence=resolve_flush(build.flush, build.flush_level)[1],
        # a policy that cannot be had promises nothing that could be printed
        tables=() if impossible else promise_tables(build),
        refusals=refusals,
        unavailable=tuple(check_available(build)),
        assumptions=ASSUMPTIONS if alone else ASSUMPTIONS + _REPLICATED_ASSUMPTIONS,
    )


def table_lines(table: PromiseTable, width: int) -> list[str]:
    """Return the rows of ``table`` as three aligned columns: fault, what may be lost, why."""
    fault_width = max(len(row.fault.label) for row in table.promises)
    rest = width - fault_width - 4
    promise_width = min(max(len("may be lost"), *(len(row.text) for row in table.promises)), rest * 2 // 5)
    widths = (fault_width, promise_width, rest - promise_width)
    lines = _row(("fault", "may be lost", "because"), widths)
    lines.append("-" * width)
    for row in table.promises:
        lines += _row((row.fault.label, row.text, row.reason), widths)
    return lines


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    """Wrap without cutting names such as ``page-cache`` in two."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False)


def _row(cells: tuple[str, str, str], widths: tuple[int, int, int]) -> list[str]:
    columns = [_wrap(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    height = max(len(column) for column in columns)
    padded = [column + [""] * (height - len(column)) for column in columns]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*padded, strict=True)
    ]
