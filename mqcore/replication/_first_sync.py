"""The first synchronisation of a replica: how fast it may be fed, how far it is, and how long it will take.

Times are monotonic seconds. Must not know of streams and logs: bytes are given to it.
"""

from __future__ import annotations

import math
from collections import deque

import attrs

__all__ = ["SyncPace", "SyncProgress", "SyncState"]

_SAMPLE_S = 0.5
_SAMPLES_MAX = 20


class SyncPace:
    """Spreads what is sent evenly: after so many bytes nothing more until the rate allows for them.

    Nothing is saved up while nothing is sent, so that a burst never exceeds what was asked for by more than one frame.
    """

    __slots__ = ("_free_at",)

    def __init__(self) -> None:
        self._free_at = -math.inf

    def delay_s(self, now: float) -> float:
        """How long nothing may be sent from ``now`` on; 0: at once."""
        return max(0.0, self._free_at - now)

    def sent(self, size: int, bytes_per_s: int, now: float) -> None:
        """Take in that ``size`` bytes were sent, at a rate of at most ``bytes_per_s``."""
        self._free_at = max(self._free_at, now) + size / bytes_per_s


@attrs.frozen(kw_only=True)
class SyncState:
    """How far a replica is: bytes that it holds, of how many, at which rate, and how long the rest takes at that.

    ``bytes_per_s``, ``left_ms``: None while nothing was measured, or nothing moves.
    """

    held_bytes: int
    bytes_total: int
    bytes_per_s: int | None
    left_ms: int | None


class SyncProgress:
    """What a replica took in, over the last ten seconds: old speed says nothing of a disk that has become slow."""

    __slots__ = ("_received", "_samples")

    def __init__(self) -> None:
        self._received = 0
        self._samples: deque[tuple[float, int]] = deque(maxlen=_SAMPLES_MAX)

    def received(self, size: int, now: float) -> None:
        """Take in that the replica reported ``size`` bytes more."""
        samples = self._samples
        if not samples or now - samples[-1][0] >= _SAMPLE_S:
            samples.append((now, self._received))
        self._received += size

    def state(self, held_bytes: int, bytes_total: int, now: float) -> SyncState:
        """Return how far the replica is that holds ``held_bytes``."""
        rate = 0
        if self._samples and now > self._samples[0][0]:
            since, received = self._samples[0]
            rate = round((self._received - received) / (now - since))
        left = max(0, bytes_total - held_bytes)
        return SyncState(
            held_bytes=held_bytes,
            bytes_total=bytes_total,
            bytes_per_s=rate or None,
            left_ms=1000 * left // rate if rate else None,
        )
