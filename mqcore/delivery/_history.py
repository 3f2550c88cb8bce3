"""What a dead letter says of itself, in headers beside those that the message had; and what settles one.

A dead-letter topic is a topic like any other. A dead letter keeps value, key and headers of the message. One that was
replayed or deleted is settled by a later message that names its offset: a log has no other way to take something back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import attrs

__all__ = [
    "DEAD_LETTER_SUFFIX",
    "HandlingFailure",
    "Origin",
    "history_of",
    "history_pairs",
    "original_pairs",
    "settled_by",
    "settled_pairs",
]

DEAD_LETTER_SUFFIX = ".dead-letter"
"""What the name of a topic's dead-letter topic ends with where no other name is given."""
ERROR_BYTES_MAX = 1_000
"""Longest text of an error that a dead letter carries; a longer one is cut."""

_PREFIX = "mqcore-dead-letter-"
_SETTLED = "mqcore-dead-letter-settles"
Pairs = tuple[tuple[str, bytes], ...]
Settlement = Literal["replayed", "deleted"]


@attrs.frozen(kw_only=True)
class Origin:
    """Where a message was read. ``group``: of the consumer, empty for one without."""

    topic: str
    partition: int
    offset: int
    epoch: int
    group: str = ""


@attrs.frozen(kw_only=True)
class HandlingFailure:
    """How handling a message failed: how often, when (ms since 1970 UTC), and with which error the last time."""

    attempts: int
    first_ms: int
    last_ms: int
    error: str


def history_pairs(origin: Origin, failure: HandlingFailure) -> Pairs:
    """Return the headers that a dead letter has besides those of the message."""
    error = failure.error.encode("utf-8", "replace")[:ERROR_BYTES_MAX].decode("utf-8", "ignore")
    fields = {**attrs.asdict(origin), **attrs.asdict(failure), "error": error}
    return tuple((_PREFIX + name.replace("_", "-"), str(value).encode()) for name, value in fields.items())


def original_pairs(pairs: Iterable[tuple[str, bytes]]) -> Pairs:
    """Return the headers that the message had before it was a dead letter."""
    return tuple(pair for pair in pairs if not pair[0].startswith(_PREFIX))


def history_of(pairs: Iterable[tuple[str, bytes]]) -> tuple[Origin, HandlingFailure] | None:
    """Return what a dead letter's headers say; None for a message that is none, or whose headers are not as written."""
    found = {name.removeprefix(_PREFIX).replace("-", "_"): value for name, value in pairs if name.startswith(_PREFIX)}
    try:
        texts = {name: value.decode() for name, value in found.items()}
        return Origin(
            topic=texts["topic"],
            partition=_number(texts["partition"]),
            offset=_number(texts["offset"]),
            epoch=_number(texts["epoch"]),
            group=texts["group"],
        ), HandlingFailure(
            attempts=_number(texts["attempts"]),
            first_ms=_number(texts["first_ms"]),
            last_ms=_number(texts["last_ms"]),
            error=texts["error"],
        )
    except (KeyError, ValueError):
        return None


def settled_pairs(offset: int, how: Settlement) -> Pairs:
    """Return the headers of a message that settles the dead letter at ``offset`` of the same partition."""
    return ((_SETTLED, f"{offset} {how}".encode()),)


def settled_by(pairs: Iterable[tuple[str, bytes]]) -> tuple[int, str] | None:
    """Return which offset a message settles, and how; None for any other message."""
    for name, value in pairs:
        if name == _SETTLED:
            offset, _, how = value.decode("ascii", "replace").partition(" ")
            if offset.isascii() and offset.isdigit() and len(offset) <= 20 and how in ("replayed", "deleted"):
                return int(offset), how
    return None


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        raise ValueError(f"{text[:30]!r} is no number")
    return int(text)
