"""The sending half of a connection alone: waits end in time, wakes cost only those that wake, the queue is bounded."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

from mqcore.abc import Buffer
from mqcore.broker._outbox import Outbox
from mqcore.limits import Limits
from mqcore.log import ReadResult
from mqcore.pieces import PIECE_BYTES, in_pieces
from mqcore.protocol import (
    VERSION_MAX,
    Call,
    Code,
    Connection,
    Failed,
    Fatal,
    Fetch,
    Fetched,
    Hello,
    Ping,
    Pong,
    Result,
    Role,
    Welcome,
)
from mqcore_inproc._stream import InprocStream, stream_pair

TOPIC = bytes(16)


class EmptyLog:
    """A log without batches."""

    start_offset = 0
    failed = None


class Parked:
    """A partition on which fetches wait, and nothing is to be read."""

    def __init__(self) -> None:
        self.log: Any = EmptyLog()
        self.committed_offset = 0
        self.known_age_ms = None
        self.judged_epoch_max = sys.maxsize
        self.passed_bytes = 0
        self.closure: tuple[Code, str] | None = None
        self.waiting: dict[int, Outbox] = {}

    def park(self, offset: int, sink: Outbox, request_id: int) -> None:
        self.waiting[request_id] = sink

    def forget_parked(self, sink: Outbox, request_id: int) -> None:
        del self.waiting[request_id]

    def stop(self, error: Exception) -> None:
        raise AssertionError("no flush failed")

    def wake(self, request_id: int) -> None:
        self.waiting.pop(request_id).unpark(request_id)


class Pair:
    """An outbox and its peer, greeted."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.stream: InprocStream
        ours, self.stream = stream_pair(1 << 20)
        keys: Any = {"frame_bytes_max": 1 << 20, "requests_in_flight_max": 4096, "bytes_in_flight_max": 1 << 24}
        self.server = Connection(Role.BROKER, **keys)
        self.client = Connection(Role.CLIENT, frame_bytes_max=1 << 20)
        self.outbox = Outbox(ours, self.server, fetch_bytes_max=1 << 20, now=trio.current_time)
        self.outbox.start(nursery)
        self.next_id = 0
        welcome = Welcome(VERSION_MAX, TOPIC, TOPIC, "node", 1, 1, TOPIC, "primary", Limits().published())
        self.tell(Hello(VERSION_MAX, VERSION_MAX, "peer", b""))
        self.hear(b"".join(map(bytes, self.server.send(welcome))))

    def tell(self, message: Any) -> Any:
        """Give the server what the peer sends."""
        for part in self.client.send(message):
            view = memoryview(part)
            while view:
                buffer = self.server.receive_buffer()
                size = min(len(buffer), len(view))
                buffer[:size] = view[:size]
                self.server.received(size)
                view = view[size:]
        return self.server.next_message()

    def hear(self, data: bytes) -> Any:
        """Give the peer what the server sends."""
        self.client.receive_buffer()[: len(data)] = data
        self.client.received(len(data))
        return self.client.next_message()

    async def reply(self) -> Any:
        """The next reply that the peer reads."""
        while (message := self.client.next_message()) is None:
            self.client.received(await self.stream.receive_into(self.client.receive_buffer()))
        return message

    def fetch(
        self, partition: Parked, wait_ms: int, offset: int = 0, tags: tuple[bytes, ...] = (), epoch: int = 0
    ) -> int:
        """Send a fetch; return its request id."""
        self.next_id += 1
        fetch = Fetch(self.next_id, TOPIC, 0, offset, epoch, 1 << 20, wait_ms, tags=tags)
        self.outbox.fetch(partition, self.tell(fetch))
        return self.next_id


class PassedLog(EmptyLog):
    """A log of which everything is passed over: five messages of reign 1, then what is of reign 2."""

    def __init__(self) -> None:
        self.parts_at: int | None = None

    def divergence(self, offset: int, epoch: int) -> int | None:
        return self.parts_at

    def epoch_up_to(self, epoch: int) -> int:
        return epoch

    async def read(self, offset: int, bytes_max: int, end: int, **options: Any) -> ReadResult:
        await trio.lowlevel.checkpoint()
        first = offset < 5
        return ReadResult([], 0, min(end, 5) if first else end, 1 if first else 2, 100)


