"""The record of a set at its coordinator, as the primary of a reign changes it (R1, R7)."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mqcore.broker._keeper import Keeper
from mqcore.errors import CommandNotPossibleError, CoordinatorError, CoordinatorUnreachableError
from mqcore.replication import SetRecord

__all__ = ["CoordinatedAuthority"]


class CoordinatedAuthority:
    """Keeps the record of a set at its coordinator, for the reign whose lease ``keeper`` holds.

    ``lost`` is called with the reason why that reign is over.
    """

    is_manual = False

    def __init__(self, keeper: Keeper, lost: Callable[[str], None]) -> None:
        self._keeper = keeper
        self._lost = lost
        self._stands: SetRecord | None = None

    async def begin(self, record: SetRecord, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Note that ``record``, which the promotion has written, is the one that stands."""
        self._stands = record
        task_status.started()

    async def change(self, record: SetRecord) -> SetRecord:
        """Write ``record`` at the coordinator; return what stands once that is known."""
        assert self._stands is not None
        try:
            await self._keeper.change(record.pack())
        except CoordinatorUnreachableError:
            return self._stands  # certainly not written; asked for again while it is wanted
        except (CoordinatorError, CommandNotPossibleError) as error:
            # The lease is another's, or over: this reign ends, and both sets are waited for until it has.
            self._lost(f"the record could not be changed: {error}")
            await trio.sleep_forever()
        self._stands = record
        return record
