"""The outcome of what was posted, for a caller that does not wait for it at once."""

from __future__ import annotations

from collections.abc import Callable

from mqcore.client._bell import wait_in
from mqcore.client._pending_batch import PendingBatch
from mqcore.client._receipt import Receipt

__all__ = ["Delivery"]


class Delivery:
    """The outcome of what was posted, now or later. It may be dropped: the messages go their way without it."""

    __slots__ = ("_batch", "_count", "_index")

    def __init__(self, batch: PendingBatch, index: int, count: int) -> None:
        self._batch = batch
        self._index = index
        self._count = count

    @property
    def count(self) -> int:
        """Messages whose outcome this is: one, or those of one batch, in their order."""
        return self._count

    @property
    def is_done(self) -> bool:
        """Whether ``result`` would return or raise the outcome."""
        batch = self._batch
        return batch.receipt is not None or batch.error is not None

    def result(self) -> Receipt:
        """Return the receipt.

        Raises ``RejectedError``, ``OutcomeUnknownError``, and ``RuntimeError`` before ``is_done``.
        """
        return self._batch.receipt_of(self._index, self._count)

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Have ``callback`` called, in Trio's thread, once the outcome is known; at once if it is.

        For whoever waits elsewhere than in Trio. It must neither wait nor raise.
        """
        batch = self._batch
        if batch.receipt is not None or batch.error is not None:
            callback()
        elif batch.callbacks is None:
            batch.callbacks = [callback]
        else:
            batch.callbacks.append(callback)

    async def wait(self) -> Receipt:
        """Wait for the outcome and return the receipt. A checkpoint, unless the outcome is known already.

        Raises ``RejectedError`` (it is never read by anyone) or ``OutcomeUnknownError``. If cancelled, the outcome is
        unknown to the caller; the message goes its way, and waiting again is allowed.
        """
        batch = self._batch
        while batch.receipt is None and batch.error is None:
            await wait_in(batch.waiters)
        return batch.receipt_of(self._index, self._count)
