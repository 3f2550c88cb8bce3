"""What aioquic keeps of streams out of order, counted before it keeps it. No I/O.

That library doubles its windows whenever a peer has come to half of them, whatever was delivered, and keeps zeros for
what is left out: a few bytes, each twice as far as the one before, take all memory. Its log, a public one, is told of
each frame before that is taken in, and may refuse it. qh3 needs none of this: its windows do not grow.
"""

from __future__ import annotations

import copy
import functools
import importlib
from typing import Any

from mqcore_quic._numbers import StreamNumbers

__all__ = ["HeldBytes", "watched_configuration"]


class HeldBytes:
    """Bytes that are kept, and left out before them, on all streams of a connection; ``limit`` is the most of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.is_receiving = False
        self.total = 0
        self._streams: dict[int, tuple[int, int]] = {}
        self._over: dict[int, StreamNumbers] = {}

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
    return found


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
    codes: Any = importlib.import_module("aioquic.quic.packet").QuicErrorCode

    class Trace(base):  # type: ignore[misc]  # the library may not be installed
        """Keeps no trace."""

        def __init__(self, held: HeldBytes, **named: Any) -> None:
            super().__init__(**named)
            self._held = held

        def encode_stream_frame(self, frame: Any, stream_id: int) -> dict[str, object]:
            held = self._held
            if held.is_receiving and not held.takes(stream_id, frame.offset + len(frame.data)):
                raise error(codes.FLOW_CONTROL_ERROR, 0x08, f"more than {held.limit} bytes out of order")
            return {}

        def log_event(self, **_: object) -> None:
            pass

    return Trace
