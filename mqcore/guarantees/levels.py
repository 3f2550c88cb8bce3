"""Levels: where the bytes of one node's copy are, and what that survives (guarantees, section 1)."""

from __future__ import annotations

import enum

__all__ = ["Level"]


class Level(enum.IntEnum):
    """Level of one node's copy, in order: a higher level survives all that a lower one does."""

    NONE = 0
    MEMORY = 1
    PAGE_CACHE = 2
    DISK = 3
    MIRROR = 4

    @property
    def label(self) -> str:
        """The name that users see and write, such as ``page-cache``."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def parse(cls, text: str) -> Level:
        """Return the level called ``text``; ValueError lists the names."""
        for level in cls:
            if level.label == text:
                return level
        raise ValueError(f"unknown level {text!r}; one of {', '.join(level.label for level in cls)}")
