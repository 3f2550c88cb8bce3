"""What a consumer reads: batches, and their messages one by one. Must not know of connections or positions to come."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count, repeat
from typing import NamedTuple

from mqcore.batch import HeaderPairs

__all__ = ["ConsumedBatch", "Message"]


class Message(NamedTuple):
    """One message as it was read. ``timestamp_ms``: when its producer made it, ms since 1970 UTC."""

    topic: str
    partition: int
    offset: int
    epoch: int
    value: bytes
    key: bytes | None
    headers: HeaderPairs
    timestamp_ms: int


# Not the class itself: the ``__new__`` that a NamedTuple gets is a Python function, which would be entered for every
# message. From a tuple of the right length this makes the same object without leaving C, in half the time.
_message_of = partial(tuple.__new__, Message)


class ConsumedBatch:
    """Messages of one partition that were stored together: ``values``, and the other columns, one item per message.

    ``keys`` and ``headers`` are None when no message has any. ``offset`` is that of the first; ``epoch`` that of all.
    ``appended_ms``: when the broker took it in, ms since 1970 UTC. ``previous_epoch``: of the message before the first,
    0 if unknown; with ``offset`` the position from which reading again gives the batch again.
    """

    __slots__ = (
        "_timestamps_ms",
        "appended_ms",
        "created_ms",
        "epoch",
        "headers",
        "keys",
        "offset",
        "partition",
        "previous_epoch",
        "topic",
        "values",
    )

    def __init__(
        self,
        topic: str,
        partition: int,
        offset: int,
        epoch: int,
        values: list[bytes],
        keys: list[bytes | None] | None,
        headers: list[HeaderPairs] | None,
        timestamps_ms: list[int] | None,
        created_ms: int,
        appended_ms: int,
        previous_epoch: int = 0,
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.epoch = epoch
        self.values = values
        self.keys = keys
        self.headers = headers
        self.created_ms = created_ms
        self.appended_ms = appended_ms
        self.previous_epoch = previous_epoch
        self._timestamps_ms = timestamps_ms

    def __len__(self) -> int:
        return len(self.values)

    @property
    def next_offset(self) -> int:
        """Offset after the last message."""
        return self.offset + len(self.values)

    @property
    def timestamps_ms(self) -> list[int]:
        """Create time of each message, ms since 1970 UTC."""
        if self._timestamps_ms is None:
            self._timestamps_ms = [self.created_ms] * len(self.values)
        return self._timestamps_ms

    def messages(self) -> Iterator[Message]:
        """The messages one by one, in order."""
        return self.messages_of(iter(self.values))

    def messages_of(self, values: Iterator[bytes]) -> Iterator[Message]:
        """The messages one by one, in order, each taken from ``values``, an iterator of this batch's values.

        What is left in ``values`` then tells how far the iteration has come.
        """
        columns = zip(
            repeat(self.topic),
            repeat(self.partition),
            count(self.offset),
            repeat(self.epoch),
            values,
            repeat(None) if self.keys is None else self.keys,
            repeat(()) if self.headers is None else self.headers,
            repeat(self.created_ms) if self._timestamps_ms is None else self._timestamps_ms,
            strict=False,
        )
        return map(_message_of, columns)

    def after(self, offset: int) -> ConsumedBatch:
        """The part from ``offset`` on."""
        skip = offset - self.offset
        return ConsumedBatch(
            self.topic, self.partition, offset, self.epoch, self.values[skip:], self.keys and self.keys[skip:],
            self.headers and self.headers[skip:], self._timestamps_ms and self._timestamps_ms[skip:],
            self.created_ms, self.appended_ms, self.epoch if skip else self.previous_epoch,
        )  # fmt: skip
