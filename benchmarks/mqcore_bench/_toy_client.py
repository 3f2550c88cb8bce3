"""Load for the toy: publishes frames with a fixed number in flight, or takes everything back.

The frames are built once, before the clock starts: what is measured is the way to the disk and back.

Run as ``python -m mqcore_bench._toy_client publish PORT BATCH WINDOW SECONDS [TOTAL_BYTES]`` or
``... consume PORT BATCH raw|messages MESSAGES``; prints one JSON object: ``messages``, ``seconds``, and for one in
flight ``latency_us`` (median and 99th percentile).
"""

from __future__ import annotations

import functools
import json
import statistics
import struct
import sys
import time

import trio

from mqcore_bench._sockets import tune
from mqcore_bench._toy import ACK_BYTES, CONSUME, LENGTH

__all__ = ["MESSAGE_BYTES"]

MESSAGE_BYTES = 1024


async def _connect(port: str) -> trio.socket.SocketType:
    connection = trio.socket.socket()
    await connection.connect(("127.0.0.1", int(port)))
    tune(connection)
    return connection


async def publish(port: str, batch: str, window: str, seconds: str, total_bytes: str = "0") -> dict[str, object]:
    """Keep ``window`` frames of ``batch`` messages in flight for ``seconds``, or for ``total_bytes`` in all."""
    count, in_flight_max = int(batch), int(window)
    frame = LENGTH.pack(count * MESSAGE_BYTES) + bytes(count * MESSAGE_BYTES)
    frames_max = int(total_bytes) // (count * MESSAGE_BYTES) or sys.maxsize
    frames = memoryview(frame * in_flight_max)
    sent = acknowledged = received_bytes = 0
    latencies: list[float] = []
    connection = await _connect(port)
    clock = time.perf_counter
    warm_up = 0.0 if int(total_bytes) else min(1.0, float(seconds) / 5)
    warm, started = 0, clock()
    deadline = started + warm_up + float(seconds)
    warm_at = started
    while acknowledged < frames_max:
        now = clock()
        if now >= deadline and frames_max == sys.maxsize:
            break
        if now < started + warm_up:
            warm, warm_at = acknowledged, now
        ready = min(in_flight_max - (sent - acknowledged), frames_max - sent)
        sent += ready
        view = frames[: ready * len(frame)]
        while view:
            view = view[await connection.send(view) :]
        received_bytes += len(await connection.recv(65536))
        acknowledged = received_bytes // ACK_BYTES
        if in_flight_max == 1:
            latencies.append(clock() - now)
    elapsed = clock() - warm_at
    connection.close()
    result: dict[str, object] = {"messages": (acknowledged - warm) * count, "seconds": elapsed}
    if latencies:
        parts = statistics.quantiles(latencies, n=100)
        result["latency_us"] = {"median": parts[49] * 1e6, "p99": parts[98] * 1e6}
    return result


async def consume(port: str, batch: str, form: str, messages: str) -> dict[str, object]:
    """Take ``messages`` messages from the start, as whole frames or as one bytes object per message."""
    count, wanted = int(batch), int(messages) // int(batch)
    split = struct.Struct(f"{MESSAGE_BYTES}s" * count)
    frame_bytes = LENGTH.size + count * MESSAGE_BYTES
    connection = await _connect(port)
    buffer = bytearray(4 * 1024 * 1024)
    view, filled, taken = memoryview(buffer), 0, 0
    started = time.perf_counter()
    await connection.send(LENGTH.pack(CONSUME))
    while taken < wanted:
        received = await connection.recv_into(view[filled:])
        if not received:
            raise EOFError(f"the toy has only {taken} of {wanted} batches")
        filled += received
        whole = 0
        while filled - whole >= frame_bytes:
            if form == "messages":
                split.unpack_from(buffer, whole + LENGTH.size)
            whole += frame_bytes
            taken += 1
        view[: filled - whole] = view[whole:filled]
        filled -= whole
    elapsed = time.perf_counter() - started
    connection.close()
    return {"messages": taken * count, "seconds": elapsed}


if __name__ == "__main__":
    work = publish if sys.argv[1] == "publish" else consume
    print(json.dumps(trio.run(functools.partial(work, *sys.argv[2:]))))
