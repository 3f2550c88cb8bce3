"""How two copies of one log find where they part, and go on from there (rules R4, R5). Pure.

The primary judges each report by its own history; a replica whose last batch is not in it cuts and reports again, one
reign further back each time, until the histories meet. A report that was not judged counts for nothing. Must not know
of streams, files or members.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from mqcore.log import EpochEntry

__all__ = ["Counts", "Held", "PartsAt", "cut_of_divergence", "judge_report"]

_NO_REIGN = bytes(16)


class Held(NamedTuple):
    """What a replica reports of one log: the reign and position of its last batch, and its end; zeros if empty."""

    epoch: int
    reign_id: bytes
    position: int
    end: int


class Counts(NamedTuple):
    """The last batch is in the primary's history: what is below ``end`` is the same on both."""

    end: int


class PartsAt(NamedTuple):
    """It is not. Of reigns up to the reported one, the primary has ``epoch`` last, up to ``position``."""

    epoch: int
    position: int


Judgement: TypeAlias = Counts | PartsAt


def judge_report(history: Sequence[EpochEntry], start: int, end: int, held: Held) -> Judgement:
    """Judge a report by the primary's ``history``, oldest reign first, of a log from ``start`` to ``end``.

    It counts only if the reign of its last batch, number and id, is in the history, and the batch lies where that reign
    wrote. The caller still has to see that a batch begins there: history alone does not say so.
    """
    if not held.epoch:
        # An empty copy is the beginning of every log, of one that was trimmed too: it has to be told the start.
        return Counts(start) if held.end == start else PartsAt(0, start)
    for place in range(len(history) - 1, -1, -1):
        entry = history[place]
        if entry.number > held.epoch:
            continue
        span_end = history[place + 1].start_position if place + 1 < len(history) else end
        if entry.number < held.epoch:
            return PartsAt(entry.number, span_end)
        # A reign of the same number under another id is another one, where people promote by hand; and an unknown id
        # proves nothing. Both copies then go back to before it.
        if entry.reign_id != held.reign_id or entry.reign_id == _NO_REIGN or held.position < entry.start_position:
            continue
        return Counts(held.end) if held.end <= span_end else PartsAt(entry.number, span_end)
    return PartsAt(0, start)


def cut_of_divergence(history: Sequence[EpochEntry], end: int, parts: PartsAt) -> int:
    """Return the position at which the replica cuts its own log, which ends at ``end``, before it reports again.

    ``history``: its own, oldest reign first. Always below ``end``, so that the walk ends. Raises ``ValueError`` for an
    answer that would cut nothing: the primary contradicts itself.
    """
    cut = 0
    for place in range(len(history) - 1, -1, -1):
        entry = history[place]
        if entry.number <= parts.epoch:
            span_end = history[place + 1].start_position if place + 1 < len(history) else end
            cut = min(span_end, parts.position) if entry.number == parts.epoch else span_end
            break
    if cut >= end:
        raise ValueError(f"told to part at {parts.position} of epoch {parts.epoch}, where this log, to {end}, agrees")
    return cut
