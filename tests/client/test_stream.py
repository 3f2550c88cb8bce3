"""One stream: what it sends and when, what counts as silence, what a callback is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from mqcore.abc import Buffer, ByteStream
from mqcore.batch import encode_batch
from mqcore.client._stream import RequestStream, greet
from mqcore.errors import BrokenLinkError, RemoteProtocolError
from mqcore.limits import Limits
from mqcore.pieces import PIECE_BYTES
from mqcore.protocol import VERSION_MAX, Call, Code, Connection, Failed, Fatal, Message, Result, Role, Welcome

LIMITS = Limits(frame_bytes_max=1 << 24)


class Pipe(ByteStream):
    """One end of a memory stream; what it is asked to send is noted, and may take its time."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self.sends: list[int] = []
        self.slow_s = 0.0

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        data = await self.stream.receive_some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self.stream.receive_some(max_bytes)

    async def send_buffers(self, buffers: list[Buffer]) -> None:  # type: ignore[override]
        self.sends.append(sum(map(len, buffers)))
        await trio.sleep(self.slow_s)
        await self.stream.send_all(b"".join(buffers))

    async def send_all(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self.stream.aclose()


class Peer:
    """The broker's side of the stream, by hand."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self.connection = Connection(
            Role.BROKER, frame_bytes_max=1 << 24, requests_in_flight_max=2, bytes_in_flight_max=1 << 24
        )

    async def receive(self) -> Message:
        while (message := self.connection.next_message()) is None:
            data = await self.stream.receive_some()
            view = self.connection.receive_buffer()
            view[: len(data)] = data
            self.connection.received(len(data))
        return message

    async def send(self, message: Message) -> None:
        await self.stream.send_all(b"".join(self.connection.send(message)))


def with_stream(test: Callable[[RequestStream, Pipe, Peer], Awaitable[None]]) -> None:
    async def main() -> None:
        near, far = trio.testing.memory_stream_pair()
        pipe, peer = Pipe(near), Peer(far)
        stated = {"frame_bytes_max": 1 << 24, "requests_in_flight_max": 2, "bytes_in_flight_max": 1 << 24}
        welcome = Welcome(VERSION_MAX, b"s" * 16, b"n" * 16, "node", 1, 1, b"i" * 16, "primary", stated)

        async def answer() -> None:
            await peer.receive()
            await peer.send(welcome)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            stream = await greet(pipe, name="test", session=b"", limits=LIMITS)
        pipe.sends.clear()
        await test(stream, pipe, peer)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def call(stream: RequestStream, size: int = 0) -> Call:
    return Call(stream.next_id(), "operate", {"x": "x" * size})


def test_requests_that_gathered_go_out_in_one_write_and_large_ones_in_pieces() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        stream.request(call(stream), print)
        stream.request(call(stream), print)
        await stream.flush()
        assert len(pipe.sends) == 1
        for _ in range(2):
            message = await peer.receive()
            await peer.send(Result(message.request_id, None))  # type: ignore[union-attr]
        with trio.move_on_after(1):
            await stream.receive()
        pipe.sends.clear()
        pipe.slow_s = 10.0
        began = trio.current_time()
        stream.request(call(stream, 3 * PIECE_BYTES), print)
        await stream.flush()
        assert pipe.sends[:3] == [PIECE_BYTES] * 3
        assert trio.current_time() - began == pytest.approx(40)
        assert trio.current_time() - stream.active_at < 1, "each piece that was taken is a sign of life"

    with_stream(test)


def test_a_batch_of_256_kilobyte_messages_is_one_send() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        batch = encode_batch([bytes(1024)] * 256, created_ms=0, limits=Limits())
        stream.produce(bytes(16), 0, 0, batch, None)
        await stream.flush()
        assert len(pipe.sends) == 1

    with_stream(test)


def test_small_sends_are_no_sign_of_life_of_the_peer() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        await trio.sleep(5)
        stream.ping()
        await stream.flush()
        assert trio.current_time() - stream.active_at == pytest.approx(5)

    with_stream(test)


def test_a_large_send_that_is_cancelled_in_the_middle_closes_the_stream() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        pipe.slow_s = 10.0
        stream.request(call(stream, 3 * PIECE_BYTES), print)
        with trio.move_on_after(15):
            await stream.flush()
        with pytest.raises(trio.ClosedResourceError):
            await pipe.stream.send_all(b"x")

    with_stream(test)


def test_what_a_cancelled_flush_left_is_announced_and_sent_by_the_next() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        announced: list[bool] = []
        stream.on_left_over = lambda: announced.append(True)
        stream.request(call(stream), print)
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.flush()
        assert announced == [True]
        await stream.flush()
        assert isinstance(await peer.receive(), Call)

    with_stream(test)


def test_each_callback_gets_its_reply_or_none_when_the_connection_broke() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        replies: list[Message | None] = []
        credit: list[bool] = []
        stream.on_credit = lambda: credit.append(True)
        stream.request(call(stream), replies.append)
        stream.request(call(stream), replies.append)
        assert not stream.may_send(1)
        await stream.flush()
        message = await peer.receive()
        await peer.send(Failed(message.request_id, Code.REFUSED, "no", {}))  # type: ignore[union-attr]
        await peer.send(Fatal(Code.SHUTTING_DOWN, "stopping"))
        await stream.receive()
        assert isinstance(stream.why_over, RemoteProtocolError)
        assert stream.why_over.code == Code.SHUTTING_DOWN
        assert credit == []
        stream.broken()
        assert [type(reply) for reply in replies] == [Failed, type(None)]

    with_stream(test)


def test_credit_that_was_wanted_is_announced_when_replies_come() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        credit: list[bool] = []
        stream.on_credit = lambda: credit.append(True)
        for _ in range(2):
            stream.request(call(stream), lambda reply: None)
        await stream.flush()
        assert not stream.may_send(1)
        message = await peer.receive()
        await peer.send(Result(message.request_id, None))  # type: ignore[union-attr]
        with trio.move_on_after(1):
            await stream.receive()
        assert credit == [True]
        assert stream.may_send(1)

    with_stream(test)


def test_a_reader_waits_for_as_long_as_bytes_come_and_no_longer() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        stream.request(call(stream))
        await stream.flush()
        message = await peer.receive()
        data = b"".join(peer.connection.send(Result(message.request_id, "x" * 100)))  # type: ignore[union-attr]

        async def drip() -> None:
            for position in range(0, len(data), 10):
                await trio.sleep(4)
                await peer.stream.send_all(data[position : position + 10])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert isinstance(await stream.receive_message(5.0), Result)
        with pytest.raises(BrokenLinkError, match="silent for 5 s"):
            await stream.receive_message(5.0)

    with_stream(test)


def test_a_reader_that_is_interrupted_returns_with_nothing_and_loses_nothing() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        stream.request(call(stream))
        await stream.flush()
        message = await peer.receive()
        data = b"".join(peer.connection.send(Result(message.request_id, "x" * 100)))  # type: ignore[union-attr]
        await peer.stream.send_all(data[:20])

        async def interrupt() -> None:
            await trio.sleep(1)
            stream.interrupt()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            assert await stream.receive_message(5.0) is None
            assert not stream.is_at_end
        await peer.stream.send_all(data[20:])
        assert isinstance(await stream.receive_message(5.0), Result)

    with_stream(test)


def test_what_a_link_takes_at_once_is_sent_without_waiting_and_the_rest_stays_queued() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        taken: list[bytes] = []

        def send_now(buffers: Sequence[Buffer]) -> int:
            taken.append(b"".join(buffers)[:10])
            return 10

        pipe.send_now = send_now  # type: ignore[method-assign]
        stream.request(call(stream), print)
        whole = b"".join(stream.unsent)
        stream.flush_now()
        assert taken == [whole[:10]]
        assert b"".join(stream.unsent) == whole[10:]
        pipe.sends.clear()
        await stream.flush()
        assert pipe.sends == [len(whole) - 10]

    with_stream(test)


def test_a_link_that_takes_nothing_at_once_gets_everything_by_waiting() -> None:
    async def test(stream: RequestStream, pipe: Pipe, peer: Peer) -> None:
        stream.request(call(stream), print)
        stream.flush_now()
        await stream.flush()
        assert isinstance(await peer.receive(), Call)

    with_stream(test)
