"""What a member of a group and its program owe each other: who is told of partitions that move, and who has to ask."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

__all__ = ["PollWatch", "RebalanceListener"]


class RebalanceListener(Protocol):
    """Told what becomes of a member's partitions: for handlers, which work on what was read and is not done."""

    async def on_revoked(self, partition: int) -> None:
        """Be done with a partition, and commit it: it is given up when this returns. Cancelled when the member ends."""
        ...

    def on_lost(self, partition: int) -> None:
        """Take note that a partition may be another member's by now."""
        ...


class PollWatch:
    """Whether the program still asks for messages. ``now`` is the clock, in s.

    ``asked_at``: when it last got what it had asked for; while ``is_asking`` it waits for more. ``is_resting``: it has
    asked for nothing for so long that its partitions were given up.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.asked_at = now()
        self.is_asking = False
        self.is_resting = False
        self._now = now

    async def run(self, interval_s: float, before: Callable[[], Awaitable[None]], rest: Callable[[], None]) -> None:
        """Call ``before``, and ``rest`` if it asks for nothing meanwhile, each time it did so for ``interval_s``."""
        while True:
            if self.is_asking or self.is_resting:
                await trio.sleep(interval_s)
            elif self._now() < self.asked_at + interval_s:
                await trio.sleep_until(self.asked_at + interval_s)
            else:
                await before()
                if not self.is_asking and self._now() >= self.asked_at + interval_s:
                    self.is_resting = True
                    rest()