@pytest.mark.parametrize("what", ["another reign", "trimmed", "parted", "the same reign"])
def test_g06_how_far_a_long_poll_has_looked_is_told_before_what_does_not_go_on_from_there(
    run_virtual: Any, what: str
) -> None:
    """On a replica, whose log goes on under another primary while a fetch waits for it."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair, partition = Pair(nursery), Parked()
            partition.log = log = PassedLog()
            partition.committed_offset = 3 if what == "the same reign" else 5
            request_id = pair.fetch(partition, 10_000, tags=(b"x",))
            await trio.sleep(1)
            assert partition.waiting, "everything was passed over"
            began = trio.current_time()
            if what == "trimmed":
                log.start_offset = 7
            if what == "parted":
                log.parts_at = 4
            partition.committed_offset = 5 if what == "the same reign" else 9
            partition.wake(request_id)
            reply = await pair.reply()
            assert (reply.request_id, reply.next_offset, reply.next_epoch, len(reply.batches)) == (request_id, 5, 1, 0)
            assert (trio.current_time() == began) == (what != "the same reign")
            nursery.cancel_scope.cancel()

    run_virtual(main)


@pytest.mark.parametrize("what", ["only that", "parted", "closed"])
def test_g08_what_was_passed_over_and_is_not_committed_any_more_is_no_part_of_an_answer(
    run_virtual: Any, what: str
) -> None:
    """A flush failed meanwhile: the reader is not moved past it, and reads what the next reign has in that place."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair, partition = Pair(nursery), Parked()
            partition.log = log = PassedLog()
            partition.committed_offset = 3
            request_id = pair.fetch(partition, 10_000, offset=1, tags=(b"x",))
            await trio.sleep(1)
            partition.committed_offset = 5
            partition.wake(request_id)
            await trio.sleep(1)
            assert partition.waiting, "everything was passed over"
            partition.committed_offset = 2
            log.parts_at = 4 if what == "parted" else None
            partition.closure = (Code.NOT_PRIMARY, "the reign is over") if what == "closed" else None
            reply = await pair.reply()
            assert reply.request_id == request_id
            if what == "closed":
                assert (type(reply), reply.code) == (Failed, Code.NOT_PRIMARY)
            else:
                # As far as it is committed now, and no further: below that nothing was taken back.
                assert (reply.next_offset, reply.next_epoch, reply.committed_offset, len(reply.batches)) == (2, 1, 2, 0)
            nursery.cancel_scope.cancel()

    run_virtual(main)


