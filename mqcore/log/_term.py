"""What a store does with its logs from one change of role to the next: it reigns, follows, or neither. Pure values.

A log that was opened in a term takes appends of that term only, so that late work of an ended reign meets a closed log
and does not depend on a flag that each caller would have to check.
"""

from __future__ import annotations

from typing import NamedTuple

from mqcore.errors import StorageError
from mqcore.log._control import EpochFacts
from mqcore.log._history import UNKNOWN_REIGN

__all__ = ["FollowedReign", "Term"]


class FollowedReign(NamedTuple):
    """The reign of another node whose batches are accepted: its epoch number and its 16-byte id."""

    number: int
    reign_id: bytes


class Term:
    """One term of a store. ``reign``: what this node stamps; ``followed``: what it accepts. At most one is given.

    Compared by identity: two terms are never the same, even if they were alike.
    """

    __slots__ = ("followed", "reign")

    def __init__(self, *, reign: EpochFacts | None = None, followed: FollowedReign | None = None) -> None:
        self.reign = reign
        self.followed = followed

    @property
    def epoch(self) -> int:
        """Number of the reign, of this or another node; 0 without one."""
        reign = self.reign or self.followed
        return reign.number if reign is not None else 0

    @property
    def reign_id(self) -> bytes:
        """Its id; zeros without one."""
        reign = self.reign or self.followed
        return reign.reign_id if reign is not None else UNKNOWN_REIGN

    @property
    def text(self) -> str:
        """What it is, for a sentence."""
        if self.reign is not None:
            return f"reign {self.reign.number}"
        return f"following reign {self.followed.number}" if self.followed else "the time without a reign"

    def closed(self, name: str) -> StorageError:
        """The error that a log opened in this term meets after it."""
        return StorageError(f"log {name}: {self.text}, in which it was opened, has ended; open it again", kind="closed")
