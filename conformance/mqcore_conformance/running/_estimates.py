"""How long a piece of work takes: measured seconds of each kind, set right for this machine by what was seen of it.

The numbers are processor seconds of one core of a small server, from a report made on an idle one. Runs
nothing but short simulations, and those only when asked to.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from mqcore_conformance.plans import CRASH_POINTS, draw_plan
from mqcore_conformance.play import run_plan
from mqcore_conformance.running._request import CellPiece, Piece

CHECK_S = 0.12
CHECKS_S: Mapping[str, float] = MappingProxyType(
    {
        "a_log_grows_beyond_any_segment": 0.5,
        "a_reader_that_stops_holds_its_writer_up": 0.6,
        "a_thousand_streams_work_at_once": 0.6,
        "any_sequence_of_operations_agrees_with_the_model": 4.0,
        "cancellation_anywhere_leaves_the_transport_usable": 0.3,
        "connect_and_accept_can_be_cancelled": 0.3,
        "limits_hold_where_they_are_stated": 0.3,
        "no_socket_is_left_behind": 0.3,
        "nothing_is_left_behind": 0.3,
    }
)
"""Seconds of the contract checks that take longer than most."""
RUN_S: Mapping[str, float] = MappingProxyType(
    {
        "T0": 0.16,
        "T0/none": 0.12,
        "T0/network": 0.29,
        f"T0/{CRASH_POINTS}": 8.0,
        "T1": 7.0,
    }
)
"""Seconds of one run, by tier and family, or by tier; of all crash points of a plan."""
PIECE_S = 0.03
"""A process is made and collected."""
REFERENCE_S = 0.54
"""Seconds of the runs of ``machine_factor`` where the others were measured."""
REFERENCE_SEEDS = 3


def estimate_s(piece: Piece) -> float:
    """Return how many seconds a piece takes on the machine of the measurements."""
    if not isinstance(piece, CellPiece):
        return PIECE_S + CHECKS_S.get(piece.check, CHECK_S)
    if piece.why:
        return PIECE_S
    kind = f"{piece.cell.tier}/{piece.cell.family}"
    each = RUN_S.get(kind, RUN_S[piece.cell.tier])
    return PIECE_S + each * (1 if piece.cell.family == CRASH_POINTS else len(piece.seeds))


def machine_factor() -> float:
    """Return how much longer a short simulation takes here than where the numbers were measured."""
    plans = [
        draw_plan(seed, storage="mmap://{dir}", transport="inproc", flush="sync", family="none")
        for seed in range(REFERENCE_SEEDS)
    ]
    began = time.perf_counter()
    for plan in plans:
        run_plan(plan)
    return max(0.05, (time.perf_counter() - began) / REFERENCE_S)


@attrs.define
class Pace:
    """How long pieces really took, against what was estimated."""

    estimated_s: float = 1.0
    taken_s: float = 1.0

    def add(self, estimated_s: float, taken_s: float) -> None:
        """Take note of a piece that ended."""
        self.estimated_s += estimated_s
        self.taken_s += taken_s

    def left_s(self, estimated_s: float, jobs: int) -> float:
        """Return how long what was estimated will take at this pace."""
        return estimated_s * self.taken_s / self.estimated_s / jobs
