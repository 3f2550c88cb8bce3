"""Everything that goes out on one connection: replies coalesced into few writes, fetches read when their turn comes.

A fetch is kept as the small request that it is and read from the log only when the writer reaches it, so a reader that
stops costs no memory for its replies, and holds up nobody but itself. Whoever has something to send and finds the
writer idle sends at once; the others leave it to the one who is sending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import trio

from mqcore.abc import Buffer, ByteStream
from mqcore.broker._partition import Partition
from mqcore.errors import CorruptionError, StorageError
from mqcore.guarantees import Copy
from mqcore.log import DamagedRangeError
from mqcore.protocol import Code, Connection, End, Failed, Fatal, Fetch, Fetched, Message

__all__ = ["Outbox"]

_JOIN_BYTES_MAX = 64 * 1024

_QUEUED_FRAMES_MAX = 8_192
_QUEUED_BYTES_MAX = 1024 * 1024
"""Of what ``push`` queues; an acknowledgement is small, and counted as a frame only."""


class Outbox:
    """The sending half of one connection; implements ``ReplySink`` of the partitions.

    ``fetch_bytes_max``: most bytes of one fetch's reply, however much is asked for.
    """

    def __init__(
        self, stream: ByteStream, connection: Connection, *, fetch_bytes_max: int, now: Callable[[], float]
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._fetch_bytes_max = fetch_bytes_max
        self._now = now
        self._buffers: list[Buffer] = []
        self._fetches: deque[tuple[Partition, Fetch]] = deque()
        self._parked: dict[int, tuple[Partition, Fetch, float]] = {}
        self._wake = trio.Event()
        self._sending = False
        self._drained: trio.Event | None = None
        self.sending_since: float | None = None
        self._pushed_bytes = 0
        self._room: trio.Event | None = None
        self._is_over = False  # the last frame is queued: replies that come later have nowhere to go
        self.closed = False
        self.reader: trio.lowlevel.Task | None = None
        """The task that reads the connection: what it queues it sends itself, by ``flush``, when it is done."""

    # ReplySink

    def produced(
        self, request_id: int, base_offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        """Queue the acknowledgement of one batch."""
        if not self._is_over:
            self._buffers.append(self._connection.send_produced(request_id, base_offset, epoch, duplicate, copies))
            self._queued()

    def failed(self, request_id: int, code: int, text: str, facts: Mapping[str, object] | None = None) -> None:
        """Queue a failure."""
        self.push(Failed(request_id, code, text, facts or {}))

    def unpark(self, partition: Partition, request_id: int) -> None:
        """Tell that a parked fetch may have something to read now."""
        parked = self._parked.pop(request_id, None)
        if parked is not None and not self.closed:
            self._fetches.append((partition, parked[1]))
            self._wake.set()

    # what the connection's reader queues

    def push(self, message: Message) -> None:
        """Queue any message; after ``Fatal`` or ``End`` nothing more is taken."""
        if not self._is_over:
            buffers = self._connection.send(message)
            self._is_over = isinstance(message, Fatal | End)
            self._buffers.extend(buffers)
            self._pushed_bytes += sum(map(len, buffers))
            self._queued()

    async def room(self) -> None:
        """Wait until so little is queued that more may be made: a peer that does not read costs bounded memory."""
        while not self.closed and (
            self._pushed_bytes > _QUEUED_BYTES_MAX or len(self._buffers) > _QUEUED_FRAMES_MAX
        ):
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    def _make_room(self) -> None:
        self._pushed_bytes = 0
        if self._room is not None:
            self._room.set()
            self._room = None

    def fetch(self, partition: Partition, fetch: Fetch) -> None:
        """Answer ``fetch`` when its turn comes, or park it until there is something to read or its wait is over."""
        if fetch.offset < partition.committed_offset or fetch.wait_ms == 0 or fetch.offset < partition.log.start_offset:
            self._fetches.append((partition, fetch))
        else:
            self._parked[fetch.request_id] = (partition, fetch, self._now() + fetch.wait_ms / 1000)
            partition.park(fetch.offset, self, fetch.request_id)
            self._wake.set()  # there is a new deadline to wait for
            return
        self._queued()

    def _queued(self) -> None:
        if trio.lowlevel.current_task() is not self.reader:
            self._wake.set()

    @property
    def frames_queued(self) -> int:
        """Frames that wait to be sent, about: a frame with data counts twice."""
        return len(self._buffers)

    @property
    def parked(self) -> int:
        """Fetches that wait for new messages."""
        return len(self._parked)

    def close(self) -> None:
        """Drop everything: the connection is over."""
        self.closed = self._is_over = True
        for request_id, (partition, _, _) in self._parked.items():
            partition.forget_parked(self, request_id)
        self._parked.clear()
        self._fetches.clear()
        self._buffers.clear()
        self._make_room()
        self._wake.set()
        if self._drained is not None:
            self._drained.set()

    # sending

    async def run(self) -> None:
        """Send whatever is queued until cancelled or closed; wakes parked fetches when their wait is over."""
        while not self.closed:
            if self._parked:
                deadline = min(entry[2] for entry in self._parked.values())
                with trio.move_on_at(deadline):
                    await self._wake.wait()
                self._expire()
            else:
                await self._wake.wait()
            self._wake = trio.Event()
            await self.flush()

    def _expire(self) -> None:
        now = self._now()
        for request_id in [request_id for request_id, entry in self._parked.items() if entry[2] <= now]:
            partition, fetch, _ = self._parked.pop(request_id)
            partition.forget_parked(self, request_id)
            self._fetches.append((partition, fetch._replace(wait_ms=0)))

    async def flush(self) -> None:
        """Send what is queued, unless somebody is sending already (who then sends this too).

        If cancelled, the stream is of no more use.
        """
        if self._sending:
            return
        self._sending = True
        try:
            while (self._buffers or self._fetches) and not self.closed:
                if self._buffers:
                    buffers, self._buffers = self._buffers, []
                    self._make_room()
                    await self._send(buffers)
                if self._fetches:
                    partition, fetch = self._fetches.popleft()
                    await self._answer(partition, fetch)
        finally:
            self._sending = False
            if self._drained is not None and not self._connection.requests_in_flight:
                self._drained.set()

    async def _send(self, buffers: list[Buffer]) -> None:
        self.sending_since = self._now()
        if len(buffers) > 1 and sum(map(len, buffers)) <= _JOIN_BYTES_MAX:
            buffers = [b"".join(buffers)]
        await self._stream.send_buffers(buffers)
        self.sending_since = None

    async def _answer(self, partition: Partition, fetch: Fetch) -> None:
        log = partition.log
        if partition.closure is not None:
            self.failed(fetch.request_id, *partition.closure)
            return
        if fetch.offset < log.start_offset:
            text = f"offset {fetch.offset} is below the log's start {log.start_offset}: seek to the start"
            self.failed(fetch.request_id, Code.BELOW_START, text, {"start_offset": log.start_offset})
            return
        diverged = log.divergence(fetch.offset, fetch.epoch) if fetch.epoch else None
        if diverged is not None:
            text = f"offset {fetch.offset} of epoch {fetch.epoch} is not in this log's history; it parts at {diverged}"
            self.failed(fetch.request_id, Code.DIVERGED, text, {"offset": diverged})
            return
        committed = partition.committed_offset
        if fetch.offset >= committed:
            self.push(Fetched(fetch.request_id, fetch.offset, log.start_offset, committed, ()))
            return
        bytes_max = min(max(fetch.bytes_max, 1), self._fetch_bytes_max)
        try:
            result = await log.read(fetch.offset, bytes_max, committed)
        except DamagedRangeError as error:
            facts = {"offset": error.first_offset, "next_offset": error.next_offset}
            self.failed(fetch.request_id, Code.DAMAGED, str(error), facts)
            return
        except (StorageError, CorruptionError) as error:
            self.failed(fetch.request_id, *(partition.closure or (Code.READ_FAILED, str(error))))
            return
        if log.failed is not None:
            partition.stop(log.failed)  # the read may be the first to notice; what is not durable is committed no more
            committed = partition.committed_offset
        if self._is_over:
            return
        await self._send(
            self._connection.send(
                Fetched(fetch.request_id, result.next_offset, log.start_offset, committed, result.chunks)
            )
        )

    async def drained(self) -> None:
        """Wait until every request taken in is answered and sent; parked fetches are answered at once."""
        for request_id in list(self._parked):
            partition, fetch, _ = self._parked.pop(request_id)
            partition.forget_parked(self, request_id)
            self._fetches.append((partition, fetch._replace(wait_ms=0)))
        await self.flush()
        while self._connection.requests_in_flight and not self.closed:
            self._drained = trio.Event()
            await self._drained.wait()
