"""TLS: what each side is told of a certificate that does not do, and what a peer that speaks something else gets."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import mqcore
from mqcore.abc import ByteStream, Link, Listener, Notice, TlsOptions, TransportContext
from mqcore.errors import NotReachedError, RemoteProtocolError, TransportError
from mqcore.registry import create_transport
from mqcore.testing import run_simulation
from mqcore_tls._handshakes import Handshakes
from mqcore_tls._stream import TlsStream, subject_of

DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Authority:
    """An authority whose certificates are files in ``folder``."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.file = str(folder / f"{name}.pem")
        self.ca.cert_pem.write_to_path(self.file)

    def issue(self, file: str, *names: str, **options: Any) -> str:
        issued = self.ca.issue_cert(*names, **options)
        path = self.folder / f"{file}.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        path.chmod(0o600)
        return str(path)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class Served:
    """A listener that answers each stream with what it got, upper case; what it reported, and who came."""

    def __init__(self, listener: Listener, notices: list[Notice]) -> None:
        self.url = str(listener.url)
        self.port = listener.url.address[1]
        self.notices = notices
        self.subjects: list[str | None] = []

    async def until_reported(self, kind: str, count: int = 1) -> Notice:
        with trio.fail_after(20):
            while len(found := [each for each in self.notices if each.kind == kind]) < count:  # noqa: ASYNC110 - no task
                await trio.sleep(0.01)
        return found[-1]


@asynccontextmanager
async def served(url: str = "tls://127.0.0.1:0", **files: str | None) -> AsyncIterator[Served]:
    notices: list[Notice] = []
    transport = create_transport(url, TransportContext(report=notices.append, tls=TlsOptions(**files)))
    async with await transport.listen() as listener, trio.open_nursery() as nursery:
        found = Served(listener, notices)

        async def answer(link: Link) -> None:
            try:
                async with link:
                    stream = await link.accept_stream()
                    found.subjects.append(link.peer.tls_subject)
                    while data := await stream.receive_some():
                        await stream.send_all(data.upper())
            except trio.BrokenResourceError:
                pass

        async def accept() -> None:
            while True:
                nursery.start_soon(answer, await listener.accept())

        nursery.start_soon(accept)
        yield found
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(url: str, **files: str | None) -> AsyncIterator[ByteStream]:
    async with await create_transport(url, TransportContext(tls=TlsOptions(**files))).connect() as link:
        yield await link.open_stream()


async def refused(url: str, **files: str | None) -> TransportError:
    with pytest.raises(TransportError) as caught:
        async with connected(url, **files):
            pass
    assert "\n" not in str(caught.value)
    return caught.value


async def echo(stream: ByteStream, data: bytes = b"hello") -> None:
    await stream.send_all(data)
    received = b""
    while len(received) < len(data):
        received += await stream.receive_some()
    assert received == data.upper()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            await test()

    trio.run(main)


def test_both_ends_know_each_other_by_their_certificates(authority: Authority) -> None:
    server = authority.issue("server", "127.0.0.1")
    client = authority.issue("client", "a@example.org", common_name="reader, one", organization_name="O=x")

    async def test() -> None:
        async with served(cert=server, client_ca=authority.file) as side:
            async with connected(side.url, ca=authority.file, cert=client) as stream:
                await echo(stream)
                await echo(stream, bytes(range(97, 123)) * 100_000)
            # The last part first, and no text of one part that could be taken for two.
            (subject,) = side.subjects
            assert subject is not None
            assert subject.startswith("CN=reader\\, one,")
            assert "O=O\\=x" in subject

    run(test)


@pytest.mark.parametrize(
    ("issue", "told"),
    [
        ({"not_after": now() - DAY}, "it is expired"),
        ({"not_before": now() + DAY, "not_after": now() + 2 * DAY}, "it is not valid yet"),
        ({"names": ("other.example.org",)}, "it is not for this address"),
    ],
    ids=["expired", "not-yet-valid", "another-address"],
)
def test_a_servers_certificate_that_does_not_do_is_refused_with_the_reason(
    issue: dict[str, Any], told: str, authority: Authority
) -> None:
    options = dict(issue)
    server = authority.issue("server", *options.pop("names", ("127.0.0.1",)), **options)

    async def test() -> None:
        async with served(cert=server) as side:
            error = await refused(side.url, ca=authority.file)
            assert told in str(error)
            assert side.url in str(error)
            assert not error.retryable

    run(test)


def test_a_name_that_is_not_in_the_certificate_is_refused_and_may_be_given(authority: Authority) -> None:
    server = authority.issue("server", "broker.example.org")

    async def test() -> None:
        async with served(cert=server) as side:
            url = f"tls://localhost:{side.port}"
            assert "it is not for this name" in str(await refused(url, ca=authority.file))
            async with connected(f"{url}?server_name=broker.example.org", ca=authority.file) as stream:
                await echo(stream)

    run(test)


