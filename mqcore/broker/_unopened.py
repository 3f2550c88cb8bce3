"""Logs of a set that its primary cannot open: tried again, and counted, for nobody may join the set meanwhile (R6).

Must not know why a log cannot be opened, nor what the set makes of the number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from mqcore.abc import Notice
from mqcore.errors import CorruptionError, MqcoreError, StorageError

__all__ = ["UnopenedLogs"]

_AGAIN_S_FIRST = 1.0
_AGAIN_S_MAX = 60.0
"""Each attempt may read the whole log: what fails again and again is tried more and more seldom."""


class UnopenedLogs:
    """Opens logs by ``open_partition``, by topic id and partition. ``run`` it.

    ``changed`` is called with the number of those that could not be opened so far.
    """

    def __init__(
        self,
        open_partition: Callable[[bytes, int], Awaitable[object]],
        report: Callable[[Notice], None],
        changed: Callable[[int], None],
    ) -> None:
        self._open_partition = open_partition
        self._report = report
        self._changed = changed
        self._keys: dict[tuple[bytes, int], None] = {}
        self._is_any = trio.Event()

    async def open(self, topic_id: bytes, index: int) -> None:
        """Open a log, or report that it cannot be, and have it tried again."""
        await trio.lowlevel.checkpoint()  # of thousands in a row: the lease has to be renewed between them
        try:
            await self._open_partition(topic_id, index)
        except (StorageError, CorruptionError) as error:
            self._keys[topic_id, index] = None
            self._is_any.set()
            self._changed(len(self._keys))
            text = f"partition {index} of {topic_id.hex()} cannot be opened: no replica gets it, and no node joins the "
            text += f"set until it is; a member that has it can take over by `mqcore cluster switchover`: {error}"
            self._report(Notice("partition-not-opened", text))

    def opened(self, topic_id: bytes, index: int) -> None:
        """Take in that a log is open."""
        if self._keys and (topic_id, index) in self._keys:
            del self._keys[topic_id, index]
            self._changed(len(self._keys))

    def topic_gone(self, topic_id: bytes) -> None:
        """Take in that a topic was deleted: its logs are missed no more."""
        for key in [each for each in self._keys if each[0] == topic_id]:
            self.opened(*key)

    async def run(self) -> None:
        """Try again what could not be opened, until cancelled."""
        while True:
            await self._is_any.wait()
            self._is_any = trio.Event()
            pause_s = _AGAIN_S_FIRST
            while self._keys:
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, _AGAIN_S_MAX)
                for key in list(self._keys):
                    await self._try(*key)

    async def _try(self, topic_id: bytes, index: int) -> None:
        try:
            await self._open_partition(topic_id, index)
        except MqcoreError:
            return  # reported at first; or the topic is going
        self._report(Notice("partition-opened", f"partition {index} of {topic_id.hex()} could be opened at last"))
