"""What aioquic keeps of streams out of order, counted before it keeps it. No I/O.

That library doubles its windows whenever a peer has come to half of them, whatever was delivered, and keeps zeros for
what is left out: a few bytes, each twice as far as the one before, take all memory. Its log, a public one, is told of
each frame before that is taken in, and may refuse it. qh3 needs none of this: its windows do not grow.

Who keeps the rules may come to the limit too, as the library has told it of larger windows: where the first of much
that is on its way was lost. What there is no room for is then taken for lost as well, and comes again. The rest of its
packet is taken in, as that may be what was lost, which makes room; but the packet is not acknowledged.
"""

from __future__ import annotations

import copy
import functools
import importlib
import math
from typing import Any

from mqcore_quic._numbers import StreamNumbers

__all__ = ["HeldBytes", "NoRoomError", "watched_configuration"]

STUCK_SECONDS = 10.0
"""For how long there may be no room, and nothing delivered: what would make room is sent again much sooner."""


class NoRoomError(Exception):
    """A packet that there is no room for now, which is not taken in."""


class HeldBytes:
    """Bytes that are kept, and left out before them, on all streams of a connection; ``limit`` is the most of them.

    ``ahead_max``: how far a stream may be ahead of what was delivered by the rules of this transport.
    """

    def __init__(self, limit: int, ahead_max: float = math.inf) -> None:
        self.limit = limit
        self._ahead_max = ahead_max
        self._refused_since: float | None = None
        self.is_receiving = False
        self.has_left_out = False
        """Whether there was no room for some of the present packet."""
        self.total = 0
        self._streams: dict[int, tuple[int, int]] = {}
        self._over: dict[int, StreamNumbers] = {}

    def is_too_far(self, stream_id: int, end: int) -> bool:
        """Whether a frame that reaches to ``end`` breaks a rule. Those of records, one way, have none."""
        kind = self._over.get(stream_id & 3)
        if stream_id & 2 or (kind is not None and stream_id >> 2 in kind):
            return False
        return end - self._streams.get(stream_id, (0, 0))[1] > self._ahead_max

    def refused(self, now: float) -> bool:
        """Take note that a packet was not taken in; whether that has gone on for too long, in seconds."""
        if self._refused_since is None:
            self._refused_since = now
        return now - self._refused_since > STUCK_SECONDS

    def takes(self, stream_id: int, end: int) -> bool:
        """Whether a frame that reaches to ``end`` may be taken in; it is counted if so."""
        kind = self._over.get(stream_id & 3)
        if kind is not None and stream_id >> 2 in kind:
            return True  # a frame that came twice: the library does not keep it
        highest, delivered = self._streams.get(stream_id, (0, 0))
        if end > highest:
            if self.total + end - highest > self.limit:
                return False
            self.total += end - highest
            self._streams[stream_id] = (end, delivered)
        return True

    def delivered(self, stream_id: int, size: int, *, is_end: bool) -> None:
        """Count out what the library has handed over."""
        highest, before = self._streams.get(stream_id, (0, 0))
        self._refused_since = None
        self.total -= size
        self._streams[stream_id] = (highest, before + size)
        if is_end:
            self.reset(stream_id)

    def reset(self, stream_id: int) -> None:
        """Nothing more comes on a stream."""
        highest, delivered = self._streams.pop(stream_id, (0, 0))
        self.total -= highest - delivered
        self._over.setdefault(stream_id & 3, StreamNumbers()).take(stream_id >> 2)


def watched_configuration(configuration: Any, held: HeldBytes) -> Any:
    """Return a copy of aioquic's ``configuration`` for one connection, whose frames ``held`` is asked about."""
    found = copy.copy(configuration)
    found.quic_logger = _Log(held)
    found.__class__ = _configuration_class()
    found.held = held
    return found


@functools.cache
def _configuration_class() -> Any:
    """Return a class of configurations that are asked once the frames of a packet were taken in.

    The time of silence is what the library looks at between the last frame of a packet and its acknowledgement.
    """

    base: Any = importlib.import_module("aioquic.quic.configuration").QuicConfiguration

    class Configuration(base):  # type: ignore[misc]  # the library may not be installed
        held: HeldBytes

        @property
        def idle_timeout(self) -> float:
            if self.held.is_receiving and self.held.has_left_out:
                raise NoRoomError
            found: float = vars(self)["idle_timeout"]
            return found

    return Configuration


class _Log:
    """Stands where aioquic looks for a ``QuicLogger``."""

    def __init__(self, held: HeldBytes) -> None:
        self._held = held

    def start_trace(self, is_client: bool, odcid: bytes) -> Any:
        return _trace_class()(self._held, is_client=is_client, odcid=odcid)

    def end_trace(self, trace: object) -> None:
        pass


@functools.cache
def _trace_class() -> Any:
    base: Any = importlib.import_module("aioquic.quic.logger").QuicLoggerTrace
    error: Any = importlib.import_module("aioquic.quic.connection").QuicConnectionError
    passed_over: Any = importlib.import_module("aioquic.quic.stream").StreamFinishedError
    codes: Any = importlib.import_module("aioquic.quic.packet").QuicErrorCode

    class Trace(base):  # type: ignore[misc]  # the library may not be installed
        """Keeps no trace."""

        def __init__(self, held: HeldBytes, **named: Any) -> None:
            super().__init__(**named)
            self._held = held

        def encode_stream_frame(self, frame: Any, stream_id: int) -> dict[str, object]:
            held, end = self._held, frame.offset + len(frame.data)
            if held.is_receiving and held.is_too_far(stream_id, end):
                raise error(codes.FLOW_CONTROL_ERROR, 0x08, "a stream is ahead by more than a window")
            if held.is_receiving and not held.takes(stream_id, end):
                held.has_left_out = True
                raise passed_over  # which has the library go on with the next frame
            return {}

        def log_event(self, **_: object) -> None:
            pass

    return Trace
