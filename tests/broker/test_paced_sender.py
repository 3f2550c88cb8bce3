"""A sender that shows progress: every byte goes, in order, in pieces that follow the speed of the peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from mqcore.abc import Buffer, ByteStream
from mqcore.broker._paced_sender import PacedSender


class Sink(ByteStream):
    """Takes ``rate`` bytes a second, and notes the size of every call."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.data = b""
        self.calls: list[int] = []

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        self.calls.append(sum(map(len, buffers)))
        await trio.sleep(self.calls[-1] / self.rate)
        self.data += b"".join(buffers)

    async def receive_into(self, buffer: Any) -> int:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise NotImplementedError

    async def send_all(self, data: Any) -> None:
        raise NotImplementedError

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError


REPLY = [b"head", bytes(range(256)) * 4096 * 4, b"tail"]


def test_a_slow_peer_is_seen_to_take_bytes_all_the_time_that_a_large_reply_needs(run_virtual: Any) -> None:
    async def main() -> None:
        sink = Sink(rate=20_000)
        sender = PacedSender(sink, trio.current_time)
        quiet = 0.0
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await sender.send(REPLY)
                nursery.cancel_scope.cancel()

            nursery.start_soon(send)
            while True:
                await trio.sleep(0.5)
                assert sender.sending_since is not None
                quiet = max(quiet, trio.current_time() - sender.sending_since)
        assert trio.current_time() > 200
        assert quiet < 4
        assert sink.data == b"".join(REPLY)

    run_virtual(main)


def test_a_fast_peer_soon_gets_a_large_reply_in_one_call(run_virtual: Any) -> None:
    async def main() -> None:
        sink = Sink(rate=1e9)
        sender = PacedSender(sink, trio.current_time)
        for _ in range(3):
            await sender.send(REPLY)
        assert len(sink.calls) > 2
        sink.calls.clear()
        await sender.send(REPLY)
        assert len(sink.calls) == 1
        assert sink.data == b"".join(REPLY) * 4
        assert sender.sending_since is None
        sink.rate = 1e6
        sink.calls.clear()
        for _ in range(8):
            await sender.send(REPLY)
        assert max(sink.calls[-20:]) <= 128 * 1024, "pieces shrink again once the peer is slow"

    run_virtual(main)


@pytest.mark.parametrize(("sizes", "joined"), [((10, 20, 30), True), ((40_000, 40_000), False)])
def test_small_frames_are_joined_and_large_ones_are_not_copied(
    run_virtual: Any, sizes: tuple[int, ...], joined: bool
) -> None:
    counts: list[int] = []

    class Counting(Sink):
        async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
            counts.append(len(buffers))
            await super().send_buffers(buffers)

    async def main() -> None:
        sink = Counting(rate=1e9)
        await PacedSender(sink, trio.current_time).send([bytes(size) for size in sizes])
        assert sink.data == bytes(sum(sizes))
        assert (counts == [1]) is joined

    run_virtual(main)
