"""The asynchronous window of one log, as a pure function of appends, flushes and time (guarantees, section 1).

What is acknowledged and not covered by a completed flush never exceeds the policy's messages and bytes, and was all
acknowledged within a span of its interval: once the oldest is that old, nothing more is acknowledged until a flush has
covered it. A batch larger than a bound is acknowledged by the flush that covers it. No I/O, no clock, no trio.
"""

from __future__ import annotations

from collections import deque

import attrs

from mqcore.guarantees import AsyncFlush

__all__ = ["AsyncWindow", "UnflushedTotal"]


@attrs.define
class UnflushedTotal:
    """Bytes acknowledged and not flushed over all logs of a broker, with their bound (None: unbounded)."""

    bytes_max: int | None = None
    bytes_now: int = 0

    def fits(self, size: int) -> bool:
        """Whether ``size`` more bytes may be acknowledged before a flush."""
        return self.bytes_max is None or self.bytes_now + size <= self.bytes_max


class AsyncWindow:
    """Frontier up to which one log may be acknowledged under ``policy``.

    Offsets and byte positions are ends of batches. ``total`` is shared by the logs of a broker.
    """

    def __init__(self, policy: AsyncFlush, total: UnflushedTotal, *, offset: int, position: int) -> None:
        self.policy = policy
        self.acknowledged_offset = offset
        self._total = total
        self._durable_offset = offset
        self._durable_position = position
        self._acknowledged_position = position
        self._waiting: deque[tuple[int, int]] = deque()
        # end offset and time of each acknowledgement since the last flush; kept only where there is an interval
        self._acknowledged: deque[tuple[int, int]] = deque()

    def appended(self, end_offset: int, end_position: int) -> None:
        """Tell that a batch was appended that ends at ``end_offset`` and ``end_position``."""
        self._waiting.append((end_offset, end_position))

    def flushed(self, durable_offset: int, durable_position: int) -> None:
        """Tell that a completed flush covers everything below ``durable_offset`` and ``durable_position``."""
        self._durable_offset = max(self._durable_offset, durable_offset)
        before = max(self._acknowledged_position - self._durable_position, 0)
        self._durable_position = max(self._durable_position, durable_position)
        after = max(self._acknowledged_position - self._durable_position, 0)
        self._total.bytes_now -= before - after
        while self._acknowledged and self._acknowledged[0][0] <= self._durable_offset:
            self._acknowledged.popleft()

    def advance(self, now_us: int) -> int:
        """Acknowledge what the bounds allow at monotonic time ``now_us``; return the new frontier."""
        while self._waiting:
            end_offset, end_position = self._waiting[0]
            if end_offset > self._durable_offset and not self._fits(end_offset, end_position, now_us):
                break
            self._waiting.popleft()
            before = max(self._acknowledged_position, self._durable_position)
            self._total.bytes_now += max(end_position - before, 0)
            self.acknowledged_offset, self._acknowledged_position = end_offset, end_position
            if end_offset > self._durable_offset and self.policy.max_interval_ms is not None:
                self._acknowledged.append((end_offset, now_us))
        return self.acknowledged_offset

    def _fits(self, end_offset: int, end_position: int, now_us: int) -> bool:
        policy = self.policy
        if policy.max_messages is not None and end_offset - self._durable_offset > policy.max_messages:
            return False
        if policy.max_bytes is not None and end_position - self._durable_position > policy.max_bytes:
            return False
        if policy.max_interval_ms is not None and self._acknowledged:
            oldest_us = self._acknowledged[0][1]
            if now_us - oldest_us >= policy.max_interval_ms * 1000:
                return False
        return self._total.fits(end_position - max(self._acknowledged_position, self._durable_position))

    @property
    def unflushed_messages(self) -> int:
        """Messages acknowledged and not covered by a completed flush."""
        return max(self.acknowledged_offset - self._durable_offset, 0)

    @property
    def unflushed_bytes(self) -> int:
        """Bytes acknowledged and not covered by a completed flush."""
        return max(self._acknowledged_position - self._durable_position, 0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and nothing acknowledged is unflushed."""
        return not self._waiting and not self.unflushed_messages

    def give_up(self) -> None:
        """Take this log's bytes out of the broker's total, for a log that is no more. The last call."""
        self._total.bytes_now -= self.unflushed_bytes
        self._durable_position = self._acknowledged_position

    @property
    def wants_flush_now(self) -> bool:
        """Whether acknowledgements wait, or half of a bound is used: a flush now keeps them from waiting."""
        if self._waiting:
            return True
        policy, total = self.policy, self._total
        messages = self.acknowledged_offset - self._durable_offset
        if policy.max_messages is not None and 2 * messages >= policy.max_messages:
            return True
        size = self._acknowledged_position - self._durable_position
        if policy.max_bytes is not None and 2 * size >= policy.max_bytes:
            return True
        # bytes of other logs are no reason to flush this one: a log that stopped never gives its bytes back
        return size > 0 and total.bytes_max is not None and 2 * total.bytes_now >= total.bytes_max

    @property
    def flush_due_us(self) -> int | None:
        """Monotonic time by which a flush should start: half the interval after the oldest acknowledgement."""
        if self.policy.max_interval_ms is None or not self._acknowledged:
            return None
        return self._acknowledged[0][1] + self.policy.max_interval_ms * 500
