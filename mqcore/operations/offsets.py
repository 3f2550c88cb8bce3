"""Offsets: where a partition starts, ends, or was at a time."""

from __future__ import annotations

import attrs

__all__ = ["FoundOffset", "LookUpOffset", "is_moment"]


def is_moment(_: object, __: object, at: str | int) -> None:
    """Raise ``ValueError`` for what names no place in a log; a validator."""
    if at not in ("start", "end") and (not isinstance(at, int) or isinstance(at, bool)):
        raise ValueError(f'\'at\' must be "start", "end" or a time in ms since 1970, not {at!r}')


@attrs.frozen(kw_only=True)
class LookUpOffset:
    """Find the position at ``"start"``, at ``"end"``, or of the first message taken in at a time or later."""

    topic: str
    partition: int
    at: str | int = attrs.field(validator=is_moment)


@attrs.frozen(kw_only=True)
class FoundOffset:
    """A position in a partition."""

    offset: int
    epoch: int