def test_an_authority_that_is_not_known_is_named_as_the_remedy(authority: Authority, tmp_path: Path) -> None:
    server, foreign = authority.issue("server", "127.0.0.1"), Authority(tmp_path, "foreign")

    async def test() -> None:
        async with served(cert=server) as side:
            for files in ({"ca": foreign.file}, {}):
                error = await refused(side.url, **files)
                assert "name that as ca (--ca FILE)" in str(error)
                assert not error.retryable
            await side.until_reported("tls-handshake-failed", 2)

    run(test)


def test_a_client_without_the_certificate_that_is_asked_for_is_told(authority: Authority, tmp_path: Path) -> None:
    server, foreign = authority.issue("server", "127.0.0.1"), Authority(tmp_path, "foreign")
    expired = authority.issue("expired", "x@example.org", not_after=now() - DAY)

    async def test() -> None:
        async with served(cert=server, client_ca=authority.file) as side:
            for number, (cert, told, reported) in enumerate(
                (
                    (None, "asks for a certificate of this client", "it showed no certificate"),
                    (foreign.issue("client", "x@example.org"), "does not trust who", "its certificate is refused"),
                    (expired, "certificate is expired", "certificate has expired"),
                )
            ):
                # Since TLS 1.3 a client has finished its handshake before the server has looked at its certificate.
                async with connected(side.url, ca=authority.file, cert=cert) as stream:
                    with pytest.raises(trio.BrokenResourceError, match=told):
                        await stream.receive_some()
                assert reported in (await side.until_reported("tls-handshake-failed", number + 1)).text
            assert side.subjects == []

    run(test)


