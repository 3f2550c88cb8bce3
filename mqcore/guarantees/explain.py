"""What a build promises, as text and as plain values: the page that ``mqcore explain`` prints."""

from __future__ import annotations

import textwrap

import attrs

from mqcore.guarantees.build import Build, least_level, resolve_flush
from mqcore.guarantees.faults import Fault
from mqcore.guarantees.levels import Level
from mqcore.guarantees.policies import NoReplication, SyncReplication
from mqcore.guarantees.policy_text import format_replication
from mqcore.guarantees.promises import PromiseTable, promise_tables
from mqcore.guarantees.refusals import Refusal, check_available, check_build

__all__ = ["ASSUMPTIONS", "COORDINATED_ASSUMPTIONS", "Explanation", "explain"]

ARRAY_BELOW = "the array below keeps two copies of what was flushed, as storage.array declares"
ASSUMPTIONS = (
    "a successful flush is on stable media",
    "nodes do not lie",
    "one fault of a kind at a time: the next counts once the node, the set or the array is whole again",
)
COORDINATED_ASSUMPTIONS = (
    "clock rates differ by at most clock_drift_ppm_max",
    "a coordinator's record is linearizable and never goes back",
)


@attrs.frozen(kw_only=True)
class Explanation:
    """Everything that can be said of a build before its first message.

    ``refusals``: why it does not start; ``unavailable``: what it asks for that takes nodes which it does not name.
    ``notes``: what holds of the whole set and stands in no table. ``warnings``: what below the storage speaks against
    it.
    """

    storage: str
    flush_sentence: str
    tables: tuple[PromiseTable, ...]
    refusals: tuple[Refusal, ...]
    unavailable: tuple[Refusal, ...]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

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
            "notes": list(self.notes),
            "warnings": list(self.warnings),
        }

    def lines(self, width: int = 100) -> list[str]:
        """Return the explanation as lines of at most ``width`` characters (60 at least)."""
        width = max(width, 60)
        lines = _wrap(f"storage {self.storage}; {self.flush_sentence}", width)
        for table in self.tables:
            lines += ["", *_wrap(table.title, width), *table_lines(table, width)]
        for note in self.notes:
            is_item = note.startswith("- ")
            lines += [*([] if is_item else [""]), *_wrap(note, width, "  " if is_item else "")]
        for warning in self.warnings:
            lines += ["", *_wrap(f"mind: {warning}", width, "  ")]
        if self.tables:
            lines += ["", *_wrap("Assumed: " + "; ".join(self.assumptions) + ".", width)]
        for refusal in (*self.refusals, *self.unavailable):
            lines += _wrap(f"refused: {refusal}", width, "  ")
        return lines


def explain(build: Build) -> Explanation:
    """Return what ``build`` promises and why it may not start."""
    refusals = tuple(check_build(build))
    impossible = any(refusal.name != "survive-not-met" for refusal in refusals)
    return Explanation(
        storage=build.storage,
        flush_sentence=resolve_flush(build.flush, build.flush_level)[1],
        # a policy that cannot be had promises nothing that could be printed
        tables=() if impossible else promise_tables(build),
        refusals=refusals,
        unavailable=tuple(check_available(build)),
        assumptions=(
            *ASSUMPTIONS,
            *(COORDINATED_ASSUMPTIONS if build.coordinator else ()),
            *((ARRAY_BELOW,) if build.array_below else ()),
        ),
        notes=() if impossible else tuple(_notes(build)),
    )


def _notes(build: Build) -> list[str]:
    """Say what a lost member and a change of primary mean in ``build``, as far as its tables do not."""
    return _notes_on_degraded(build) + _notes_on_nodes(build)


def _notes_on_degraded(build: Build) -> list[str]:
    """Say what is still acknowledged while a mirror is down to one member (docs/decisions/0020)."""
    if build.flush_level is not Level.MIRROR:
        return []
    policies = {format_replication(policy): least_level(build, policy) for policy in build.replications}
    waits = [text for text, level in policies.items() if level > Level.NONE]
    goes_on = [text for text, level in policies.items() if level is Level.NONE]
    said = f"on_degraded={build.on_degraded}" if build.on_degraded else "on_degraded is not said"
    notes = [f"While the mirror is down to one member ({said}):"]
    if waits:
        which = "" if not goes_on else f" under replication {' and '.join(waits)}"
        notes.append(f"sends{which} are refused and nothing is acknowledged until it is whole again, reads go on.")
    if goes_on:
        which = "" if not waits else f" under replication {' and '.join(goes_on)}"
        notes.append(f"sends{which} go on, and receipts state level disk for this node.")
    if Fault.DISK_LOSS in build.survive and build.on_degraded == "continue":
        notes.append("So what is acknowledged then does not survive the loss of that disk: the URL says it may not.")
    return [" ".join(notes)]


def _notes_on_nodes(build: Build) -> list[str]:
    if build.node_count < 2:
        return []
    weak = [policy for policy in build.replications if not isinstance(policy, SyncReplication)]
    which = " and ".join(sorted({"none" if isinstance(policy, NoReplication) else "async" for policy in weak}))
    notes = [
        f"{build.node_count} nodes. "
        + (
            "Failover is automatic: a member of the in-sync set takes over once the lease of the primary has run out."
            if build.failover == "automatic"
            else "Failover is by hand: `mqcore cluster promote`."
        )
    ]
    if weak and build.coordinator:
        notes.append(
            f"Under {which} an old primary gives no reply later than lease_ms, less the margin for the clocks, after "
            "it sent its last successful renewal (G09). What it acknowledged until then and no replica has is lost by "
            "the change; it is kept aside and reported when that node returns."
        )
    elif weak:
        notes.append(
            f"There is no lease: what an old primary that still runs acknowledges under {which} after another node was "
            "promoted is lost without bound (R16). Stop it before promoting."
        )
    return notes


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
