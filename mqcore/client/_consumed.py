"""What a consumer reads: batches, and their messages one by one. Must not know of connections or positions to come."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence, Set
from functools import partial
from itertools import compress, count, repeat
from typing import NamedTuple

from mqcore.batch import ATTRIBUTE_TIMESTAMPS, DecodedBatch, HeaderPairs

__all__ = ["ConsumedBatch", "Message"]


class Message(NamedTuple):
    """One message as it was read. ``timestamp_ms``: when its producer made it, ms since 1970 UTC. ``tag``: its tag."""

    topic: str
    partition: int
    offset: int
    epoch: int
    value: bytes
    key: bytes | None
    headers: HeaderPairs
    timestamp_ms: int
    tag: str | None = None


# Not the class itself: the ``__new__`` that a NamedTuple gets is a Python function, which would be entered for every
# message. From a tuple of the right length this makes the same object without leaving C, in half the time.
_message_of = partial(tuple.__new__, Message)


class ConsumedBatch:
    """Messages of one partition that were stored together: ``values``, and the other columns, one item per message.

    ``keys``, ``headers`` and ``tags`` are None when no message has any. ``offset`` is that of the first; ``epoch`` that
    of all. Of what was read by tags only some messages of a batch may be here: ``offsets`` are those of each.
    ``appended_ms``: when the broker took it in, ms since 1970 UTC. ``previous_epoch``: of the message before the first,
    0 if unknown; with ``offset`` the position from which reading again gives the batch again.
    """

    __slots__ = (
        "_end_offset",
        "_offsets",
        "_timestamps_ms",
        "appended_ms",
        "created_ms",
        "epoch",
        "headers",
        "keys",
        "offset",
        "partition",
        "previous_epoch",
        "tags",
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
        tags: list[str | None] | None = None,
        offsets: list[int] | None = None,
        end_offset: int | None = None,
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
        self.tags = tags
        self._timestamps_ms = timestamps_ms
        self._offsets = offsets
        self._end_offset = offset + len(values) if end_offset is None else end_offset

    @classmethod
    def of(cls, decoded: DecodedBatch, topic: str, partition: int, previous_epoch: int = 0) -> ConsumedBatch:
        """Return all messages of a stored batch. Raises as its columns do."""
        header = decoded.header
        return cls(
            topic, partition, header.base_offset, header.epoch, decoded.values, decoded.keys, decoded.headers,
            decoded.timestamps_ms if header.attributes & ATTRIBUTE_TIMESTAMPS else None,
            header.created_first_ms, header.appended_ms, previous_epoch, decoded.tags,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.values)

    @property
    def next_offset(self) -> int:
        """Offset after the last message, and after those behind it that were left out."""
        return self._end_offset

    @property
    def offsets(self) -> Sequence[int]:
        """Offset of each message."""
        return range(self.offset, self._end_offset) if self._offsets is None else self._offsets

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
            count(self.offset) if self._offsets is None else self._offsets,
            repeat(self.epoch),
            values,
            repeat(None) if self.keys is None else self.keys,
            repeat(()) if self.headers is None else self.headers,
            repeat(self.created_ms) if self._timestamps_ms is None else self._timestamps_ms,
            repeat(None) if self.tags is None else self.tags,
            strict=False,
        )
        return map(_message_of, columns)

    def offset_before(self, left: int) -> int:
        """Offset of the first of the last ``left`` messages; ``next_offset`` where that is none."""
        offsets = self.offsets
        return offsets[len(offsets) - left] if left else self._end_offset

    def after(self, offset: int) -> ConsumedBatch:
        """The part from ``offset`` on."""
        skip = bisect_left(self.offsets, offset)
        return self._part(
            self.values[skip:], self.keys and self.keys[skip:], self.headers and self.headers[skip:],
            self._timestamps_ms and self._timestamps_ms[skip:], self.tags and self.tags[skip:], self.offsets[skip:],
        )  # fmt: skip

    def having(self, tags: Set[str]) -> ConsumedBatch | None:
        """The messages that have one of ``tags``; None if none has."""
        marks = [tag in tags for tag in self.tags or ()]
        if all(marks):
            return self if marks else None
        if not any(marks):
            return None
        return self._part(
            list(compress(self.values, marks)), self.keys and list(compress(self.keys, marks)),
            self.headers and list(compress(self.headers, marks)),
            self._timestamps_ms and list(compress(self._timestamps_ms, marks)),
            self.tags and list(compress(self.tags, marks)), list(compress(self.offsets, marks)),
        )  # fmt: skip

    def _part(
        self,
        values: list[bytes],
        keys: list[bytes | None] | None,
        headers: list[HeaderPairs] | None,
        timestamps_ms: list[int] | None,
        tags: list[str | None] | None,
        offsets: Sequence[int],
    ) -> ConsumedBatch:
        first = offsets[0] if offsets else self._end_offset
        return ConsumedBatch(
            self.topic, self.partition, first, self.epoch, values, keys, headers, timestamps_ms,
            self.created_ms, self.appended_ms, self.epoch if first > self.offset else self.previous_epoch, tags,
            None if isinstance(offsets, range) else list(offsets), self._end_offset,
        )  # fmt: skip
