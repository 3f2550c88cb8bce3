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
_APPENDED_SAMPLE_S = 0.25
_QUIET_S = 0.25
"""Where nothing was appended for so long, nobody waits for what a copy would hold up."""
_BESIDE_BYTES_PER_S_MIN = 64_000_000
_BESIDE_TIMES_APPENDED = 4
"""A copy that got only as much as is appended would never be done."""


class SyncPace:
    """Spreads what is sent evenly: after so many bytes nothing more until the rate allows for them.

    Nothing is saved up while nothing is sent, so that a burst never exceeds what was asked for by more than one frame.
    Where no rate was asked for a copy gives way to what is appended meanwhile
    (``docs/decisions/0055-a-copy-gives-way-to-what-is-appended.md``).
    """

    __slots__ = ("_appended", "_appended_at", "_appended_per_s", "_free_at", "_since")

    def __init__(self) -> None:
        self._free_at = -math.inf
        self._since = self._appended_at = -math.inf
        self._appended = 0
        self._appended_per_s = 0.0

    def appended(self, size: int, now: float) -> None:
        """Take in that ``size`` bytes were appended to the logs that are copied."""
        if now - self._since >= _APPENDED_SAMPLE_S:
            # Over all of a pause, too: what comes after one is slow until it has been seen to be fast.
            self._appended_per_s = self._appended / (now - self._since)
            self._appended, self._since = 0, now
        self._appended += size
        self._appended_at = now

    def bytes_per_s(self, asked: int | None, now: float) -> int | None:
        """At most so many bytes a second may be sent from ``now`` on: what was ``asked`` for; None: no bound."""
        if asked is not None or now - self._appended_at >= _QUIET_S:
            return asked
        return max(_BESIDE_BYTES_PER_S_MIN, round(_BESIDE_TIMES_APPENDED * self._appended_per_s))

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
