"""How lives of a broker ended, in words. What was done to it, and what it did by itself, are kept apart.

Judges nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mqcore.guarantees import Fault
from mqcore_conformance.histories import Event, FaultInjected, NodeLife, Started

_WORDS = {"process-kill": Fault.PROCESS_KILL.label, "power-cut": Fault.NODE_POWER_CUT.label, "stop": "stop"}
_EXIT, _START = "exit by itself", "start that failed"
_PLURALS = {_EXIT: "exits by itself", _START: "starts that failed"}


def described_endings(history: Sequence[Event], by: NodeLife) -> str:
    """Return what ended this life and the later ones of its node, such as ``node-power-cut, 61 starts that failed``."""
    started = {event.by for event in history if isinstance(event, Started)}
    words = []
    for event in history:
        if isinstance(event, FaultInjected) and event.node == by.node and event.life >= by.life:
            by_itself = _EXIT if event.by in started else _START
            words.append(by_itself if event.kind == "exit" else _WORDS.get(event.kind, ""))
    described = [_counted(word, len(list(alike))) for word, alike in itertools.groupby(filter(None, words))]
    return ", ".join(described) or "no fault"


def _counted(word: str, number: int) -> str:
    if number == 1:
        return word
    return f"{number} {_PLURALS[word]}" if word in _PLURALS else f"{number} x {word}"
