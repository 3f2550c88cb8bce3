"""Everything that goes out on one connection: replies coalesced into few writes, fetches read when their turn comes.

A fetch is kept as the small request that it is and read from the log only when the writer reaches it, so a reader that
stops costs no memory for its replies, and holds up no other connection. A task that has something to send and finds the
writer idle sends at once; the others leave it to the one that is sending.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

import trio

from mqcore.abc import Buffer, ByteStream
from mqcore.broker._fetch_answer import Fetchable, answer_fetch
from mqcore.guarantees import Copy
from mqcore.pieces import PIECE_BYTES, in_pieces
from mqcore.protocol import Code, Connection, End, Failed, Fatal, Fetch, Fetched, Message

__all__ = ["Outbox", "Parking"]

_JOIN_BYTES_MAX = 64 * 1024

_QUEUED_FRAMES_MAX = 8_192
_QUEUED_BYTES_MAX = 1024 * 1024
"""Of what ``push`` queues; an acknowledgement is small, and counted as a frame only."""

_STALE_SPARE = 16

_FRAMES_NOW_MAX = 64
"""Most that are joined for a send at once."""


class Parking(Fetchable, Protocol):
    """A partition, as fetches that wait for it see it."""

    def park(self, offset: int, sink: Outbox, request_id: int) -> None:
        """Call ``sink.unpark`` once the committed offset is beyond ``offset``, or the partition serves nothing more."""

    def forget_parked(self, sink: Outbox, request_id: int) -> None:
        """Forget that."""


class _Asked(NamedTuple):
    """A fetch, and until when it may wait. ``began``: as it was asked, where it has come further by passing over."""

    partition: Parking
    fetch: Fetch
    deadline: float
    began: Fetch | None = None


class Outbox:
    """The sending half of one connection; the sink of its partitions' replies.

    ``fetch_bytes_max``: most bytes of one fetch's reply, however much is asked for. ``fetches_parked_max``: of how many
    at once it is not answered that everything was passed over. ``now``: Trio's seconds. ``mends``: whether what of a
    log is damaged from an offset on may be put right soon.
    """

    def __init__(
        self,
        stream: ByteStream,
        connection: Connection,
        *,
        fetch_bytes_max: int,
        fetches_parked_max: int = sys.maxsize,
        now: Callable[[], float],
        mends: Callable[[str, int], bool] = lambda log, offset: False,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._fetch_bytes_max = fetch_bytes_max
        self._fetches_parked_max = fetches_parked_max
        self._now = now
        self._mends = mends
        self._buffers: list[Buffer] = []
        self._fetches: deque[_Asked] = deque()
        self.parked: dict[int, _Asked] = {}
        """Fetches that wait for new messages, by request id."""
        self._deadlines: list[tuple[float, int]] = []  # a heap; what is not parked any more stays in it for a while
        self._timer: trio.CancelScope | None = None  # what its task sleeps in, made when something first waits
        self._nursery: trio.Nursery | None = None
        self._wake = trio.Event()
        self._drained: trio.Event | None = None
        self._pushed_bytes = 0
        self._room: trio.Event | None = None
        self._is_draining = False
        self._is_over = False  # the last frame is queued: replies that come later have nowhere to go
        self.sending_since: float | None = None
        """When the last bytes moved of what is being sent; None while nothing is."""
        self.is_sending = False
        """Whether a task is sending; while none is, everything queued has gone."""
        self.has_receipts = False
        """Whether acknowledgements are queued, or not wholly handed to the transport."""
        self.closed = False
        self.reader: trio.lowlevel.Task | None = None
        """The task that reads the connection: what it queues it sends itself, by ``flush``, when it is done."""

    # the sink of a partition's replies

    def produced(
        self, request_id: int, base_offset: int, epoch: int, copies: tuple[Copy, ...], duplicate: bool
    ) -> None:
        """Queue the acknowledgement of one batch."""
        if not self._is_over:
            self.has_receipts = True
            self._buffers.append(self._connection.send_produced(request_id, base_offset, epoch, duplicate, copies))

    def replied(self, *, now: bool) -> None:
        """Send what ``produced`` queued."""
        if now:
            if not self.flush_now():
                self._wake.set()
        elif trio.lowlevel.current_task() is not self.reader:
            self._wake.set()

    def failed(self, request_id: int, code: int, text: str, facts: Mapping[str, object] | None = None) -> None:
        """Queue a failure."""
        self.push(Failed(request_id, code, text, facts or {}))

    def unpark(self, request_id: int) -> None:
        """Answer a parked fetch, for which there is something to read now."""
        parked = self.parked.pop(request_id, None)
        if parked is not None and not self.closed:
            self._fetches.append(parked)
            self._wake.set()

    # what the connection's reader queues

    def push(self, message: Message) -> None:
        """Queue any message; after ``Fatal`` or ``End`` nothing more is taken."""
        if not self._is_over:
            buffers = self._connection.send(message)
            self._is_over = isinstance(message, Fatal | End)
            self._buffers.extend(buffers)
            self._pushed_bytes += sum(map(len, buffers))
            if trio.lowlevel.current_task() is not self.reader:
                self._wake.set()

    async def room(self) -> None:
        """Wait until so little is queued that more may be made: a peer that does not read costs bounded memory."""
        while not self.closed and (self._pushed_bytes > _QUEUED_BYTES_MAX or len(self._buffers) > _QUEUED_FRAMES_MAX):
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    def _make_room(self) -> None:
        self._pushed_bytes = 0
        if self._room is not None:
            self._room.set()
            self._room = None

    def fetch(self, partition: Parking, fetch: Fetch) -> None:
        """Answer ``fetch`` when its turn comes, or park it until there is something to read or its wait is over."""
        asked = _Asked(partition, fetch, self._now() + fetch.wait_ms / 1000)
        if fetch.wait_ms == 0 or _has_answer(partition, fetch):
            self._fetches.append(asked)
            if trio.lowlevel.current_task() is not self.reader:
                self._wake.set()
        else:
            self._park(asked)

    def _park(self, asked: _Asked) -> None:
        partition, fetch, deadline, _ = asked
        self.parked[fetch.request_id] = asked
        partition.park(fetch.offset, self, fetch.request_id)
        deadlines = self._deadlines
        heappush(deadlines, (deadline, fetch.request_id))
        if len(deadlines) > 2 * len(self.parked) + _STALE_SPARE:
            deadlines[:] = [(parked.deadline, request_id) for request_id, parked in self.parked.items()]
            heapify(deadlines)
        if self._timer is None or deadline < self._timer.deadline:
            self._set_timer(deadline)

    @property
    def frames_queued(self) -> int:
        """Frames that wait to be sent, about: a frame with data counts twice."""
        return len(self._buffers)

    def close(self) -> None:
        """Drop everything: the connection is over."""
        self.closed = self._is_over = True
        for request_id, parked in self.parked.items():
            parked.partition.forget_parked(self, request_id)
        self.parked.clear()
        self._deadlines.clear()
        self._fetches.clear()
        self._buffers.clear()
        self._make_room()
        self._wake.set()
        if self._drained is not None:
            self._drained.set()

    # waits that are over

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.deadline = deadline
        elif self._nursery is not None:
            self._timer = trio.CancelScope(deadline=deadline)
            self._nursery.start_soon(self._answer_late_fetches, self._timer)

    async def _answer_late_fetches(self, timer: trio.CancelScope) -> None:
        # A task of its own: were the writer woken for each new deadline, every fetch that waits would cost a turn.
        while True:
            with timer:
                await trio.sleep_forever()
            timer = self._timer = trio.CancelScope(deadline=self._expire())

    def _expire(self) -> float:
        """Queue answers to the fetches whose wait is over; return when the next one's is."""
        now, deadlines = self._now(), self._deadlines
        while deadlines:
            deadline, request_id = deadlines[0]
            parked = self.parked.get(request_id)
            is_parked = parked is not None and parked.deadline == deadline
            if is_parked and deadline > now:
                return deadline
            heappop(deadlines)
            if is_parked:
                self._end_wait(request_id)
        return math.inf

    def _end_wait(self, request_id: int) -> None:
        parked = self.parked.pop(request_id)
        parked.partition.forget_parked(self, request_id)
        self._fetches.append(parked)
        self._wake.set()

    # sending

    def start(self, nursery: trio.Nursery) -> None:
        """Send what is queued by other tasks than the reader, from now until ``nursery`` is cancelled."""
        self._nursery = nursery
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        while not self.closed:
            await self._wake.wait()
            self._wake = trio.Event()
            await self.flush()

    def flush_now(self) -> bool:
        """Send what is queued if all of it goes without waiting; return whether nothing is left to be sent.

        The usual case of a few replies, without the coroutines that a send which may wait is made of.
        """
        buffers = self._buffers
        if self.is_sending or self._fetches or self.closed or len(buffers) > _FRAMES_NOW_MAX:
            return False
        if buffers:
            if self._pushed_bytes > _JOIN_BYTES_MAX:
                return False
            data = b"".join(buffers)
            sent = self._stream.send_now((data,))
            self._buffers = [memoryview(data)[sent:]] if sent < len(data) else []
            self.has_receipts = self.has_receipts and bool(self._buffers)
            self._make_room()
        if self._drained is not None and not self._connection.requests_in_flight:
            self._drained.set()
        return not self._buffers

    async def flush(self) -> None:
        """Send what is queued, unless a task is sending already (which then sends this too).

        If cancelled, the stream is of no more use.
        """
        if self.is_sending:
            return
        self.is_sending = True
        try:
            while (self._buffers or self._fetches) and not self.closed:
                if self._buffers:
                    buffers, self._buffers = self._buffers, []
                    self._make_room()
                    await self._send(buffers)
                    self.has_receipts = self.has_receipts and bool(self._buffers)
                if self._fetches:
                    partition, fetch, deadline, began = asked = self._fetches.popleft()
                    answer = await answer_fetch(partition, fetch, self._fetch_bytes_max)
                    if began is not None and _has_gone_back(asked, answer):
                        answer = await answer_fetch(partition, began, self._fetch_bytes_max)
                    elif began is not None and not _goes_on(asked, answer):
                        answer = _come_to(partition, fetch)
                    elif fetch.tags and deadline > self._now() and self._waits_on(asked, answer):
                        continue
                    if type(answer) is Fetched and answer.batches and not self._is_over:
                        # Not queued: it is large, and one at a time is all that a peer that does not read may cost.
                        await self._send(self._connection.send(answer))
                    elif type(answer) is Failed and answer.code == Code.DAMAGED and self._is_sought(partition, answer):
                        self.push(Failed(fetch.request_id, Code.NOT_YET, f"{answer.text}; a good copy is sought", {}))
                    else:
                        self.push(answer)
        except BaseException:
            # What would follow a part of a frame could only be garbage to the peer.
            self._is_over = True
            self._buffers.clear()
            raise
        finally:
            self.is_sending = False
            if self._drained is not None and not self._connection.requests_in_flight:
                self._drained.set()

    def _waits_on(self, asked: _Asked, answer: Fetched | Failed) -> bool:
        """Park a fetch with tags again where everything that came was passed over, from there on.

        The peer would only ask again, once for each commit. What is passed over without an end is told now and then:
        a read looks at so much at a time.
        """
        is_full = len(self.parked) >= self._fetches_parked_max
        if type(answer) is not Fetched or answer.batches or is_full or self._is_draining or self.closed:
            return False
        fetch = asked.fetch._replace(offset=answer.next_offset, epoch=answer.next_epoch or 0)
        if _has_answer(asked.partition, fetch):
            return False
        began = asked.began or (asked.fetch if fetch.offset > asked.fetch.offset else None)
        self._park(asked._replace(fetch=fetch, began=began))
        return True

    def _is_sought(self, partition: Parking, damaged: Failed) -> bool:
        offset = damaged.facts["offset"]
        assert isinstance(offset, int)
        return self._mends(partition.log.name, offset)

    async def _send(self, buffers: list[Buffer]) -> None:
        self.sending_since = self._now()
        size = sum(map(len, buffers))
        if size > PIECE_BYTES:
            for piece in in_pieces(buffers):
                await self._stream.send_buffers(piece)
                self.sending_since = self._now()
        elif len(buffers) > 1 and size <= _JOIN_BYTES_MAX:
            await self._stream.send_buffers((b"".join(buffers),))  # a copy of so little costs less than each iovec
        else:
            await self._stream.send_buffers(buffers)
        self.sending_since = None

    async def drained(self) -> None:
        """Wait until every request taken in is answered and sent; parked fetches are answered at once."""
        self._is_draining = True
        for request_id in list(self.parked):
            self._end_wait(request_id)
        await self.flush()
        while self._connection.requests_in_flight and not self.closed:
            self._drained = trio.Event()
            await self._drained.wait()


