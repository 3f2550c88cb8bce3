"""The asynchronous window of one log, as a pure function of appends, flushes and time (guarantees, section 1).

What is acknowledged and not covered by a completed flush never exceeds the policy's messages and bytes, and was all
acknowledged within a span of its interval: once the oldest is that old, nothing more is acknowledged until a flush has
covered it. A batch larger than a bound is acknowledged by the flush that covers it. Must not know of replies, nodes or
clocks.
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


class _Span:
    """When the batches were acknowledged that no flush covers yet. Offsets are ends, times monotonic microseconds."""

    __slots__ = ("_acknowledged", "span_us")

    def __init__(self, span_us: int) -> None:
        self.span_us = span_us
        self._acknowledged: deque[tuple[int, int]] = deque()

    def acknowledged(self, end_offset: int, now_us: int) -> None:
        """Take in that the batch that ends at ``end_offset`` is acknowledged now."""
        self._acknowledged.append((end_offset, now_us))

    def flushed(self, offset: int) -> None:
        """Forget what ends at or below ``offset``."""
        while self._acknowledged and self._acknowledged[0][0] <= offset:
            self._acknowledged.popleft()

    def is_full(self, now_us: int) -> bool:
        """Whether the oldest is as old as the span, so that nothing may be acknowledged beside it."""
        return bool(self._acknowledged) and now_us - self._acknowledged[0][1] >= self.span_us

    @property
    def oldest_us(self) -> int | None:
        """When the oldest was acknowledged; None when everything is flushed."""
        return self._acknowledged[0][1] if self._acknowledged else None


class AsyncWindow:
    """Frontier up to which one log may be acknowledged under ``policy``.

    Offsets and byte positions are ends of batches. ``total`` is shared by the logs of a broker.
    """

    __slots__ = (
        "_acknowledged_position",
        "_durable_offset",
        "_durable_position",
        "_span",
        "_total",
        "_waiting",
        "acknowledged_offset",
        "is_full",
        "is_over",
        "policy",
    )

    def __init__(self, policy: AsyncFlush, total: UnflushedTotal, *, offset: int, position: int) -> None:
        self.acknowledged_offset = offset
        self.is_full = False
        """Whether a bound holds up what is appended: only a flush makes room."""
        self.is_over = False
        """Whether the interval is over: before a flush not even what was acknowledged may be acknowledged again."""
        self._total = total
        self._durable_offset = offset
        self._durable_position = position
        self._acknowledged_position = position
        self._waiting: deque[tuple[int, int]] = deque()
        self._span: _Span | None = None
        self.set_policy(policy)

    def set_policy(self, policy: AsyncFlush) -> None:
        """Hold what is acknowledged from now on to the bounds of ``policy``."""
        self.policy = policy
        if policy.max_interval_ms is None:
            self._span = None
        elif self._span is None:
            self._span = _Span(policy.max_interval_ms * 1000)
            if self.acknowledged_offset > self._durable_offset:
                # When these were acknowledged was not noted; at time 0 they are too old to be added to.
                self._span.acknowledged(self.acknowledged_offset, 0)
        else:
            self._span.span_us = policy.max_interval_ms * 1000

    def inherit(self, end_offset: int, end_position: int) -> None:
        """Take in that everything up to there may have been acknowledged in an earlier reign. The first call, if any.

        It counts in the broker's total until a flush covers it: acknowledged is acknowledged, in whatever reign.
        """
        self._waiting.clear()
        self._total.bytes_now += end_position - self._durable_position
        self.acknowledged_offset, self._acknowledged_position = end_offset, end_position
        if self._span is not None and end_offset > self._durable_offset:
            self._span.acknowledged(end_offset, 0)  # nobody noted when

    def appended(self, end_offset: int, end_position: int) -> None:
        """Take in that a batch was appended that ends at ``end_offset`` and ``end_position``."""
        self._waiting.append((end_offset, end_position))

    def flushed(self, durable_offset: int, durable_position: int) -> None:
        """Take in that a completed flush covers everything below ``durable_offset`` and ``durable_position``."""
        self.is_full = False  # until ``advance`` finds it full again: what a flush did not help wants no other one
        self._durable_offset = max(self._durable_offset, durable_offset)
        before = max(self._acknowledged_position - self._durable_position, 0)
        self._durable_position = max(self._durable_position, durable_position)
        after = max(self._acknowledged_position - self._durable_position, 0)
        self._total.bytes_now -= before - after
        if self._span is not None:
            self._span.flushed(self._durable_offset)

    def advance(self, now_us: int, limit: int) -> int:
        """Acknowledge what ends at or below ``limit`` and within the bounds at ``now_us``; return the new frontier.

        A batch counts as acknowledged here and not earlier: one that passed the window and then waited for a replica
        would be acknowledged later than the span that it was admitted to.
        """
        self.is_full = False
        self.is_over = self._span is not None and self._span.is_full(now_us)
        while self._waiting:
            end_offset, end_position = self._waiting[0]
            if end_offset > limit:
                break
            if end_offset > self._durable_offset and not self._fits(end_offset, end_position):
                self.is_full = True
                break
            self._waiting.popleft()
            before = max(self._acknowledged_position, self._durable_position)
            self._total.bytes_now += max(end_position - before, 0)
            self.acknowledged_offset, self._acknowledged_position = end_offset, end_position
            if self._span is not None and end_offset > self._durable_offset:
                self._span.acknowledged(end_offset, now_us)
        return self.acknowledged_offset

    def _fits(self, end_offset: int, end_position: int) -> bool:
        policy = self.policy
        if policy.max_messages is not None and end_offset - self._durable_offset > policy.max_messages:
            return False
        if policy.max_bytes is not None and end_position - self._durable_position > policy.max_bytes:
            return False
        if self.is_over:
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
        self._durable_position = max(self._durable_position, self._acknowledged_position)

    @property
    def wants_flush_now(self) -> bool:
        """Whether acknowledgements wait for room, or half of a bound is used: a flush now keeps them from waiting."""
        if self.is_full:
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
        if self._span is None or (oldest_us := self._span.oldest_us) is None:
            return None
        return oldest_us + self._span.span_us // 2
