"""What a member and its broker say to each other, as values. Times in microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import attrs

__all__ = ["Grant", "MemberFacts", "MemberSync", "View"]


class MemberSync(NamedTuple):
    """What a member says of itself: that it lives, and what it holds.

    ``token``: 16 random bytes of this one member, which tell it from another of its name. ``sequence`` grows with each
    sync of a token. ``is_fresh``: it holds nothing, and follows no earlier answer. ``held``: partitions that it reads
    or has not finished with, with the generation of each grant. ``seen``: generation of the newest answer it follows.
    """

    member: str
    token: bytes
    sequence: int
    is_fresh: bool
    seen: int
    session_us: int
    rebalance_us: int
    held: Mapping[int, int]


class View(NamedTuple):
    """What a member may read: partitions with the generation of their grants. What is not in it is to be given up."""

    generation: int
    granted: Mapping[int, int]


class Grant(NamedTuple):
    """A partition given to a member: by which generation, and where the group stands in it (``NO_CURSOR``: nowhere)."""

    generation: int
    offset: int
    epoch: int


@attrs.frozen
class MemberFacts:
    """A member as people are told: what it owns, how long ago it was last heard of."""

    name: str
    partitions: tuple[int, ...]
    heard_us: int
    session_us: int
    client: str
