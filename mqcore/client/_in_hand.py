"""What a reader holds between receiving batches and delivering their messages. No I/O, no trio."""

from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint

from mqcore.client._consumed import ConsumedBatch, Message

__all__ = ["MessageReader"]


class MessageReader:
    """The batch of which messages are being delivered one by one.

    ``_values`` are those of ``_batch`` that were not delivered yet, ``_messages`` the messages that are made of them.
    """

    def __init__(self) -> None:
        self._forget_batch()

    def _forget_batch(self) -> None:
        self._batch: ConsumedBatch | None = None
        self._values: Iterator[bytes] = iter(())
        self._messages: Iterator[Message] = iter(())

    def _hold(self, batch: ConsumedBatch) -> Iterator[Message]:
        """Deliver the messages of ``batch`` from now on: those that the result has given out are delivered."""
        self._batch = batch
        self._values = iter(batch.values)
        self._messages = batch.messages_of(self._values)
        return self._messages

    def _take_left(self) -> ConsumedBatch | None:
        """Return what iteration by message has left of the batch, which then counts as delivered."""
        batch = self._batch
        left = length_hint(self._values)
        self._forget_batch()
        return batch.after(batch.offset_before(left)) if batch is not None and left else None

    def _overlay(self, positions: dict[int, tuple[int, int]]) -> None:
        """Put into ``positions``, which count the batch as delivered, where its messages have come to."""
        batch = self._batch
        if batch is not None and (left := length_hint(self._values)):
            offset = batch.offset_before(left)
            positions[batch.partition] = (offset, batch.epoch if offset > batch.offset else batch.previous_epoch)
