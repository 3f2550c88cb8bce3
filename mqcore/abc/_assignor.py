"""Contract of an assignor: which member of a consumer group gets which partition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

__all__ = ["Assignor"]


class Assignor(ABC):
    """A way to share partitions out (entry-point group ``mqcore.assignors``), run by the broker.

    It only says who is to have what in the end: that a partition never has two owners on the way there is the group's
    business, and what comes out of here cannot break it.
    """

    name: ClassVar[str]

    @abstractmethod
    def assign(self, members: Sequence[str], partitions: Sequence[int], owners: Mapping[int, str]) -> Mapping[int, str]:
        """Return a member for each of ``partitions``.

        ``members``: at least one, in an order that is the same each time. ``partitions``: in rising order. ``owners``:
        who has which of them now, for those that are with one of ``members``. Called in the event loop, for each
        change of a group: it computes, and neither waits nor raises. A result that lacks a partition, or names an
        unknown member, is reported and not followed.
        """
