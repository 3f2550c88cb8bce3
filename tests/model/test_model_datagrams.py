"""Datagrams of the model network: each kind of trouble, and QUIC, which lives with all of them."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from mqcore.abc import Link, TlsOptions, TransportContext
from mqcore.registry import create_transport
from mqcore.testing import ModelNetwork, run_simulation, seeded

SERVER = ("127.0.0.1", 7443)


def simulate(network: ModelNetwork, main: Callable[[], Awaitable[Any]], seed: int = 0) -> Any:
    async def installed() -> Any:
        with network.installed():
            return await main()

    return run_simulation(installed, seed=seed, seconds_max=1_000)


def udp(network: ModelNetwork, host: str) -> Any:
    with network.host(host):
        return trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


async def two(network: ModelNetwork) -> tuple[Any, Any]:
    """A socket bound on the host "server", and one on the host "client" that is connected to it."""
    server, client = udp(network, "server"), udp(network, "client")
    await server.bind(SERVER)
    await client.connect(SERVER)
    return server, client


async def received(sock: Any) -> list[bytes]:
    """What comes until nothing has come for a second."""
    found = []
    while True:
        with trio.move_on_after(1) as scope:
            found.append(await sock.recv(65_536))
        if scope.cancelled_caught:
            return found


def sent_through(network: ModelNetwork, count: int = 400, size: int = 2) -> list[bytes]:
    """What arrives of ``count`` numbered datagrams."""

    async def main() -> list[bytes]:
        server, client = await two(network)
        for number in range(count):
            await client.send(number.to_bytes(2, "big").ljust(size, b"."))
        return await received(server)

    return simulate(network, main)  # type: ignore[no-any-return]


def numbered(count: int = 400) -> list[bytes]:
    return [number.to_bytes(2, "big") for number in range(count)]


def test_without_trouble_all_arrive_in_order() -> None:
    assert sent_through(ModelNetwork(0, latency_s=0.01)) == numbered()


def test_some_are_lost() -> None:
    network = ModelNetwork(1)
    network.datagrams.loss = 0.25
    arrived = sent_through(network)
    assert arrived == sorted(arrived)
    assert 50 < 400 - len(arrived) < 150
    assert network.counts["datagram-lost"] == 400 - len(arrived)


def test_some_come_twice() -> None:
    network = ModelNetwork(2)
    network.datagrams.duplication = 0.25
    arrived = sent_through(network)
    assert sorted(set(arrived)) == numbered()
    assert 50 < len(arrived) - 400 < 150


def test_some_are_held_back() -> None:
    network = ModelNetwork(3)
    network.datagrams.reordering = 0.25
    arrived = sent_through(network)
    assert arrived != numbered()
    assert sorted(arrived) == numbered()


def test_some_lose_their_end() -> None:
    network = ModelNetwork(4)
    network.datagrams.truncation = 0.25
    arrived = sent_through(network, size=100)
    assert len(arrived) == 400
    assert 50 < sum(len(data) < 100 for data in arrived) < 150


def test_what_is_longer_than_the_way_takes_vanishes() -> None:
    network = ModelNetwork(5)
    network.datagrams.mtu_bytes = 1_280
    assert sent_through(network, 3, 1_281) == []
    network = ModelNetwork(5)
    network.datagrams.mtu_bytes = 1_280
    assert len(sent_through(network, 3, 1_280)) == 3


def test_an_inbox_that_is_full_drops() -> None:
    network = ModelNetwork(6)
    network.datagrams.inbox_bytes = 1_000
    assert sent_through(network, 30, 100) == [data.ljust(100, b".") for data in numbered(10)]


def test_a_cut_loses_what_is_sent_and_what_is_on_its_way() -> None:
    network = ModelNetwork(7, latency_s=0.1)

    async def main() -> list[bytes]:
        server, client = await two(network)
        await client.send(b"on its way")
        network.cut("client", "server")
        await client.send(b"cut")
        await trio.sleep(1)
        assert await received(server) == []
        network.heal()
        await client.send(b"healed")
        return await received(server)

    assert simulate(network, main) == [b"healed"]


def test_others_see_a_client_at_a_new_address_after_a_rebinding_and_reach_it_there_only() -> None:
    network = ModelNetwork(8)

    async def main() -> None:
        server, client = await two(network)
        await client.send(b"one")
        _, before = await server.recvfrom(100)
        assert network.datagrams.rebind("client") == 1
        await client.send(b"two")
        _, after = await server.recvfrom(100)
        assert after != before
        await server.sendto(b"old", before)
        await server.sendto(b"new", after)
        assert await received(client) == [b"new"]

    simulate(network, main)


def test_who_is_connected_is_told_that_nobody_is_there_but_not_by_a_machine_without_power() -> None:
    network = ModelNetwork(9)

    async def main() -> None:
        _, client = await two(network)
        network.kill_host("server", silent=True)
        await client.send(b"to the dark")
        assert await received(client) == []
        with network.host("server"):
            pass
        await client.send(b"to nobody")
        with pytest.raises(ConnectionRefusedError):
            await client.recv(100)

    simulate(network, main)


def test_what_a_socket_cannot_do_it_says_as_the_kernel_does() -> None:
    network = ModelNetwork(10)

    async def main() -> None:
        server, client = await two(network)
        again = udp(network, "other")
        for call, number in (
            (again.bind(SERVER), errno.EADDRINUSE),
            (again.send(b""), errno.EDESTADDRREQ),
            (client.send(bytes(65_508)), errno.EMSGSIZE),
        ):
            with pytest.raises(OSError, match=os.strerror(number)) as info:
                await call
            assert info.value.errno == number
        async with trio.open_nursery() as nursery:

            async def waits() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await server.recv(1)

            nursery.start_soon(waits)
            await trio.sleep(1)
            server.close()

    simulate(network, main)


# ---- QUIC on it


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> TlsOptions:
    """Files of RSA: signatures of one length, so that a run repeats in lengths."""
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    own = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
    own.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return TlsOptions(cert=str(folder / "server.pem"), ca=str(folder / "ca.pem"))


@contextmanager
def weather(network: ModelNetwork, **trouble: float) -> Iterator[None]:
    for name, value in trouble.items():
        setattr(network.datagrams, name, value)
    yield
    network.datagrams.calm()


async def quic_links(network: ModelNetwork, tls: TlsOptions, seed: int, engine: str) -> tuple[Link, Link, Any]:
    def context(purpose: str) -> TransportContext:
        return TransportContext(random=seeded(seed, purpose), tls=tls)

    query = f"engine={engine}"
    with network.host("server"):
        listener = await create_transport(f"quic://127.0.0.1:7443?{query}", context("server")).listen()
    with network.host("client"):
        client = await create_transport(f"{listener.url}?{query}", context("client")).connect()
    return client, await listener.accept(), listener


async def carry(network: ModelNetwork, tls: TlsOptions, seed: int, engine: str, rebinds: bool) -> str:
    """Carry bytes both ways; return a digest of them."""
    client, server, listener = await quic_links(network, tls, seed, engine)
    ours = await client.open_stream()
    theirs = await server.accept_stream()
    content = seeded(seed, "content").randbytes(200_000)
    digest = hashlib.sha256()

    async def answer() -> None:
        taken = 0
        while taken < len(content):
            data = await theirs.receive_some(65_536)
            assert data
            taken += len(data)
            await theirs.send_all(data)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        nursery.start_soon(ours.send_all, content)
        taken = 0
        while taken < len(content):
            data = await ours.receive_some(65_536)
            assert data
            digest.update(data)
            taken += len(data)
            if rebinds and taken >= len(content) // 2:
                rebinds = network.datagrams.rebind("client") == 0
    assert digest.digest() == hashlib.sha256(content).digest()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose)
        nursery.start_soon(server.aclose)
    await listener.aclose()
    return digest.hexdigest()


TROUBLES: dict[str, dict[str, float]] = {
    "none": {},
    "loss": {"loss": 0.05},
    "duplication": {"duplication": 0.3},
    "reordering": {"reordering": 0.3},
    "truncation": {"truncation": 0.05},
    "all": {"loss": 0.03, "duplication": 0.1, "reordering": 0.1, "truncation": 0.03, "mtu_bytes": 1_252},
}


@pytest.mark.parametrize("engine", ["qh3", "aioquic"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_quic_carries_every_byte_through(trouble: str, engine: str, tls: TlsOptions) -> None:
    network = ModelNetwork(11, latency_s=0.005, jitter_s=0.001)

    async def main() -> None:
        with weather(network, **TROUBLES[trouble]):
            await carry(network, tls, 11, engine, rebinds=False)

    simulate(network, main, 11)
    assert network.counts["datagram"] > 300


@pytest.mark.parametrize("engine", ["qh3", "aioquic"])
def test_quic_goes_on_after_its_client_got_another_address(engine: str, tls: TlsOptions) -> None:
    network = ModelNetwork(12, latency_s=0.005)
    simulate(network, lambda: carry(network, tls, 12, engine, rebinds=True), 12)
    assert network.counts["rebind"] == 1


def test_the_same_seed_gives_the_same_times_and_lengths_of_quic(tls: TlsOptions) -> None:
    """Not the same bytes: the keys come from the library of the engine."""

    def run(seed: int) -> list[Any]:
        network = ModelNetwork(seed, latency_s=0.005, jitter_s=0.002)

        async def main() -> None:
            with weather(network, **TROUBLES["all"]):
                await carry(network, tls, seed, "qh3", rebinds=True)

        simulate(network, main, seed)
        return list(network.events)

    first = run(13)
    assert len(first) > 300
    assert run(13) == first
    assert run(14) != first
