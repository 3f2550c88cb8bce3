"""Looks at what the directories of a storage stand on, by the port that knows."""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.abc import StoredAt
from mqcore.ports import DirectoryGround, Ports

__all__ = ["look_below"]


def look_below(ports: Ports, directories: Sequence[StoredAt]) -> list[tuple[StoredAt, DirectoryGround]]:
    """Return each directory with what it stands on; those of which nothing can be known are left out."""
    found: list[tuple[StoredAt, DirectoryGround]] = []
    if ports.ground is None:
        return found
    for stored in directories:
        try:
            found.append((stored, ports.ground(stored.directory)))
        except (OSError, ValueError):  # not Linux, or no /proc here: nothing is known, and nothing is claimed
            continue
    return found