def test_a_certificate_of_ones_own_signing_is_refused_with_the_reason(tmp_path: Path) -> None:
    own = Authority(tmp_path)  # its own certificate as the server's
    path = tmp_path / "self.pem"
    path.write_bytes(own.ca.private_key_pem.bytes() + own.ca.cert_pem.bytes())

    async def test() -> None:
        async with served(cert=str(path)) as side:
            assert "signed by itself" in str(await refused(side.url, ca=Authority(tmp_path, "other").file))

    run(test)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"", "no PEM files of a certificate and its key"),
        (b"-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n", "no PEM files of a certificate"),
    ],
)
def test_files_that_are_no_certificates_stop_the_listener_by_name(
    content: bytes | None, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "server.pem"
    if content is not None:
        path.write_bytes(content)

    async def test() -> None:
        with pytest.raises(TransportError, match=told) as caught:
            async with served(cert=str(path)):
                pass
        assert str(path) in str(caught.value)

    run(test)


def test_a_key_of_another_certificate_and_one_with_a_password_are_named(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    one, other = authority.ca.issue_cert("127.0.0.1"), authority.ca.issue_cert("127.0.0.1")
    cert, key, locked = (str(tmp_path / name) for name in ("cert.pem", "key.pem", "locked.pem"))
    one.cert_chain_pems[0].write_to_path(cert)
    other.private_key_pem.write_to_path(key)
    loaded: Any = serialization.load_pem_private_key(one.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    Path(locked).write_bytes(
        loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )

    async def test() -> None:
        with pytest.raises(TransportError, match=r"key\.pem is not that of the certificate .*cert\.pem"):
            async with served(cert=cert, key=key):
                pass
        with pytest.raises(TransportError, match=r"locked\.pem: the key is encrypted"):
            async with served(cert=cert, key=locked):
                pass
        with pytest.raises(TransportError, match="no certificate; give --tls-cert"):
            async with served():
                pass

    run(test)


def test_certificates_that_are_renewed_are_taken_without_a_restart_and_broken_ones_are_not(
    authority: Authority,
) -> None:
    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        async with served(cert=server) as side, connected(side.url, ca=authority.file) as before:
            await echo(before)
            await trio.Path(server).write_bytes(b"half a file")
            async with connected(side.url, ca=authority.file) as stream:
                await echo(stream)
            notice = await side.until_reported("certificate-not-loaded")
            assert "going on with the certificate from before" in notice.text
            async with connected(side.url, ca=authority.file) as stream:
                await echo(stream)  # told once, not for every client
            assert [each.kind for each in side.notices] == ["certificate-not-loaded"]
            await trio.Path(server).unlink()
            authority.issue("server", "localhost")
            assert "it is not for this address" in str(await refused(side.url, ca=authority.file))
            await side.until_reported("certificate-loaded")
            await echo(before)

    run(test)


def test_a_plain_client_is_told_and_the_next_one_is_served(authority: Authority) -> None:
    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        async with served(cert=server) as side:
            with pytest.raises(mqcore.MqcoreError):
                async with mqcore.connect(f"tcp://127.0.0.1:{side.port}", connect_timeout_ms=300):
                    pass
            assert "does not speak TLS here" in (await side.until_reported("tls-handshake-failed")).text
            async with connected(side.url, ca=authority.file) as stream:
                await echo(stream)

    run(test)


def test_a_client_that_expects_tls_of_a_plain_broker_is_told(authority: Authority) -> None:
    async def test() -> None:
        async with mqcore.open_broker(storage="memory://", flush="none", listen="tcp://127.0.0.1:0") as broker:
            url = str(broker.urls[0]).replace("tcp://", "tls://")
            error = await refused(url, ca=authority.file)
            assert "does not speak TLS here: is the other side tcp://?" in str(error)

    run(test)


def test_half_a_handshake_ends_in_time_and_holds_nobody_up(authority: Authority) -> None:
    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        async with served("tls://127.0.0.1:0?handshake_timeout_ms=200", cert=server) as side:
            async with await trio.open_tcp_stream("127.0.0.1", side.port) as mute:
                await mute.send_all(b"\x16\x03\x01\x02")
                async with connected(side.url, ca=authority.file) as stream:
                    await echo(stream)
                assert await mute.receive_some() == b""
            assert "within 0.2 s" in (await side.until_reported("tls-handshake-failed")).text

    run(test)


def test_g20_of_too_many_handshakes_under_way_the_oldest_gives_way(authority: Authority) -> None:
    """One that stalls keeps no other out, however many there are."""
    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        async with served("tls://127.0.0.1:0?half_open_max=3", cert=server) as side:
            mutes = [await trio.open_tcp_stream("127.0.0.1", side.port) for _ in range(4)]
            assert await mutes[0].receive_some() == b""
            assert "was the oldest of 3 under way" in (await side.until_reported("tls-handshake-failed")).text
            async with connected(side.url, ca=authority.file) as stream:
                await echo(stream)
            for mute in mutes:
                await mute.aclose()

    run(test)


def test_g20_failed_handshakes_without_number_are_told_now_and_then() -> None:
    notices: list[Notice] = []

    async def flood() -> None:
        handshakes = Handshakes(8, notices.append)
        for _ in range(1_000):
            handshakes.tell(Notice("tls-handshake-failed", "no handshake"))
        assert len(notices) == 10
        await trio.sleep(2)
        handshakes.tell(Notice("tls-handshake-failed", "no handshake"))
        assert notices[-1].text == "no handshake (990 more since the last such line)"
        assert notices[-1].facts["left_out"] == 990
        await trio.sleep(1)
        handshakes.tell(Notice("tls-handshake-failed", "no handshake"))
        assert notices[-1].text == "no handshake"

    run_simulation(flood)


def let_others_read(path: Path) -> None:
    path.chmod(0o640)


@pytest.mark.parametrize("scheme", ["tls", "quic"])
def test_a_key_that_others_may_read_is_told_at_the_start(authority: Authority, scheme: str) -> None:
    server = Path(authority.issue("server", "127.0.0.1"))

    async def test() -> None:
        async with served(f"{scheme}://127.0.0.1:0", cert=str(server)) as side:
            assert side.notices == []
        let_others_read(server)
        async with served(f"{scheme}://127.0.0.1:0", cert=str(server)) as side:
            (notice,) = side.notices
            assert notice.kind == "key-file-readable"
            assert f"the key {server}: chmod 600 it" in notice.text

    run(test)


def test_a_server_that_says_nothing_is_given_up(authority: Authority) -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as mute:
            url = f"tls://127.0.0.1:{mute.getsockname()[1]}?handshake_timeout_ms=100"
            assert "no handshake within 0.1 s" in str(await refused(url, ca=authority.file))

    run(test)


def test_older_versions_of_tls_are_refused(authority: Authority) -> None:
    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        async with served(cert=server) as side:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(authority.file)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            async with await trio.open_ssl_over_tcp_stream("127.0.0.1", side.port, ssl_context=context) as stream:
                with pytest.raises(trio.BrokenResourceError):
                    await stream.do_handshake()
            assert (await side.until_reported("tls-handshake-failed")).facts["why"]

    run(test)


def test_an_end_that_was_cut_off_is_no_end(authority: Authority) -> None:
    """Who can close a connection could shorten what is read of it else."""
    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        async with served(cert=server) as side, connected(side.url, ca=authority.file) as stream:
            await echo(stream)
            stream.inner.socket.shutdown(socket.SHUT_RD)  # type: ignore[attr-defined]
            with pytest.raises(trio.BrokenResourceError, match="without the end of TLS"):
                await stream.receive_some()

    run(test)


def test_a_client_that_encrypts_does_not_follow_to_where_nothing_is(authority: Authority) -> None:
    """Else whoever may answer for a server could have a client send in the clear."""
    from mqcore.client._client import connect
    from mqcore.errors import ConfigurationError

    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        build: Any = {"storage": "memory://", "flush": "none", "tls": {"cert": server}}
        async with mqcore.open_broker(listen=["tls://127.0.0.1:0", "tcp://127.0.0.1:0"], **build) as broker:
            async with connect(broker.urls[0], ca=authority.file) as client:
                with pytest.raises(ConfigurationError, match="not encrypted"):
                    client._router._transport_to(str(broker.urls[1]))
            async with connect(broker.urls[1]) as client:
                client._router._transport_to(str(broker.urls[1]))

    run(test)


def test_a_plain_client_is_told_by_the_server_and_a_plain_broker_by_name(authority: Authority) -> None:
    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        build: Any = {"storage": "memory://", "flush": "none", "tls": {"cert": server}}
        async with mqcore.open_broker(listen="tls://127.0.0.1:0", **build) as broker:
            with pytest.raises(RemoteProtocolError, match="speaks TLS and this end does not: use tls://"):
                async with mqcore.connect(broker.urls[0].replace("tls://", "tcp://")):
                    pass

    run(test)


def test_a_client_whose_certificate_is_refused_is_told_at_once(authority: Authority, tmp_path: Path) -> None:
    """Since TLS 1.3 the refusal comes after the client's own handshake; it is no less final for that."""
    server, foreign = authority.issue("server", "127.0.0.1"), Authority(tmp_path, "foreign")

    async def test() -> None:
        build: Any = {"storage": "memory://", "flush": "none", "tls": {"cert": server, "client_ca": authority.file}}
        async with mqcore.open_broker(listen="tls://127.0.0.1:0", **build) as broker:
            stranger = foreign.issue("x", "x@example.org")
            for cert, told in ((None, "asks for a certificate"), (stranger, "does not trust")):
                with pytest.raises(NotReachedError, match=told):
                    async with mqcore.connect(
                        broker.urls[0], ca=authority.file, cert=cert, connect_timeout_ms=3_600_000
                    ):
                        pass

    run(test)


def test_a_certificate_that_expires_while_connected_ends_the_stream(authority: Authority) -> None:
    server = authority.issue("server", "127.0.0.1")

    async def test() -> None:
        async with served(cert=server) as side, connected(side.url, ca=authority.file) as stream:
            await echo(stream)
            assert isinstance(stream, TlsStream)
            assert stream._expires_at > trio.current_time() + DAY.total_seconds()
            stream._expires_at = trio.current_time()
            await stream.send_all(b"one more")
            with pytest.raises(trio.BrokenResourceError, match="has expired since it connected: renew it"):
                await stream.receive_some()
            assert stream.closed

    run(test)


def test_a_client_that_is_not_believed_any_more_is_refused_after_a_reload(authority: Authority, tmp_path: Path) -> None:
    server, client = authority.issue("server", "127.0.0.1"), authority.issue("client", "x@example.org")
    clients = str(tmp_path / "clients.pem")
    authority.ca.cert_pem.write_to_path(clients)

    async def test() -> None:
        async with served(cert=server, client_ca=clients) as side:
            async with connected(side.url, ca=authority.file, cert=client) as stream:
                await echo(stream)
            Authority(tmp_path, "foreign").ca.cert_pem.write_to_path(clients)
            async with connected(side.url, ca=authority.file, cert=client) as stream:
                with pytest.raises(trio.BrokenResourceError, match="does not trust who signed"):
                    await stream.receive_some()

    run(test)


def test_the_streams_keep_trios_contract(authority: Authority) -> None:
    server = authority.issue("server", "127.0.0.1")

    async def make() -> tuple[ByteStream, ByteStream]:
        listener = await create_transport("tls://127.0.0.1:0", TransportContext(tls=TlsOptions(cert=server))).listen()
        own = TransportContext(tls=TlsOptions(ca=authority.file))
        ends: dict[str, ByteStream] = {}

        async def accept() -> None:
            ends["there"] = await (await listener.accept()).accept_stream()

        async def connect() -> None:
            ends["here"] = await (await create_transport(str(listener.url), own).connect()).open_stream()

        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            nursery.start_soon(connect)
        return ends["here"], ends["there"]

    async def test() -> None:
        await trio.testing.check_two_way_stream(make, None)

    run(test)


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        (((("commonName", "a,b+c"),), (("organizationName", " #x "),)), r"O=\ #x\ ,CN=a\,b\+c"),
        (((("commonName", "a"), ("userId", "7")),), "CN=a+UID=7"),
        ((), None),
    ],
)
def test_subjects_are_written_as_rfc_4514_says(pairs: object, text: str | None) -> None:
    assert subject_of({"subject": pairs}) == text
