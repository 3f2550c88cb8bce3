"""The probe: what the disk alone gives, ``pwrite`` and flush into the same segments, no sockets, no framing.

One thread appends batches while at most ``window`` of them are unflushed; another flushes all that was appended
before each flush began. That is the pattern of a broker's log with everything else taken away.

Run as ``python -m mqcore_bench._probe DIRECTORY BATCH WINDOW DELAY_MS SECONDS AHEAD [TOTAL]``; prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from mqcore_bench._segments import SEGMENT_BYTES, Segments

__all__ = ["probe"]

MESSAGE_BYTES = 1024


class _Flusher(threading.Thread):
    def __init__(self, delay_s: float) -> None:
        super().__init__(daemon=True, name="flusher")
        self.delay_s = delay_s
        self.state = threading.Condition()
        self.appended = self.durable = 0
        self.dirty: set[int] = set()

    def run(self) -> None:
        while True:
            with self.state:
                self.state.wait_for(lambda: self.appended > self.durable)
                appended, dirty, self.dirty = self.appended, self.dirty, set()
            for descriptor in dirty:
                os.fdatasync(descriptor)
            if self.delay_s:
                time.sleep(self.delay_s)
            with self.state:
                self.durable = appended
                self.state.notify()


def probe(segments: Segments, *, batch: int, window: int, delay_s: float, seconds: float) -> dict[str, object]:
    """Append batches of ``batch`` messages for ``seconds``, or until the segments are full."""
    data = bytes(batch * MESSAGE_BYTES)
    flusher = _Flusher(delay_s)
    flusher.start()
    descriptor, position, count = -1, SEGMENT_BYTES, 0
    limit = segments.total_bytes // len(data) if segments.total_bytes else sys.maxsize
    started = time.perf_counter()
    while count < limit and time.perf_counter() < started + seconds:
        if position + len(data) > SEGMENT_BYTES:
            descriptor, position = segments.take(), 0
        position += os.pwrite(descriptor, data, position)
        count += 1
        with flusher.state:
            flusher.appended = count
            flusher.dirty.add(descriptor)
            flusher.state.notify()
            flusher.state.wait_for(lambda: flusher.appended - flusher.durable < window)
    with flusher.state:
        flusher.state.wait_for(lambda: flusher.durable >= count)
    return {"messages": count * batch, "seconds": time.perf_counter() - started}


def main(directory: str, batch: str, window: str, delay_ms: str, seconds: str, ahead: str, total: str = "") -> None:
    """Run the probe and print what it measured."""
    segments = Segments(directory, ahead=int(ahead), total=int(total) if total else None)
    segments.wait_ready()
    result = probe(
        segments, batch=int(batch), window=int(window), delay_s=float(delay_ms) / 1000, seconds=float(seconds)
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
