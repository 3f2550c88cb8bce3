"""What the producer table says of a batch that arrives (rule R12). Pure.

Not named tuples: those of two kinds that have the same in them are equal, "append it" and "never append it" included.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import attrs

__all__ = [
    "ACCEPT",
    "Accept",
    "Conflict",
    "Duplicate",
    "Fenced",
    "Forgotten",
    "Gap",
    "GivenUp",
    "SentBefore",
    "TableFull",
    "TooOld",
    "Verdict",
]


@attrs.frozen
class Accept:
    """The batch is new and next in order (or not idempotent at all): append it."""


@attrs.frozen
class Duplicate:
    """The batch is in the log already, from ``base_offset`` to before ``end_offset``: answer with those."""

    base_offset: int
    end_offset: int


@attrs.frozen
class GivenUp:
    """The batch was in the log, at ``base_offset``, rotted on every node, and was given up: whether it comes back with
    a node that is away is unknown, and so is its outcome (G01, G15)."""

    base_offset: int


@attrs.frozen
class Gap:
    """The batch comes too early: ``expected_sequence`` is the next one of this producer in this log.

    Either an earlier batch was rejected, or a permitted loss cut acknowledged ones (``lost_from`` of R12).
    """

    expected_sequence: int


@attrs.frozen
class TooOld:
    """The batch precedes the batches that are kept, from ``oldest_sequence`` on: whether it was appended is unknown."""

    oldest_sequence: int


@attrs.frozen
class Forgotten:
    """Nothing is kept of this producer, which is no new one: its state may have expired, or it has ended."""


@attrs.frozen
class Fenced:
    """The producer went on under ``producer_epoch``, which is newer than the batch's."""

    producer_epoch: int


@attrs.frozen
class Conflict:
    """The sequences belong to another batch, at ``base_offset``: other content or bounds, a defect of the client."""

    base_offset: int


@attrs.frozen
class TableFull:
    """No room for a further producer: ``producers_max`` others are within ``producer_retention_ms``."""

    producers_max: int


Verdict: TypeAlias = Accept | Duplicate | GivenUp | Gap | TooOld | Forgotten | Fenced | Conflict | TableFull

ACCEPT = Accept()


class SentBefore(NamedTuple):
    """What a log has of a producer: its epoch there, and where its last batch ends.

    ``is_sure``: whether that is its last batch, and there: what has rotted behind it may have been another one.
    """

    producer_epoch: int
    end_offset: int
    is_sure: bool
