"""Certificates of open connections, over TLS and over QUIC: whom they name, and what happens when they expire."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import mqcore
from mqcore.abc import ByteStream, Link, Notice, TlsOptions, TransportContext
from mqcore.registry import create_transport

SCHEMES = ("tls", "quic")
TEXT = "certificate has expired since it"
DAY_S = 86_400.0


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A server's certificate, a client's, and the authority of both."""
    authority = trustme.CA()
    found = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "server", "client")}
    authority.cert_pem.write_to_path(found["ca"])
    for name in ("server", "client"):
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(found[name])
        Path(found[name]).chmod(0o600)
    return found


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            await test()

    trio.run(main)


@asynccontextmanager
async def streams(
    scheme: str, files: dict[str, str], *, mutual: bool = False
) -> AsyncIterator[tuple[Link, Link, ByteStream, ByteStream]]:
    """Both ends of a connection, and of a stream on it; each has heard of the other."""
    asked = {"client_ca": files["ca"]} if mutual else {}
    shown = {"cert": files["client"]} if mutual else {}
    server = TransportContext(tls=TlsOptions(cert=files["server"], **asked))
    client = TransportContext(tls=TlsOptions(ca=files["ca"], **shown))
    async with await create_transport(f"{scheme}://127.0.0.1:0", server).listen() as listener:
        accepted: list[tuple[Link, ByteStream]] = []

        async def accept() -> None:
            peer = await listener.accept()
            accepted.append((peer, await peer.accept_stream()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            link = await create_transport(str(listener.url), client).connect()
            ours = await link.open_stream()
            await ours.send_all(b"question")
        ((peer, theirs),) = accepted
        assert await theirs.receive_some() == b"question"
        await theirs.send_all(b"answer")
        assert await ours.receive_some() == b"answer"
        yield link, peer, ours, theirs
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.aclose)
            nursery.start_soon(peer.aclose)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_knows_whom_the_certificate_names(scheme: str, files: dict[str, str]) -> None:
    async def test() -> None:
        async with streams(scheme, files) as (link, peer, _, _):
            subject = link.peer.tls_subject
            assert subject is not None
            assert re.fullmatch(r"OU=Testing cert #[\w-]+,O=trustme v[\d.]+", subject)
            assert link.peer.tls_names == ("IP Address:127.0.0.1",)
            assert peer.peer.tls_subject is None  # nobody was asked for one

    run(test)


def who_knows_until_when(link: Any, stream: Any) -> Any:
    """The object that keeps until when the peer's certificate is valid."""
    return stream if hasattr(stream, "_expires_at") else link._links[0]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_server_whose_certificate_expires_is_left_at_its_next_byte(scheme: str, files: dict[str, str]) -> None:
    async def test() -> None:
        async with streams(scheme, files) as (link, _, ours, theirs):
            keeper = who_knows_until_when(link, ours)
            assert trio.current_time() + DAY_S < keeper._expires_at < trio.current_time() + 1e12
            keeper._expires_at = trio.current_time()
            await ours.send_all(b"one more")  # what this end says goes: it is about who the other one is
            assert await theirs.receive_some() == b"one more"
            await theirs.send_all(b"under the old name")
            with pytest.raises(trio.BrokenResourceError, match=TEXT):
                await ours.receive_some()

    run(test)


def test_a_client_whose_certificate_expires_is_let_go_at_its_next_byte(files: dict[str, str]) -> None:
    async def test() -> None:
        async with streams("tls", files, mutual=True) as (_, _, ours, theirs):
            theirs._expires_at = trio.current_time()  # type: ignore[attr-defined]
            await ours.send_all(b"under the old name")
            with pytest.raises(trio.BrokenResourceError, match=TEXT):
                await theirs.receive_some()

    run(test)


def valid_for_a_second_and_then_as_ever(scheme: str, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have the first certificate expire a second after its handshake; return until when those were that were seen."""
    looked: list[float] = []
    if scheme == "tls":
        module: Any = __import__("ssl")
        original = module.cert_time_to_seconds

        def seconds(text: str) -> float:
            looked.append(original(text))
            return time.time() + 1 if len(looked) == 1 else looked[-1]

        monkeypatch.setattr(module, "cert_time_to_seconds", seconds)
    else:
        from mqcore_quic._engine import _Qh3

        whole = _Qh3.peer_expires_in

        def left(engine: _Qh3) -> float:
            found = whole(engine)
            if found < 1e12:  # of a client: to a listener nobody shows one
                looked.append(found)
            return 1.0 if len(looked) == 1 else found

        monkeypatch.setattr(_Qh3, "peer_expires_in", left)
    return looked


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_client_whose_server_renews_its_certificate_goes_on(
    scheme: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It connects again by itself, and no send is lost or refused on the way."""
    looked = valid_for_a_second_and_then_as_ever(scheme, monkeypatch)
    notices: list[Notice] = []
    build: Any = {"storage": "memory://", "flush": "none", "tls": {"cert": files["server"]}}

    async def test() -> None:
        async with mqcore.open_broker(listen=f"{scheme}://127.0.0.1:0", report=notices.append, **build) as broker:
            async with mqcore.connect(broker.urls[0], ca=files["ca"]) as client:
                await client.admin.create_topic("t")
                async with client.producer("t") as producer:
                    sent = 0
                    while len(looked) < 2:
                        await producer.send(str(sent).encode())
                        sent += 1
                        await trio.sleep(0.05)
                    await producer.send(b"last")
                async with client.consumer("t", start="start") as consumer:
                    found = [(await consumer.__anext__()).value for _ in range(sent + 1)]
                assert found == [*(str(number).encode() for number in range(sent)), b"last"]

    run(test)
