"""T1: the proxy between clients and broker, on real sockets of both transports."""

from __future__ import annotations

import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from mqcore.abc import ByteStream
from mqcore.protocol import Kind
from mqcore.registry import create_transport
from mqcore_conformance.plans import FaultPlan
from mqcore_conformance.worlds._addresses import address
from mqcore_conformance.worlds.processes._proxy import Proxy

HEAD = struct.Struct("<IBBHI")


def frame(kind: Kind, payload: bytes) -> bytes:
    return HEAD.pack(len(payload), kind, 0, 0, 1) + payload


class Wire:
    """A proxy, and the two ends of one connection through it."""

    def __init__(self, proxy: Proxy, client: ByteStream, broker: ByteStream, hits: list[tuple[str, str]]) -> None:
        self.proxy = proxy
        self.client = client
        self.broker = broker
        self.hits = hits


@asynccontextmanager
async def wire(folder: Path, transport: str) -> AsyncIterator[Wire]:
    hits: list[tuple[str, str]] = []
    broker_url = address(transport, folder, "broker")
    async with await create_transport(broker_url).listen() as listener, trio.open_nursery() as nursery:
        proxy = Proxy(address(transport, folder, "proxy"), broker_url, random.Random(0), lambda *hit: hits.append(hit))
        await nursery.start(proxy.run)
        link = await create_transport(proxy.url).connect()
        client = await link.open_stream()
        accepted = await listener.accept()
        yield Wire(proxy, client, await accepted.accept_stream(), hits)
        await link.aclose()
        await accepted.aclose()
        nursery.cancel_scope.cancel()


async def read(stream: ByteStream, size: int) -> bytes:
    data = b""
    with trio.fail_after(20):
        while len(data) < size:
            more = await stream.receive_some(size - len(data))
            if not more:
                break
            data += more
    return data


async def read_to_end(stream: ByteStream) -> bytes:
    data = b""
    with trio.fail_after(20):
        try:
            while more := await stream.receive_some():
                data += more
        except trio.BrokenResourceError:
            pass
    return data


def strike(kind: str, target: str, amount: int = 0, duration_us: int = 0) -> FaultPlan:
    return FaultPlan(kind=kind, trigger="acks", when=1, target=target, amount=amount, duration_us=duration_us)


pytestmark = pytest.mark.parametrize("transport", ["tcp", "unix", "quic"])


def test_what_is_not_struck_passes_in_both_directions(tmp_path: Path, transport: str) -> None:
    async def main() -> None:
        async with wire(tmp_path, transport) as ends:
            large = frame(Kind.PRODUCE, b"x" * 300_000)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.client.send_all, large)
                assert await read(ends.broker, len(large)) == large
            reply = frame(Kind.PRODUCED, b"y" * 24)
            await ends.broker.send_all(reply)
            assert await read(ends.client, len(reply)) == reply
            assert ends.hits == []

    trio.run(main)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_cut_lets_exactly_so_many_bytes_through(tmp_path: Path, transport: str, how: str) -> None:
    async def main() -> None:
        async with wire(tmp_path, transport) as ends:
            first, second = frame(Kind.CALL, b"a" * 20), frame(Kind.CALL, b"b" * 20)
            await ends.proxy.strike(strike("proxy-cut", f"to-broker/{how}", amount=len(first) + 5))
            await ends.client.send_all(first + second)
            assert await read_to_end(ends.broker) == first + second[:5]
            assert await read_to_end(ends.client) == b""
            assert ends.hits == [("proxy-cut", f"to-broker/{how}")]

    trio.run(main)


def test_after_a_half_close_the_other_direction_goes_on_for_a_while(tmp_path: Path, transport: str) -> None:
    async def main() -> None:
        async with wire(tmp_path, transport) as ends:
            await ends.proxy.strike(strike("proxy-cut", "to-broker/half-close"))
            await ends.client.send_all(frame(Kind.CALL, b"never arrives"))
            assert await read_to_end(ends.broker) == b""
            reply = frame(Kind.RESULT, b"{}")
            await ends.broker.send_all(reply)
            assert await read_to_end(ends.client) == reply

    trio.run(main)


def test_a_stall_holds_one_direction_and_loses_nothing(tmp_path: Path, transport: str) -> None:
    async def main() -> None:
        async with wire(tmp_path, transport) as ends, trio.open_nursery() as nursery:
            nursery.start_soon(ends.proxy.strike, strike("proxy-stall", "to-broker", duration_us=3_600_000_000))
            await trio.testing.wait_all_tasks_blocked()
            request, reply = frame(Kind.CALL, b"request"), frame(Kind.RESULT, b"reply")
            await ends.client.send_all(request)
            await ends.broker.send_all(reply)
            assert await read(ends.client, len(reply)) == reply
            with trio.move_on_after(0.05) as scope:
                await ends.broker.receive_some()
            assert scope.cancelled_caught, "the other direction stands"
            ends.proxy.heal()
            assert await read(ends.broker, len(request)) == request
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("target", ["to-broker/frame", "from-broker/frame"])
def test_a_frame_comes_twice_and_those_around_it_once(tmp_path: Path, transport: str, target: str) -> None:
    async def main() -> None:
        async with wire(tmp_path, transport) as ends:
            source, sink = (ends.client, ends.broker) if target.startswith("to") else (ends.broker, ends.client)
            await ends.proxy.strike(strike("proxy-duplicate", target, amount=1))
            frames = [frame(Kind.PRODUCE, letter * 50) for letter in (b"a", b"b", b"c")]
            await source.send_all(b"".join(frames))
            expected = frames[0] + frames[1] * 2 + frames[2]
            assert await read(sink, len(expected)) == expected
            assert ends.hits == [("proxy-duplicate", target)]

    trio.run(main)


def test_bytes_come_twice_in_a_batch_only_and_the_connection_ends(tmp_path: Path, transport: str) -> None:
    async def main() -> None:
        async with wire(tmp_path, transport) as ends:
            await ends.proxy.strike(strike("proxy-duplicate", "to-broker/bytes"))
            call, batch = frame(Kind.CALL, b"c" * 100), frame(Kind.PRODUCE, bytes(range(200)))
            await ends.client.send_all(call + batch)
            received = await read_to_end(ends.broker)
            assert received.startswith(call + batch[: HEAD.size + 24])
            assert len(call + batch) < len(received) <= len(call + batch) + 64

    trio.run(main)
