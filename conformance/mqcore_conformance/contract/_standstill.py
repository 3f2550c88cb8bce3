"""How long other tasks stood still, time apart in which the process waited for a processor. Judges nothing."""

from __future__ import annotations

import time

import trio

from mqcore_conformance.children.queued import queued_s

LOOK_S = 0.01


class Standstill:
    """``longest_s``: the longest time in which no task of this run went on while ``watch`` ran."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def watch(self) -> None:
        """Watch until cancelled."""
        while True:
            before = time.monotonic() - queued_s()
            await trio.sleep(LOOK_S)
            self.longest_s = max(self.longest_s, time.monotonic() - queued_s() - before - LOOK_S)
