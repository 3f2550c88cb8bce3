"""``--from``: start, end, an offset, or a time, absolute or so long ago."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from mqcore.errors import ConfigurationError
from mqcore.units import parse_duration_ms

__all__ = ["Start", "parse_start"]

OFFSET_MAX = 2**64 - 1
"""Largest offset that the wire carries."""

Start: TypeAlias = Literal["start", "end"] | int | datetime
"""Where to begin reading."""


def parse_start(text: str, now: datetime, *, option: str = "--from") -> Start:
    """Return what ``text`` names: ``start``, ``end``, an offset, ``@`` and an RFC 3339 time, ``@-10m`` before ``now``.

    ``now`` has a zone; ``option``: what the text was given with. Raises ``ConfigurationError`` naming the text and the
    forms.
    """
    if text == "start":
        return "start"
    if text == "end":
        return "end"
    if text.isascii() and text.isdigit():
        # By digits first: Python itself refuses to read a number of thousands of them.
        if len(text) > 20 or int(text) > OFFSET_MAX:
            raise ConfigurationError(f"{option} {text}: no offset is above {OFFSET_MAX}; write a lower one, or end")
        return int(text)
    try:
        if text.startswith("@-") and not text[2:].strip().isdigit():
            return now - timedelta(milliseconds=parse_duration_ms(text[2:]))
        if text.startswith("@"):
            moment = datetime.fromisoformat(text[1:])
            if moment.tzinfo is not None:
                return moment
    except (ValueError, OverflowError):
        pass
    raise ConfigurationError(
        f"{option} {text!r}: write start, end, an offset, @2026-01-31T12:00:00Z (RFC 3339, with a zone) or @-10m"
    )
