"""The name of a producer, as it was given to this process: what it sends under, and what was stored before. Values."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import attrs

__all__ = ["UNNAMED", "ClaimedName"]

_NOTHING: Mapping[int, int] = MappingProxyType({})


@attrs.frozen
class ClaimedName:
    """A name that was claimed. ``claim`` goes with every send; ``first_epochs`` are the producer epochs to begin under.

    ``last``: offset of the last message that earlier processes of the name have stored, by partition; ``forgotten``:
    partitions of which the broker cannot say that any more. A producer without a name has the empty ``UNNAMED``.
    """

    name: str | None = None
    producer_id: int = 0
    epoch: int = 0
    claim: bytes = b""
    last: Mapping[int, int] = _NOTHING
    forgotten: frozenset[int] = frozenset()
    first_epochs: Mapping[int, int] = _NOTHING


UNNAMED = ClaimedName()
