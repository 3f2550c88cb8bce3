"""QUIC: a peer that is gone without a word. On a model network and virtual time, where a host can be killed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from mqcore.abc import ByteStream, Link, Listener, TlsOptions, TransportContext
from mqcore.registry import create_transport
from mqcore.testing import ModelNetwork, run_simulation
from mqcore_quic._packets import UNKNOWN
from mqcore_quic._silence import DOUBT_SECONDS

URL = "quic://127.0.0.1:7400"
IDLE_S = 10.0
"""The default."""


@pytest.fixture
def tls(tmp_path: Path) -> TlsOptions:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    made = authority.issue_cert("127.0.0.1")
    made.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    return TlsOptions(cert=str(tmp_path / "server.pem"), ca=str(tmp_path / "ca.pem"))


class Hosts:
    """A server and a client on hosts of their own, connected."""

    def __init__(self, tls: TlsOptions, query: str = "") -> None:
        self.network = ModelNetwork(0, latency_s=0.001)
        self._transport = lambda: create_transport(URL + query, TransportContext(tls=tls))
        self.listener: Listener
        self.link: Link
        self.ours: ByteStream
        self.theirs: ByteStream

    async def listen(self) -> None:
        with self.network.host("server"):
            self.listener = await self._transport().listen()

    async def connect(self) -> None:
        with self.network.host("client"):
            self.link = await self._transport().connect()
        self.ours = await self.link.open_stream()
        accepted = await self.listener.accept()
        self.theirs = await accepted.accept_stream()

    async def until_noticed(self) -> float:
        """How long a reader waits until it is told that its peer is gone."""
        began = trio.current_time()
        with trio.fail_after(1_000), pytest.raises(trio.BrokenResourceError):
            await self.ours.receive_some()
        return trio.current_time() - began


def run(hosts: Hosts, test: Callable[[], Awaitable[Any]]) -> None:
    async def main() -> None:
        with hosts.network.installed():
            await hosts.listen()
            await hosts.connect()
            await test()
            await hosts.link.aclose()
            await hosts.listener.aclose()

    run_simulation(main, seconds_max=2_000.0)


def test_a_killed_process_is_noticed_when_its_machine_refuses_what_is_for_it(tls: TlsOptions) -> None:
    hosts = Hosts(tls)

    async def test() -> None:
        hosts.network.kill_host("server")
        assert await hosts.until_noticed() < IDLE_S / 3 + DOUBT_SECONDS + 0.1

    run(hosts, test)


def test_a_process_that_was_started_again_says_that_it_does_not_know_the_connection(tls: TlsOptions) -> None:
    hosts = Hosts(tls)

    async def test() -> None:
        hosts.network.kill_host("server", silent=True)
        await hosts.listen()
        assert await hosts.until_noticed() < IDLE_S / 3 + DOUBT_SECONDS + 0.1
        with pytest.raises(trio.BrokenResourceError, match="does not know the connection any more"):
            await hosts.ours.send_all(b"x")
        await hosts.connect()
        await hosts.ours.send_all(b"hello")
        assert await hosts.theirs.receive_some() == b"hello"

    run(hosts, test)


def test_a_machine_without_power_is_noticed_by_its_silence(tls: TlsOptions) -> None:
    hosts = Hosts(tls)

    async def test() -> None:
        hosts.network.kill_host("server", silent=True)
        assert IDLE_S - 0.1 < await hosts.until_noticed() < IDLE_S + IDLE_S / 3 + 0.1

    run(hosts, test)


def test_an_idle_connection_outlives_any_number_of_its_time_limits(tls: TlsOptions) -> None:
    hosts = Hosts(tls, "?idle_timeout_ms=300")

    async def test() -> None:
        await trio.sleep(60)
        await hosts.ours.send_all(b"still here")
        assert await hosts.theirs.receive_some() == b"still here"

    run(hosts, test)


def test_who_claims_that_a_connection_is_not_known_is_not_believed_against_its_peer(tls: TlsOptions) -> None:
    """Anybody can send a datagram in a server's name."""
    hosts = Hosts(tls)

    async def test() -> None:
        server = hosts.listener._endpoint._sock.sock  # type: ignore[attr-defined]
        client = hosts.ours.owner._outlet._sock.sock  # type: ignore[attr-defined]
        for _ in range(50):
            server.sendmsg([UNKNOWN], (), 0, client.getsockname())
            await trio.sleep(DOUBT_SECONDS / 4)
        await hosts.ours.send_all(b"still here")
        assert await hosts.theirs.receive_some() == b"still here"

    run(hosts, test)


def test_packets_of_unknown_connections_are_answered_now_and_then_and_never_to_an_answer(tls: TlsOptions) -> None:
    hosts = Hosts(tls)

    async def test() -> None:
        with hosts.network.host("stranger"):
            stranger = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        await stranger.connect(("127.0.0.1", 7400))
        before = hosts.network.counts["datagram"]
        for _ in range(1_000):
            await stranger.send(b"\x41" + bytes(40))
        await trio.sleep(0.005)
        assert 1_000 < hosts.network.counts["datagram"] - before < 1_010
        assert await stranger.recv(100) == UNKNOWN
        await trio.sleep(1)
        before = hosts.network.counts["datagram"]
        await stranger.send(UNKNOWN)
        await trio.sleep(0.5)
        assert hosts.network.counts["datagram"] - before == 1
        stranger.close()

    run(hosts, test)


def test_a_goodbye_takes_as_long_as_the_peer_goes_on_taking(tls: TlsOptions) -> None:
    """A megabyte at 150 kB a second: longer than a silent peer is waited for."""
    hosts = Hosts(tls)

    async def test() -> None:
        hosts.network.datagrams.inbox_bytes = 15_000
        hosts.network.latency_s = 0.05
        data = bytes(range(256)) * 4_000
        await hosts.ours.send_all(data)
        began = trio.current_time()
        await hosts.link.aclose()
        assert trio.current_time() - began > 2
        received = bytearray()
        while more := await hosts.theirs.receive_some():
            received += more
        assert received == data

    run(hosts, test)


def test_a_goodbye_to_a_peer_that_is_gone_ends_soon(tls: TlsOptions) -> None:
    hosts = Hosts(tls)

    async def test() -> None:
        await hosts.ours.send_all(bytes(100_000))
        hosts.network.cut("client", "server")
        began = trio.current_time()
        await hosts.link.aclose()
        assert trio.current_time() - began < 1.1

    run(hosts, test)