@pytest.mark.parametrize("tags", [(), (b"x",)])
@pytest.mark.parametrize("offset", [3, 7])
def test_a_reader_that_is_ahead_of_a_copy_waits_there_and_does_not_ask_again_and_again(
    run_virtual: Any, offset: int, tags: tuple[bytes, ...]
) -> None:
    """Of a reign that nobody has told the copy of, below and beyond what is committed there."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair, partition = Pair(nursery), Parked()
            partition.log = log = PassedLog()
            log.parts_at = 2
            partition.committed_offset, partition.judged_epoch_max = 5, 1
            request_id = pair.fetch(partition, 2_000, offset=offset, tags=tags, epoch=2)
            began = trio.current_time()
            reply = await pair.reply()
            assert (reply.request_id, reply.next_offset, len(reply.batches)) == (request_id, offset, 0)
            assert round(trio.current_time() - began, 3) == 2
            told = pair.fetch(partition, 2_000, offset=offset, tags=tags, epoch=1)
            reply = await pair.reply()
            assert (reply.request_id, reply.code) == (told, Code.DIVERGED)
            assert round(trio.current_time() - began, 3) == 2, "of what it may judge it tells at once"
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_every_wait_ends_in_its_own_time_whatever_the_order_they_came_in(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair, partition = Pair(nursery), Parked()
            began = trio.current_time()
            waits = {pair.fetch(partition, wait_ms): wait_ms for wait_ms in (5_000, 1_000, 30_000, 3_000, 1_000)}
            for wait_ms in sorted(waits.values()):
                reply = await pair.reply()
                assert isinstance(reply, Fetched)
                assert waits[reply.request_id] == wait_ms
                assert round(trio.current_time() - began, 3) == wait_ms / 1000
            assert not partition.waiting
            assert not pair.outbox.parked
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_a_fetch_that_is_woken_is_answered_at_once_and_its_deadline_means_nothing_more(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair, partition = Pair(nursery), Parked()
            late = pair.fetch(partition, 9_000)
            for _ in range(2_000):
                woken = pair.fetch(partition, 2_000)
                await trio.sleep(0.001)
                partition.wake(woken)
                assert (await pair.reply()).request_id == woken
                assert len(pair.outbox._deadlines) <= 24, "deadlines of fetches that were answered pile up"
            assert (await pair.reply()).request_id == late
            assert round(trio.current_time(), 1) == 9.0
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_parked_fetches_cost_nothing_when_others_wake(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair, partition = Pair(nursery), Parked()
            for _ in range(1_000):
                pair.fetch(partition, 60_000)
            await trio.testing.wait_all_tasks_blocked()

            class Turns(trio.abc.Instrument):
                def __init__(self) -> None:
                    self.of: dict[str, int] = {}

                def before_task_step(self, task: trio.lowlevel.Task) -> None:
                    self.of[task.name] = self.of.get(task.name, 0) + 1

            turns = Turns()
            trio.lowlevel.add_instrument(turns)
            for _ in range(20):
                partition.wake(pair.fetch(partition, 5_000))
                await pair.reply()
            trio.lowlevel.remove_instrument(turns)
            late = sum(count for name, count in turns.of.items() if "late_fetches" in name)
            assert late <= 2, f"the timer's task ran {late} times though no wait was over"
            assert len(pair.outbox.parked) == 1_000
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_a_fetch_at_a_partition_that_serves_nothing_any_more_is_told_so_at_once(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair, partition = Pair(nursery), Parked()
            waiting = pair.fetch(partition, 60_000)
            partition.closure = Code.UNKNOWN_TOPIC, "the topic was deleted"
            partition.wake(waiting)
            later = pair.fetch(partition, 60_000)
            for request_id in (waiting, later):
                assert await pair.reply() == Failed(request_id, Code.UNKNOWN_TOPIC, "the topic was deleted", {})
            assert trio.current_time() == 0
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_an_outbox_that_is_closed_leaves_no_fetch_parked(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair, partition = Pair(nursery), Parked()
            for _ in range(3):
                pair.fetch(partition, 60_000)
            pair.outbox.close()
            assert not partition.waiting
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_after_a_send_that_was_cut_nothing_more_is_sent(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair = Pair(nursery)
            pair.outbox.reader = trio.lowlevel.current_task()
            for request_id in (1, 2):
                pair.tell(Call(request_id, "x", {}))
            pair.outbox.push(Result(1, "x" * 700_000))
            pair.outbox.push(Result(2, "x" * 700_000))
            with trio.move_on_after(1) as scope:
                await pair.outbox.flush()  # the peer does not read: the stream takes a part of it
            assert scope.cancelled_caught
            pair.outbox.push(Fatal(Code.SHUTTING_DOWN, "bye"))
            assert pair.outbox.frames_queued == 0
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_g20_a_peer_that_does_not_read_holds_up_what_is_made_for_it(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair = Pair(nursery)
            waited = 0
            for request_id in range(1, 200):
                with trio.move_on_after(1) as scope:
                    await pair.outbox.room()
                waited += scope.cancelled_caught
                if scope.cancelled_caught:
                    break
                pair.tell(Ping(request_id) if request_id % 2 else Call(request_id, "x", {}))
                answer: Any = Pong(request_id) if request_id % 2 else Result(request_id, "x" * 100_000)
                pair.outbox.push(answer)
            assert waited == 1
            assert sum(map(len, pair.outbox._buffers)) < 2_000_000
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_what_is_sent_in_pieces_arrives_whole_and_in_order() -> None:
    buffers = [b"head", bytes(range(256)) * (4 * PIECE_BYTES // 256), b"", b"tail"]
    pieces = list(in_pieces(buffers))
    assert b"".join(bytes(part) for piece in pieces for part in piece) == b"".join(buffers)
    assert [sum(map(len, piece)) for piece in pieces] == [PIECE_BYTES] * 4 + [8]


def test_a_few_replies_go_without_waiting_and_what_the_link_does_not_take_is_sent_by_waiting(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair = Pair(nursery)
            outbox, sent = pair.outbox, bytearray()
            room = [1_000, 3]

            def send_now(buffers: Sequence[Buffer]) -> int:
                data = b"".join(buffers)[: room.pop(0)]
                sent.extend(data)
                return len(data)

            outbox._stream.send_now = send_now  # type: ignore[method-assign]
            outbox.push(Pong(pair.tell(Ping(1)).request_id))
            assert outbox.flush_now()
            outbox.push(Pong(pair.tell(Ping(2)).request_id))
            assert not outbox.flush_now()
            await outbox.flush()
            sent += await pair.stream.receive_some()
            assert [pair.hear(bytes(sent)), pair.client.next_message()] == [Pong(1), Pong(2)]
            nursery.cancel_scope.cancel()

    run_virtual(main)


def test_many_replies_and_long_ones_are_left_to_a_send_that_may_wait(run_virtual: Any) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            pair = Pair(nursery)
            pair.outbox._stream.send_now = lambda buffers: sum(map(len, buffers))  # type: ignore[method-assign]
            for request_id in range(65):
                pair.tell(Ping(request_id))
                pair.outbox.push(Pong(request_id))
            assert not pair.outbox.flush_now()
            await pair.outbox.flush()
            pair.tell(Call(100, "x", {}))
            pair.outbox.push(Result(100, "x" * 100_000))
            assert not pair.outbox.flush_now()
            nursery.cancel_scope.cancel()

    run_virtual(main)
