"""One stream of a QUIC connection. What a sender may be ahead of its reader is bounded by credit that the reader gives.

Neither engine slows a peer down whose reader has stopped: each grants more as soon as bytes came in. So each side tells
the other how much of a stream was consumed, and no more than a window beyond that is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from operator import index
from typing import Protocol

import trio

from mqcore.links import ClosableStream
from mqcore.ports import Buffer

__all__ = ["CODE_CANCELLED", "PREAMBLE", "QuicStream", "StreamOwner"]

CODE_CANCELLED = 1
"""Application code of a stream that is broken off or not read any more."""
PREAMBLE = b"\x00"
"""A stream is not seen by the peer until it has a byte; this one is, and is not given to the reader."""


class StreamOwner(Protocol):
    """What a stream asks of its connection."""

    def write(self, stream: QuicStream, data: Buffer, *, is_end: bool = False) -> None:
        """Give ``data`` to the engine."""
        ...

    def flush(self) -> None:
        """Send what the engine has to send."""
        ...

    def consumed(self, stream: QuicStream) -> None:
        """Take note that the reader has taken bytes."""
        ...

    def abandon(self, stream: QuicStream, *, sends: bool, reads: bool) -> None:
        """Break off the directions named."""
        ...

    def ended(self, stream: QuicStream) -> None:
        """Take note that a direction is over, or both."""
        ...

    def why_dead(self) -> BaseException | None:
        """What ended the connection; None while it lives."""
        ...


class QuicStream(ClosableStream, trio.abc.HalfCloseableStream):
    """A stream. One task may send while another receives.

    ``read``, ``written`` and ``peer_read`` are bytes so far, ``limit`` what may be written until the peer's reader has
    gone on.
    """

    def __init__(self, owner: StreamOwner, stream_id: int, window_bytes: int, *, is_ours: bool) -> None:
        self.stream_id = stream_id
        self.is_ours = is_ours
        self.read = 0
        self.told = 0
        self.written = 0
        self.peer_read = 0
        self.limit = window_bytes
        self.unread = 0
        self.has_end = False
        """The peer has said that nothing more comes, or broke off."""
        self.is_ended = False
        """This side has said so."""
        self._skips = 0 if is_ours else 1  # the byte with which the opener made the stream known
        self.owner = owner
        self._arrived: deque[bytes | memoryview] = deque()
        self._was_reset = False
        self._is_refused = False
        self._is_closed = False
        self._is_torn = False
        self._is_sending = False
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None

    # what the connection tells

    def arrived(self, data: bytes, *, is_end: bool) -> None:
        """Take in bytes of the peer."""
        if self._skips and data:
            self._skips = 0
            data = data[1:]
        if data and not self._is_closed:
            self._arrived.append(data)
            self.unread += len(data)
        if is_end:
            self.has_end = True
        self.wake()

    def reset(self) -> None:
        """The peer broke off."""
        self.has_end = self._was_reset = True
        self.wake()

    def refused(self) -> None:
        """The peer reads no more."""
        self._is_refused = True
        self.wake()

    def credit(self, consumed: int, window_bytes: int) -> None:
        """The peer's reader has come to ``consumed``."""
        self.peer_read = max(self.peer_read, consumed)
        limit = self.peer_read + window_bytes
        if limit > self.limit:
            self.limit = limit
            task, self._writer = self._writer, None
            if task is not None:
                trio.lowlevel.reschedule(task)

    def wake(self) -> None:
        """Have both tasks look again."""
        for task in (self._reader, self._writer):
            if task is not None:
                trio.lowlevel.reschedule(task)
        self._reader = self._writer = None

    # receiving

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """See ``ByteStream``."""
        has_waited = await self._wait_for_data(wants_any=bool(len(buffer)))
        size = self._take(memoryview(buffer))
        if size:
            self.owner.consumed(self)
        if not has_waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return size

    async def _wait_for_data(self, *, wants_any: bool) -> bool:
        """Wait until there is something, or the end; return whether this had to wait."""
        await trio.lowlevel.checkpoint_if_cancelled()
        has_waited = False
        while not self._arrived:
            if self._is_closed:
                raise self._closed_error()
            if self._was_reset:
                raise trio.BrokenResourceError("the peer broke the stream off")
            if self.has_end:
                break
            self._check_alive()
            if not wants_any:
                break
            if self._reader is not None:
                raise trio.BusyResourceError("another task is receiving from this stream")
            self._reader = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_reader)
            has_waited = True
        return has_waited

    def _abort_reader(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _take(self, buffer: memoryview) -> int:
        arrived, size, room = self._arrived, 0, len(buffer)
        while arrived and size < room:
            data = arrived.popleft()
            count = min(len(data), room - size)
            if count < len(data):
                view = memoryview(data)
                arrived.appendleft(view[count:])
                data = view[:count]
            buffer[size : size + count] = data
            size += count
        self.read += size
        self.unread -= size
        return size

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See ``trio.abc.ReceiveStream``."""
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError(f"max_bytes = {max_bytes}: must be at least 1")
        has_waited = await self._wait_for_data(wants_any=True)
        data = b""
        if self._arrived:
            first = self._arrived.popleft()
            if max_bytes is not None and len(first) > max_bytes:
                view = memoryview(first)
                self._arrived.appendleft(view[max_bytes:])
                first = view[:max_bytes]
            data = bytes(first)  # no copy where they are bytes already
            self.read += len(data)
            self.unread -= len(data)
            self.owner.consumed(self)
        if not has_waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    # sending

    async def send_all(self, data: Buffer) -> None:
        """See ``trio.abc.SendStream``."""
        await self.send_buffers([memoryview(data).cast("B")])
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """See ``ByteStream``. Cancelled after some of it was sent, the stream is broken off."""
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_may_send()
        self._is_sending = True
        begun = self.written
        try:
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                while len(view) > (room := self.limit - self.written):
                    if room:
                        self._write(view[:room])
                        view = view[room:]
                    self.owner.flush()
                    await self._wait_for_credit()
                if view:
                    self._write(view)
            self.owner.flush()
        except BaseException:
            if self.written != begun and not self._is_closed:
                self._is_torn = True
                self._break_off()
            raise
        finally:
            self._is_sending = False

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        """See ``ByteStream``."""
        begun = self.written
        if self._is_sending:
            return 0
        try:
            self._check_may_send()
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                room = self.limit - self.written
                self._write(view[:room])
                if len(view) > room:
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # said by the call that sends what is left
        self.owner.flush()
        return self.written - begun

    def _write(self, view: memoryview) -> None:
        self.owner.write(self, view)
        self.written += len(view)

    async def _wait_for_credit(self) -> None:
        while self.limit == self.written:
            self._writer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort_writer)
            self._check_may_send()

    def _abort_writer(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def wait_send_all_might_not_block(self) -> None:
        """See ``trio.abc.SendStream``."""
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_may_send()
        self._is_sending = True
        try:
            await self._wait_for_credit()
        finally:
            self._is_sending = False
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def send_eof(self) -> None:
        """See ``trio.abc.HalfCloseableStream``."""
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        if self._is_closed:
            raise self._closed_error()
        self._end()

    def _end(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            if self.owner.why_dead() is None and not self._is_refused:
                self.owner.write(self, b"", is_end=True)
                self.owner.flush()
            self.owner.ended(self)

    # closing

    @property
    def closed(self) -> bool:
        """See ``ClosableStream``."""
        return self._is_closed

    def close(self) -> None:
        """End what is sent, and read no more. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._arrived.clear()
        if self._is_sending:
            self._is_torn = True
            self.owner.abandon(self, sends=not self.is_ended, reads=False)
            self.is_ended = True
        self._end()
        if not self.has_end:
            self.owner.abandon(self, sends=False, reads=True)
        self.wake()
        self.owner.ended(self)

    def _break_off(self) -> None:
        self._is_closed = True
        self._arrived.clear()
        self.owner.abandon(self, sends=not self.is_ended, reads=not self.has_end)
        self.is_ended = True
        self.wake()
        self.owner.ended(self)

    async def aclose(self) -> None:
        """Close it, even if this is cancelled. Idempotent."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _check_may_send(self) -> None:
        if self._is_closed or self.is_ended:
            raise self._closed_error()
        self._check_alive()
        if self._is_refused:
            raise trio.BrokenResourceError("the peer reads no more of this stream")

    def _check_alive(self) -> None:
        error = self.owner.why_dead()
        if error is not None:
            raise trio.BrokenResourceError(str(error)) from error

    def _closed_error(self) -> Exception:
        if self._is_torn:
            return trio.BrokenResourceError("a write ended early, which closed the stream")
        return trio.ClosedResourceError("the stream is closed")
