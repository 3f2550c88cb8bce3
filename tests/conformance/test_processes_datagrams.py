"""T1: the proxy of datagrams, on real sockets, with a connection of QUIC through it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from mqcore.abc import ByteStream, Link
from mqcore.registry import create_transport
from mqcore_conformance.plans import FaultPlan
from mqcore_conformance.worlds._addresses import address
from mqcore_conformance.worlds.processes import _datagram_proxy
from mqcore_conformance.worlds.processes._datagram_proxy import DatagramProxy, proxy_for
from mqcore_conformance.worlds.processes._proxy import Proxy


@attrs.frozen
class Wire:
    """A proxy, the two ends of a stream through it, the broker's link, and what was struck."""

    proxy: DatagramProxy
    client: ByteStream
    broker: ByteStream
    accepted: Link
    hits: list[tuple[str, str]]


@asynccontextmanager
async def wire(folder: Path) -> AsyncIterator[Wire]:
    hits: list[tuple[str, str]] = []
    broker_url = address("quic", folder, "broker")
    async with await create_transport(broker_url).listen() as listener, trio.open_nursery() as nursery:
        proxy = proxy_for(
            "proxy-cut", address("quic", folder, "proxy"), broker_url, random.Random(0), lambda *hit: hits.append(hit)
        )
        assert isinstance(proxy, DatagramProxy)
        await nursery.start(proxy.run)
        link = await create_transport(proxy.url).connect()
        client = await link.open_stream()
        accepted = await listener.accept()
        yield Wire(proxy, client, await accepted.accept_stream(), accepted, hits)
        async with trio.open_nursery() as closing:
            closing.start_soon(link.aclose)
            closing.start_soon(accepted.aclose)
        nursery.cancel_scope.cancel()


async def pass_through(source: ByteStream, sink: ByteStream, data: bytes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.send_all, data)
        received = b""
        with trio.fail_after(60):
            while len(received) < len(data):
                more = await sink.receive_some()
                assert more
                received += more
    assert received == data


def strike(kind: str, target: str, duration_us: int = 0) -> FaultPlan:
    return FaultPlan(kind=kind, trigger="acks", when=1, target=target, duration_us=duration_us)


def test_a_connection_bears_what_a_bad_network_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOST", "TWICE", "LATE"):
        monkeypatch.setattr(_datagram_proxy, name, 0.05)

    async def main() -> None:
        async with wire(tmp_path) as ends:
            await pass_through(ends.client, ends.broker, random.Random(1).randbytes(300_000))
            await pass_through(ends.broker, ends.client, random.Random(2).randbytes(300_000))
            assert ends.hits == []

    trio.run(main)


@pytest.mark.parametrize("target", ["to-broker/reset", "to-broker/close", "from-broker/half-close"])
def test_a_connection_outlives_a_cut_and_a_new_port(tmp_path: Path, target: str) -> None:
    async def main() -> None:
        async with wire(tmp_path) as ends:
            before = {client.upstream.getsockname() for client in ends.proxy._clients.values()}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends.proxy.strike, strike("proxy-cut", target))
                await trio.testing.wait_all_tasks_blocked()
                await pass_through(ends.client, ends.broker, b"q" * 50_000)
            await pass_through(ends.broker, ends.client, b"r" * 50_000)
            after = {client.upstream.getsockname() for client in ends.proxy._clients.values()}
            assert ends.hits == [("proxy-cut", target)]
            assert (before == after) is (not target.endswith("/reset"))

    trio.run(main)


def test_a_stall_holds_one_direction_up_until_it_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with wire(tmp_path) as ends, trio.open_nursery() as nursery:
            nursery.start_soon(ends.proxy.strike, strike("proxy-stall", "to-broker", 3_600_000_000))
            await trio.testing.wait_all_tasks_blocked()
            await ends.client.send_all(b"question")
            with trio.move_on_after(0.1) as scope:
                await ends.broker.receive_some()
            assert scope.cancelled_caught
            ends.proxy.heal()
            with trio.fail_after(20):
                assert await ends.broker.receive_some() == b"question"
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_what_repeats_frames_is_an_end_of_the_streams_itself(tmp_path: Path) -> None:
    url = address("quic", tmp_path, "broker")
    assert isinstance(proxy_for("proxy-duplicate", url, url, random.Random(0), lambda *_: None), Proxy)
    url = address("tcp", tmp_path, "broker")
    assert isinstance(proxy_for("proxy-cut", url, url, random.Random(0), lambda *_: None), Proxy)
