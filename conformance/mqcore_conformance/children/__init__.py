"""Child processes: what runs there can hang, die, print or leak, and harms nothing but itself."""

from mqcore_conformance.children._child import Outcome, alive, at_most, doing, surveyed
from mqcore_conformance.children._forked import run_apart
from mqcore_conformance.children._interrupts import Interrupt, interrupt_watched
from mqcore_conformance.children._pool import PieceEnded, Ran, run_in_children

__all__ = [
    "PieceEnded",
    "Interrupt",
    "Outcome",
    "Ran",
    "alive",
    "at_most",
    "doing",
    "interrupt_watched",
    "run_apart",
    "run_in_children",
    "surveyed",
]
