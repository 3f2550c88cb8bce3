"""How far the members of the in-sync set lag behind what is acknowledged, for ``throttle`` (guarantees, section 1).

Must not know of members: what they all hold is one offset, given with each question.
"""

from __future__ import annotations

from collections import deque

__all__ = ["ReplicaLag"]

_STEPS_PER_DELAY = 64


class ReplicaLag:
    """When batches were acknowledged, as far back as ``delay_us`` tells them apart. Offsets are ends of batches.

    Nothing is forgotten because it is held: what the set holds may go back, when a node joins or comes back without
    what it had. What is older than the delay needs no time any more, so that one offset stands for all of it.
    """

    __slots__ = ("_newest", "_old", "_young", "delay_us")

    def __init__(self, delay_us: int) -> None:
        self.delay_us = delay_us
        self._newest = 0
        self._old = 0
        self._young: deque[tuple[int, int]] = deque()

    def acknowledged(self, end_offset: int, now_us: int) -> None:
        """Take in that the batch that ends at ``end_offset`` is acknowledged now."""
        if end_offset <= self._newest:
            return  # who lacks it lacks the newer one too, which is as old or older
        self._newest = end_offset
        young = self._young
        if young and (now_us - young[-1][1]) * _STEPS_PER_DELAY < self.delay_us:
            # Taken as a little older than it is: that bounds what is remembered, however many batches there are.
            young[-1] = (end_offset, young[-1][1])
        else:
            young.append((end_offset, now_us))

    def is_exceeded(self, held: int, now_us: int) -> bool:
        """Whether a batch that ends above ``held``, which all members hold, was acknowledged that long ago."""
        young = self._young
        while young and now_us - young[0][1] >= self.delay_us:
            self._old = young.popleft()[0]
        return self._old > held
