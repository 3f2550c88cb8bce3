"""The toy: the least that could be called a broker, one connection, one file after the other. Its rate is the limit.

No topics, no index, no checksums, no recovery. A frame is four bytes of length and a batch; frames go to disk as they
came, each is answered with eight bytes, after the append (``async``) or after a flush that covers it (``sync``), the
flush being shared by all that arrived while the one before it ran. The length ``CONSUME`` asks for everything stored.

Run as ``python -m mqcore_bench._toy DIRECTORY async|sync DELAY_MS AHEAD [TOTAL]``; prints its port.
"""

from __future__ import annotations

import functools
import mmap
import os
import socket
import struct
import sys
import threading
import time

import trio

from mqcore_bench._segments import SEGMENT_BYTES, Segments
from mqcore_bench._sockets import tune

__all__ = ["ACK_BYTES", "CONSUME", "LENGTH", "Toy"]

LENGTH = struct.Struct("<I")
CONSUME = 0xFFFF_FFFF
ACK_BYTES = 8
_BUFFER_BYTES = 4 * 1024 * 1024
_ASYNC_FLUSH_BYTES = 64 * 1024 * 1024


class Toy:
    """One log, one flusher thread, one connection at a time."""

    def __init__(self, segments: Segments, *, sync: bool, delay_s: float) -> None:
        self.segments = segments
        self.sync = sync
        self.delay_s = delay_s
        self.taken: list[int] = []
        self.position = SEGMENT_BYTES
        self.appended = self.durable = self.acknowledged = 0  # frames
        self.dirty: set[int] = set()
        self.unflushed_bytes = 0
        self.changed = trio.Event()
        self.wake_flusher = threading.Event()
        self.token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self.flusher, daemon=True, name="flusher").start()

    def flusher(self) -> None:
        """Make durable what was appended before each flush began."""
        while True:
            self.wake_flusher.wait()
            self.wake_flusher.clear()
            frames, dirty, self.dirty, self.unflushed_bytes = self.appended, self.dirty, set(), 0
            for descriptor in dirty:
                os.fdatasync(descriptor)
            if self.delay_s:
                time.sleep(self.delay_s)
            self.token.run_sync_soon(self.acknowledge, frames)

    def acknowledge(self, frames: int) -> None:
        """Let the writer answer everything up to ``frames``."""
        if frames > self.durable:
            self.durable = frames
            self.changed.set()

    async def append(self, data: memoryview, frames: int) -> None:
        """Write whole frames behind one another, over as many segments as it takes."""
        while data:
            if self.position == SEGMENT_BYTES:
                descriptor = self.segments.take_now()
                if descriptor is None:
                    descriptor = await trio.to_thread.run_sync(self.segments.take)
                self.taken.append(descriptor)
                self.position = 0
            written = os.pwrite(self.taken[-1], data[: SEGMENT_BYTES - self.position], self.position)
            self.position += written
            self.unflushed_bytes += written
            self.dirty.add(self.taken[-1])
            data = data[written:]
        self.appended += frames
        if self.sync or self.unflushed_bytes >= _ASYNC_FLUSH_BYTES:
            self.wake_flusher.set()
        if not self.sync:
            self.acknowledge(self.appended)

    async def write_acknowledgements(self, connection: trio.socket.SocketType) -> None:
        """One send for all that became durable since the last."""
        while True:
            await self.changed.wait()
            self.changed = trio.Event()
            answers = memoryview(bytes(ACK_BYTES * (self.durable - self.acknowledged)))
            self.acknowledged = self.durable
            while answers:
                answers = answers[await connection.send(answers) :]

    async def serve(self, connection: trio.socket.SocketType) -> None:
        """Read frames until the peer ends."""
        buffer = bytearray(_BUFFER_BYTES)
        view, filled = memoryview(buffer), 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.write_acknowledgements, connection)
            while received := await connection.recv_into(view[filled:]):
                filled += received
                whole = frames = 0
                while filled - whole >= LENGTH.size:
                    (size,) = LENGTH.unpack_from(buffer, whole)
                    if size == CONSUME:
                        await self.send_everything(connection)
                        nursery.cancel_scope.cancel()
                        return
                    if whole + LENGTH.size + size > filled:
                        break
                    whole += LENGTH.size + size
                    frames += 1
                if frames:
                    await self.append(view[:whole], frames)
                    view[: filled - whole] = view[whole:filled]
                    filled -= whole
            nursery.cancel_scope.cancel()

    async def send_everything(self, connection: trio.socket.SocketType) -> None:
        """Send every byte of the log from mappings of its segments."""
        for number, descriptor in enumerate(self.taken):
            end = self.position if number == len(self.taken) - 1 else SEGMENT_BYTES
            view = memoryview(mmap.mmap(descriptor, SEGMENT_BYTES, prot=mmap.PROT_READ))[:end]
            while view:
                view = view[await connection.send(view[: 1024 * 1024]) :]


async def main(directory: str, flush: str, delay_ms: str, ahead: str, total: str = "") -> None:
    """Serve one connection after another until the process is ended."""
    segments = Segments(directory, ahead=int(ahead), total=int(total) if total else None)
    segments.wait_ready()
    toy = Toy(segments, sync=flush == "sync", delay_s=float(delay_ms) / 1000)
    with trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = await listener.accept()
            tune(connection)
            with connection:
                try:
                    await toy.serve(connection)
                except* OSError:
                    pass  # the peer is gone: the next one is welcome
            toy.acknowledged = toy.durable


if __name__ == "__main__":
    trio.run(functools.partial(main, *sys.argv[1:]))
