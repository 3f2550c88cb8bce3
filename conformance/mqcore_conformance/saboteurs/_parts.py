"""Saboteurs that are whole parts: liars made of the worked examples, which never go through the ports.

Each must be caught as its author would catch it: by a check of the contract, or by a cell of real processes, at the
settings that a run has where none are given.
"""

from __future__ import annotations

from typing import Any

import attrs

from mqcore_conformance.cells import Cell
from mqcore_conformance.examples.framed_transport import FramedTransport
from mqcore_conformance.examples.sqlite_storage import SqliteStorage
from mqcore_conformance.saboteurs import _framed_liars as framed
from mqcore_conformance.saboteurs import _sqlite_liars as sqlite

__all__ = ["PART_SABOTEURS", "PartSaboteur"]

_MODEL = "any_sequence_of_operations_agrees_with_the_model"
_FLUSH = "what_a_flush_returned_is_on_the_disk_at_once"


@attrs.frozen(kw_only=True)
class PartSaboteur:
    """One liar: ``part`` breaks ``clause``, as a check of the contract or a cell (flush and family) of T1 has to show.

    The honest part, ``honest``, has to pass the same.
    """

    name: str
    part: type[Any]
    clause: str
    check: str = ""
    flush: str = ""
    family: str = ""

    @property
    def is_storage(self) -> bool:
        """Whether it is a storage, else a transport."""
        return issubclass(self.part, SqliteStorage)

    @property
    def honest(self) -> type[Any]:
        """The part that it was made of."""
        return SqliteStorage if self.is_storage else FramedTransport

    @property
    def bug(self) -> str:
        """What is planted, in words."""
        text = (self.part.__doc__ or "").strip().rstrip(".")
        return text[:1].lower() + text[1:]

    @property
    def group(self) -> str:
        """The registry's group of it."""
        return "storage" if self.is_storage else "transports"

    @property
    def scheme(self) -> str:
        """What it is registered as while it runs."""
        return "sqlite" if self.is_storage else "framed"

    @property
    def url(self) -> str:
        """Where it is."""
        return "sqlite://{dir}" if self.is_storage else "framed://127.0.0.1:0"

    @property
    def cell(self) -> Cell:
        """The cell of T1 in which it has to be caught."""
        return Cell(tier="T1", storage=self.url, transport="tcp", flush=self.flush, family=self.family)

    @property
    def place(self) -> str:
        """Where it has to be caught, in words."""
        return f"contract/{self.scheme}/{self.check}" if self.check else self.cell.name


PART_SABOTEURS: tuple[PartSaboteur, ...] = (
    PartSaboteur(
        name="sqlite-never-flushes", part=sqlite.UnsynchronisedSqlite, clause="G01", flush="sync", family="power-cut"
    ),
    PartSaboteur(name="sqlite-answers-early", part=sqlite.EarlySqlite, clause="G01", flush="sync", family="kill"),
    PartSaboteur(
        name="sqlite-swallows-errors",
        part=sqlite.SwallowingSqlite,
        clause="G11",
        check="a_flush_that_fails_is_told_and_final",
    ),
    PartSaboteur(
        name="sqlite-leaves-a-hole",
        part=sqlite.HoleSqlite,
        clause="G11",
        check="a_flush_that_fails_is_told_and_final",
    ),
    PartSaboteur(name="sqlite-late-ends", part=sqlite.LateEndsSqlite, clause="G01", check=_FLUSH),
    PartSaboteur(name="sqlite-zeros", part=sqlite.ZerosSqlite, clause="G12", check="a_read_that_fails_is_told"),
    PartSaboteur(name="sqlite-hopeful-end", part=sqlite.HopefulSqlite, clause="G01", check=_FLUSH),
    PartSaboteur(name="sqlite-first-log-only", part=sqlite.FirstOnlySqlite, clause="G01", check=_FLUSH),
    PartSaboteur(name="sqlite-trim-forgotten", part=sqlite.ForgottenTrimSqlite, clause="G01", check=_MODEL),
    PartSaboteur(
        name="framed-drops-the-end",
        part=framed.HoldingTransport,
        clause="G04",
        check="a_large_write_closed_in_order_arrives_whole",
    ),
    PartSaboteur(
        name="framed-overtakes",
        part=framed.OvertakingTransport,
        clause="G05",
        check="many_small_writes_keep_their_order",
    ),
    PartSaboteur(
        name="framed-loses-a-header",
        part=framed.ForgettingTransport,
        clause="G04",
        check="bytes_that_come_one_by_one_are_kept_by_cancelled_receives",
    ),
    PartSaboteur(
        name="framed-stays-open",
        part=framed.OpenTransport,
        clause="G04",
        check="a_send_cut_at_any_step_tears_the_stream_down",
    ),
    PartSaboteur(
        name="framed-flips-bits",
        part=framed.FlippingTransport,
        clause="G05",
        check="bytes_arrive_in_order_and_unchanged",
    ),
)
"""Saboteurs of whole parts."""
