"""QUIC: handshakes under way of addresses that were proved are bounded apart, and an honest client gets in (G20)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from mqcore.abc import Link, TlsOptions, TransportContext
from mqcore.registry import create_transport
from mqcore_quic._config import QuicOptions
from mqcore_quic._engine import client_configuration, engine_for
from mqcore_quic._half_open import HalfOpen, network_of

OPTIONS = QuicOptions()


def address(network: int, port: int = 1) -> tuple[str, int]:
    return (f"10.0.0.{network}", port)


def filled(proved_max: int, *networks: int) -> HalfOpen[str]:
    half_open = HalfOpen[str](3, proved_max)
    for number, network in enumerate(networks):
        half_open.add(f"{network}-{number}", address(network, number), is_proved=True)
    return half_open


def test_beyond_so_many_unproved_ones_a_client_has_to_prove_its_address() -> None:
    half_open = HalfOpen[str](3, 8)
    for number in range(2):
        half_open.add(str(number), address(number), is_proved=False)
        assert not half_open.must_prove
    half_open.add("2", address(2), is_proved=False)
    assert half_open.must_prove
    half_open.discard("0")
    assert not half_open.must_prove


def test_proved_ones_do_not_have_others_prove_their_address() -> None:
    assert not filled(8, 1, 2, 3, 4).must_prove


def test_a_network_has_a_quarter_of_the_proved_ones() -> None:
    half_open = filled(12, 1, 1)
    assert half_open.giving_way(address(1)) is None
    half_open.add("1-third", address(1), is_proved=True)
    assert half_open.giving_way(address(1, 9)) == "1-0"
    assert half_open.giving_way(address(2)) is None


def test_where_there_are_as_many_as_may_be_the_network_that_has_most_gives_way() -> None:
    half_open = filled(8, 1, 2, 2, 3, 4, 5, 6)
    assert half_open.giving_way(address(7)) is None
    half_open.add("7-first", address(7), is_proved=True)
    assert len(half_open) == 8
    assert half_open.giving_way(address(8)) == "2-1"
    half_open.discard("2-1")
    assert half_open.giving_way(address(8)) is None
    half_open.add("8-first", address(8), is_proved=True)
    assert half_open.giving_way(address(9)) == "1-0"


def test_where_there_are_too_many_connections_the_oldest_unproved_one_goes_first() -> None:
    half_open = filled(8, 1)
    half_open.add("unproved", address(2), is_proved=False)
    assert half_open.oldest() == "unproved"
    half_open.discard("unproved")
    assert half_open.oldest() == "1-0"
    half_open.discard("1-0")
    half_open.discard("1-0")
    assert half_open.oldest() is None
    assert not half_open._networks


def test_addresses_of_one_subscriber_count_together() -> None:
    assert network_of(("2001:db8::1", 1, 0, 0)) == network_of(("2001:db8::ffff:2", 9, 0, 0))
    assert network_of(("2001:db8::1", 1, 0, 0)) != network_of(("2001:db8:0:1::1", 1, 0, 0))
    assert network_of(("fe80::1%lo", 1, 0, 1)) == network_of(("fe80::2", 1, 0, 1))
    assert network_of(address(1)) != network_of(address(2))


async def begin(host: str, port: int, ca: str) -> None:
    """Begin a handshake at ``host`` as far as the proof of the address, and go away."""
    engine = engine_for(OPTIONS, client_configuration(OPTIONS, TlsOptions(ca=ca), "quic://", "127.0.0.1"))
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as stranger:
        await stranger.bind((host, 0))
        await stranger.connect(("127.0.0.1", port))
        engine.connect(("127.0.0.1", port), 0.0)
        for data, _ in engine.transmit(0.0):
            await stranger.send(data)
        with trio.move_on_after(10):
            retry = await stranger.recv(2_048)
            engine.receive([(retry, len(retry))], ("127.0.0.1", port), 0.0)
            for data, _ in engine.transmit(0.0):
                await stranger.send(data)
            await stranger.recv(2_048)  # the server's answer: it has begun


@pytest.mark.parametrize("floods", [["127.0.0.2", "127.0.0.3"], ["127.0.0.1"]], ids=["from-elsewhere", "beside-it"])
def test_g20_a_flood_of_proved_half_handshakes_is_bounded_and_a_client_connects(
    floods: list[str], tmp_path: Path
) -> None:
    authority = trustme.CA()
    server, ca = str(tmp_path / "server.pem"), str(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    Path(server).chmod(0o600)
    authority.cert_pem.write_to_path(ca)
    largest = [0, 0]

    async def flood(host: str, endpoint: Any, port: int) -> None:
        while True:
            await begin(host, port, ca)
            half_open = endpoint._half_open
            largest[0] = max(largest[0], len(half_open))
            largest[1] = max(largest[1], *(len(each) for each in half_open._networks.values()), 0)

    async def main() -> None:
        context = TransportContext(tls=TlsOptions(cert=server))
        url = "quic://127.0.0.1:0?half_open_max=0&half_open_proved_max=32&handshake_timeout_ms=60000"
        links: list[Link] = []
        with trio.fail_after(90):
            async with await create_transport(url, context).listen() as listener, trio.open_nursery() as nursery:
                endpoint: Any = listener._endpoint  # type: ignore[attr-defined]
                for host in floods:
                    nursery.start_soon(flood, host, endpoint, listener.url.address[1])
                while largest[1] < 8:  # noqa: ASYNC110 - what grows is no task of ours
                    await trio.sleep(0.01)
                for _ in range(5):
                    client = create_transport(str(listener.url), TransportContext(tls=TlsOptions(ca=ca)))
                    links += [await client.connect(), await listener.accept()]
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                for link in links:
                    nursery.start_soon(link.aclose)

    trio.run(main)
    assert largest[1] == 8
    assert largest[0] <= 32


def test_a_handshake_of_a_proved_address_has_its_time_too(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, ca = str(tmp_path / "server.pem"), str(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    Path(server).chmod(0o600)
    authority.cert_pem.write_to_path(ca)

    async def main() -> None:
        context = TransportContext(tls=TlsOptions(cert=server))
        url = "quic://127.0.0.1:0?half_open_max=0&handshake_timeout_ms=300"
        with trio.fail_after(60):
            async with await create_transport(url, context).listen() as listener:
                endpoint: Any = listener._endpoint  # type: ignore[attr-defined]
                await begin("127.0.0.2", listener.url.address[1], ca)
                assert len(endpoint._half_open) == 1
                while endpoint._half_open or endpoint._links:  # noqa: ASYNC110 - what times out is no task of ours
                    await trio.sleep(0.01)

    trio.run(main)
