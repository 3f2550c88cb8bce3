"""QUIC: certificates that will not do, files that are renewed or broken, and a port that is blocked."""

from __future__ import annotations

import datetime
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import mqcore
from mqcore.abc import Link, Notice, TlsOptions, TransportContext
from mqcore.errors import NotReachedError, TransportError
from mqcore.limits import Limits
from mqcore.registry import create_transport
from mqcore_quic._config import QuicOptions
from mqcore_quic._engine import client_configuration, engine_for

DAY = datetime.timedelta(days=1)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(90):
            await test()

    trio.run(main)


def written(path: Path, data: bytes) -> str:
    path.touch(mode=0o600)
    path.write_bytes(data)
    return str(path)


def signed_by_itself(folder: Path) -> str:
    """A certificate for 127.0.0.1 that no authority has signed, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "alone")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, now - DAY, now + DAY)
    made = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return written(folder / "alone.pem", secret + made.public_bytes(pem))


async def linked(url: str, ca: str) -> Link:
    return await create_transport(url, TransportContext(tls=TlsOptions(ca=ca))).connect()


@pytest.mark.parametrize("engine", ["qh3", "aioquic"])
@pytest.mark.parametrize("kind", ["not-yet-valid", "self-signed", "of-another-with-the-same-name"])
def test_a_certificate_that_will_not_do_is_refused_with_the_reason(kind: str, engine: str, tmp_path: Path) -> None:
    authority, other = (trustme.CA(organization_name="o", organization_unit_name="u") for _ in range(2))
    now = datetime.datetime.now(datetime.UTC)
    later = authority.issue_cert("127.0.0.1", not_before=now + DAY, not_after=now + 2 * DAY)
    files = {
        "not-yet-valid": (written(tmp_path / "l", later.private_key_and_cert_chain_pem.bytes()), "not valid yet"),
        # As after `mqcore cert dev` was done anew: the authority that the client has been given is the earlier one.
        "of-another-with-the-same-name": (
            written(tmp_path / "s", other.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()),
            "signed by another authority|its authority is not known here",
        ),
        "self-signed": (signed_by_itself(tmp_path), "its authority is not known here|it is signed by itself"),
    }
    cert, told = files[kind]
    ca = written(tmp_path / "ca", authority.cert_pem.bytes())

    async def test() -> None:
        context = TransportContext(tls=TlsOptions(cert=cert))
        async with await create_transport("quic://127.0.0.1:0", context).listen() as listener:
            with pytest.raises(TransportError, match=told) as caught:
                await linked(f"{listener.url}?engine={engine}", ca)
            assert not caught.value.retryable
            assert "\n" not in str(caught.value)

    run(test)


def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_file_is_not_taken(
    tmp_path: Path,
) -> None:
    notices: list[Notice] = []
    first, second = trustme.CA(), trustme.CA()
    ca = [written(tmp_path / f"ca{number}", each.cert_pem.bytes()) for number, each in enumerate((first, second))]
    pems = [each.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes() for each in (first, second)]
    cert = written(tmp_path / "server", pems[0])

    async def test() -> None:
        context = TransportContext(tls=TlsOptions(cert=cert), report=notices.append)
        async with await create_transport("quic://127.0.0.1:0", context).listen() as listener:
            url = str(listener.url)

            async def is_shown(number: int) -> None:
                link = await linked(url, ca[number])
                peer = await listener.accept()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(link.aclose)
                    nursery.start_soon(peer.aclose)

            await is_shown(0)
            await trio.Path(cert).write_bytes(pems[1][: len(pems[1]) // 2])
            await is_shown(0)
            await is_shown(0)
            assert [notice.kind for notice in notices].count("certificate-not-loaded") == 1
            await trio.Path(cert).write_bytes(pems[1])
            await is_shown(1)
            with pytest.raises(TransportError, match="its authority is not known here"):
                await linked(url, ca[0])
            assert notices[-1].kind == "certificate-loaded"

    run(test)


def test_a_blocked_port_is_gone_around_only_where_a_second_url_says_so(tmp_path: Path) -> None:
    """Whatever is sent to the port is lost, as behind a firewall; a broker listens beside it without encryption."""
    ca = written(tmp_path / "ca", trustme.CA().cert_pem.bytes())
    build: Any = {"storage": "memory://", "flush": "none"}

    async def test() -> None:
        async with mqcore.open_broker(listen="tcp://127.0.0.1:0", **build) as broker:
            port = int(broker.urls[0].rpartition(":")[2])
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as blocked:
                blocked.bind(("127.0.0.1", port))
                url = f"quic://127.0.0.1:{port}?handshake_timeout_ms=500"
                with pytest.raises(NotReachedError, match="no handshake within"):
                    async with mqcore.connect(url, ca=ca, connect_timeout_ms=1500):
                        pass
                assert not broker.connections
                async with mqcore.connect(url, broker.urls[0], ca=ca, connect_timeout_ms=30_000) as client:
                    assert await client.admin.list_topics() == []

    run(test)


def test_handshakes_that_stall_make_way_where_there_are_as_many_connections_as_may_be(tmp_path: Path) -> None:
    """Who has proved an address could begin as many as there may be connections, and nobody else came in."""
    authority = trustme.CA()
    server = written(tmp_path / "server.pem", authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes())
    ca = written(tmp_path / "ca.pem", authority.cert_pem.bytes())
    most = 8
    options = QuicOptions(half_open_max=2)

    async def begin(stranger: Any, address: tuple[str, int]) -> None:
        """Begin a handshake as far as the proof of the address, and go away."""
        engine = engine_for(options, client_configuration(options, TlsOptions(ca=ca), "quic://", "127.0.0.1"))
        engine.connect(address, 0.0)
        for data, _ in engine.transmit(0.0):
            await stranger.sendto(data, address)
        with trio.move_on_after(0.2):
            data, _ = await stranger.recvfrom(2_048)
            engine.receive([(data, len(data))], address, 0.0)
            for again, _ in engine.transmit(0.0):
                await stranger.sendto(again, address)

    async def test() -> None:
        context = TransportContext(tls=TlsOptions(cert=server), limits=Limits(connections_max=most))
        async with await create_transport("quic://127.0.0.1:0?half_open_max=2", context).listen() as listener:
            first = await linked(str(listener.url), ca)
            for _ in range(2 * most):
                with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                    await stranger.bind(("127.0.0.1", 0))
                    await begin(stranger, ("127.0.0.1", listener.url.address[1]))
            endpoint: Any = listener._endpoint  # type: ignore[attr-defined]
            assert len(endpoint._links) == most
            with trio.fail_after(3):  # less than a handshake may last
                second = await linked(str(listener.url), ca)
            assert len(endpoint._links) <= most
            await first.open_stream()  # who is through is not given up
            for link in (first, second):
                await link.aclose()

    run(test)


@pytest.mark.parametrize("half_open_max", [0, 2, 64])
def test_who_has_not_proved_an_address_pushes_nobody_out_and_is_asked_to(half_open_max: int, tmp_path: Path) -> None:
    """Whatever keeps a listener full of half handshakes: proved ones, some of either, or ones that proved nothing."""
    authority = trustme.CA()
    server = written(tmp_path / "server.pem", authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes())
    ca = written(tmp_path / "ca.pem", authority.cert_pem.bytes())
    options, most = QuicOptions(), 4

    async def begin(address: tuple[str, int], *, comes_again: bool) -> bytes:
        """Begin a handshake and return the first answer, which is a retry or has begun it."""
        engine = engine_for(options, client_configuration(options, TlsOptions(ca=ca), "quic://", "127.0.0.1"))
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            await stranger.bind(("127.0.0.1", 0))
            engine.connect(address, 0.0)
            for data, _ in engine.transmit(0.0):
                await stranger.sendto(data, address)
            first, _ = await stranger.recvfrom(2_048)
            if comes_again and is_retry(first):
                engine.receive([(first, len(first))], address, 0.0)
                for data, _ in engine.transmit(0.0):
                    await stranger.sendto(data, address)
                await stranger.recvfrom(2_048)
        return bytes(first)

    def is_retry(datagram: bytes) -> bool:
        return datagram[0] & 0xF0 == 0xF0

    async def test() -> None:
        context = TransportContext(tls=TlsOptions(cert=server), limits=Limits(connections_max=most))
        url = f"quic://127.0.0.1:0?half_open_max={half_open_max}&handshake_timeout_ms=60000"
        async with await create_transport(url, context).listen() as listener:
            address = ("127.0.0.1", listener.url.address[1])
            endpoint: Any = listener._endpoint  # type: ignore[attr-defined]
            for number in range(most):
                first = await begin(address, comes_again=True)
                assert is_retry(first) == (number >= half_open_max)
            under_way = list(endpoint._links)
            assert len(under_way) == most
            for _ in range(3):
                assert is_retry(await begin(address, comes_again=False))
            assert list(endpoint._links) == under_way
            link = await linked(str(listener.url), ca)  # comes again by itself, and the oldest gives way
            assert list(endpoint._links)[: most - 1] == under_way[1:]
            await link.aclose()

    run(test)