def _goes_on(asked: _Asked, answer: Fetched | Failed) -> bool:
    """Whether ``answer`` may stand for what was passed over before it, too: it goes on in the same reign.

    Else the peer would take that for a part of the other reign, or of a gap, and go back too far, or report a loss
    twice, when its history leaves the log's (G06).
    """
    return asked.fetch.epoch == answer.next_epoch if type(answer) is Fetched else asked.partition.closure is not None


def _has_gone_back(asked: _Asked, answer: Fetched | Failed) -> bool:
    """Whether what was passed over is not committed any more, as after a failed flush: nobody was there then (G08)."""
    is_closed = type(answer) is Failed and asked.partition.closure is not None
    return asked.fetch.offset > asked.partition.committed_offset and not is_closed


def _come_to(partition: Parking, fetch: Fetch) -> Fetched:
    """The answer that has nothing: the peer asks again from where ``fetch`` reads."""
    start, committed = partition.log.start_offset, partition.committed_offset
    return Fetched(fetch.request_id, fetch.offset, start, committed, (), partition.known_age_ms, fetch.epoch)


def _has_answer(partition: Parking, fetch: Fetch) -> bool:
    """Whether there is something to tell the peer, without waiting for more to be committed."""
    is_ahead = fetch.epoch > partition.judged_epoch_max and partition.closure is None
    if is_ahead and partition.log.divergence(fetch.offset, fetch.epoch) is not None:
        return False  # what it has read may be on its way here (G06): it would ask again at once until it is here
    return (
        fetch.offset < partition.committed_offset
        or partition.closure is not None
        # A reader of what was lost is told so at once: what it waits for may never come.
        or bool(fetch.epoch and partition.log.divergence(fetch.offset, fetch.epoch) is not None)
    )
