"""TLS: what becomes of open connections when the file of the authorities that clients are believed by changes."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import mqcore
from mqcore.abc import ByteStream, Link, Notice, TlsOptions, TransportContext
from mqcore.registry import create_transport

TEXT = "client_ca has changed"


class Files:
    """Certificates of a server and of clients; ``client_ca`` is the file that changes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.servers, self.first, self.second = (trustme.CA() for _ in range(3))
        self.ca = self.write("ca", self.servers.cert_pem.bytes())
        self.server = self.issue("server", self.servers, "127.0.0.1")
        self.client = self.issue("client", self.first, "a@example.org")
        self.client_ca = str(folder / "client_ca.pem")
        self.believe(self.first)

    def write(self, name: str, content: bytes) -> str:
        """Put ``content`` in the place of what was there, in one step."""
        path, fresh = self.folder / f"{name}.pem", self.folder / f"{name}.fresh"
        fresh.touch(mode=0o600)
        fresh.write_bytes(content)
        fresh.rename(path)
        return str(path)

    def issue(self, name: str, authority: trustme.CA, *names: str) -> str:
        return self.write(name, authority.issue_cert(*names).private_key_and_cert_chain_pem.bytes())

    def believe(self, *authorities: trustme.CA) -> None:
        self.write("client_ca", b"".join(each.cert_pem.bytes() for each in authorities))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def its_own_authority(name: str) -> tuple[bytes, bytes]:
    """A certificate that is believed only by being in the file itself, and with its key; it may sign no others."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 7, now - day, now + day)
    made = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    pem = serialization.Encoding.PEM
    cert = made.sign(key, hashes.SHA256()).public_bytes(pem)
    return cert, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + cert


class Listening:
    """A listener, and what it reported."""

    def __init__(self, listener: Any, files: Files, notices: list[Notice]) -> None:
        self.listener = listener
        self.files = files
        self.notices = notices
        self.links: list[Link] = []

    async def streams(self, cert: str | None = None) -> tuple[ByteStream, ByteStream]:
        """Both ends of a new connection, over which a word went."""
        tls = TlsOptions(ca=self.files.ca, cert=cert or self.files.client)
        ends: dict[str, ByteStream] = {}

        async def accept() -> None:
            link: Link = await self.listener.accept()
            self.links.append(link)
            ends["there"] = await link.accept_stream()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            link = await create_transport(str(self.listener.url), TransportContext(tls=tls)).connect()
            self.links.append(link)
            ends["here"] = await link.open_stream()
        await goes(ends["here"], ends["there"])
        return ends["here"], ends["there"]

    def kinds(self) -> list[str]:
        return [notice.kind for notice in self.notices]


@asynccontextmanager
async def listening(files: Files) -> AsyncIterator[Listening]:
    notices: list[Notice] = []
    tls = TlsOptions(cert=files.server, client_ca=files.client_ca)
    context = TransportContext(report=notices.append, tls=tls)
    async with await create_transport("tls://127.0.0.1:0", context).listen() as listener:
        side = Listening(listener, files, notices)
        yield side
        for link in side.links:
            await trio.aclose_forcefully(link)


async def goes(ours: ByteStream, theirs: ByteStream) -> None:
    await ours.send_all(b"word")
    received = b""
    while len(received) < 4:
        received += await theirs.receive_some()
    assert received == b"word"


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            await test()

    trio.run(main)


def test_open_connections_end_when_their_authority_is_believed_no_more_silent_ones_too(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as side:
            ended = [await side.streams() for _ in range(3)]
            _, silent = ended[0]

            async def wait() -> None:
                with pytest.raises(trio.BrokenResourceError, match=TEXT):
                    await silent.receive_some()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                files.believe(files.second)
                stays = await side.streams(files.issue("other", files.second, "b@example.org"))
            for ours, theirs in ended[1:]:
                with pytest.raises(trio.BrokenResourceError, match=TEXT):
                    await theirs.receive_some()
                with pytest.raises(trio.BrokenResourceError, match=TEXT):
                    await theirs.send_all(b"x")
                assert await ours.receive_some() == b""
            await goes(*stays)
            (notice,) = [each for each in side.notices if each.kind == "clients-ended"]
            assert notice.facts["connections"] == 3

    run(test)


def test_it_is_seen_when_a_client_speaks_without_another_handshake(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as side:
            ours, theirs = await side.streams()
            files.believe(files.second)

            async def go_on() -> None:
                while True:
                    await goes(ours, theirs)
                    await trio.sleep(0.05)

            with pytest.raises(trio.BrokenResourceError, match=TEXT):
                await go_on()

    run(test)


def test_an_authority_that_is_added_and_a_renewed_certificate_of_the_listener_end_nothing(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as side:
            streams = await side.streams()
            files.believe(files.first, files.second)
            other = await side.streams(files.issue("other", files.second, "b@example.org"))
            files.issue("server", files.servers, "127.0.0.1")
            await side.streams()
            assert side.kinds().count("certificate-loaded") == 2
            for ours, theirs in (streams, other):
                await goes(ours, theirs)
            assert "clients-ended" not in side.kinds()
            files.believe(files.first)
            await side.streams()
            assert "clients-ended" in side.kinds()

    run(test)


@pytest.mark.parametrize("others", [True, False], ids=["beside-an-authority", "alone"])
def test_a_client_ends_whose_own_certificate_was_in_the_file(others: bool, files: Files) -> None:
    first, second = its_own_authority("a"), its_own_authority("b")
    authority = files.first.cert_pem.bytes() if others else b""

    files.write("client_ca", first[0] + second[0] + authority)

    async def test() -> None:
        async with listening(files) as side:
            cert = files.write("pinned", first[1])
            _, theirs = await side.streams(cert)
            files.write("client_ca", b"# the same, said otherwise\n" + authority + second[0] + b"\n" + first[0])
            both = await side.streams(cert)
            assert "clients-ended" not in side.kinds()
            files.write("client_ca", second[0] + authority)
            stays = await side.streams(files.write("other", second[1]))
            assert "clients-ended" in side.kinds()
            for each in (theirs, both[1]):
                with pytest.raises(trio.BrokenResourceError, match=TEXT):
                    await each.receive_some()
            await goes(*stays)

    run(test)


def test_half_a_file_ends_nothing(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as side:
            streams = await side.streams()
            files.write("client_ca", files.first.cert_pem.bytes()[:200])
            await side.streams()
            await goes(*streams)
            assert side.kinds() == ["certificate-not-loaded"]

    run(test)


def test_a_handshake_that_was_under_way_does_not_outlast_its_authority(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as side:
            trust = side.listener._trust
            before = trust.current()
            files.believe(files.second)
            trust.current()
            _, theirs = await side.streams(files.issue("other", files.second, "b@example.org"))
            trust.keep(theirs, before)
            with pytest.raises(trio.BrokenResourceError, match=TEXT):
                await theirs.receive_some()

    run(test)


def test_a_client_that_is_still_believed_comes_back_and_loses_nothing(files: Files) -> None:
    notices: list[Notice] = []
    build: Any = {"storage": "memory://", "flush": "none", "tls": {"cert": files.server, "client_ca": files.client_ca}}

    async def test() -> None:
        async with mqcore.open_broker(listen="tls://127.0.0.1:0", report=notices.append, **build) as broker:
            async with mqcore.connect(broker.urls[0], ca=files.ca, cert=files.client) as client:
                await client.admin.create_topic("t")
                files.believe(files.first, files.second)
                async with client.producer("t") as producer:
                    sent = 0
                    while "clients-ended" not in [notice.kind for notice in notices]:
                        await producer.send(str(sent).encode())
                        sent += 1
                        if "certificate-loaded" in [notice.kind for notice in notices]:
                            files.issue("client", files.second, "a@example.org")
                            files.believe(files.second)
                        await trio.sleep(0.05)
                    await producer.send(b"last")
                async with client.consumer("t", start="start") as consumer:
                    found = [(await consumer.__anext__()).value for _ in range(sent + 1)]
                assert found == [*(str(number).encode() for number in range(sent)), b"last"]

    run(test)
