"""QUIC: what the engines leave open, and what who speaks badly or not at all can do (docs/design: quic)."""

from __future__ import annotations

import datetime
import os
import socket
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
from mqcore.errors import TransportError
from mqcore.registry import create_transport
from mqcore_quic._packets import (
    CONNECTION_ID_BYTES,
    UNKNOWN,
    AddressTokens,
    PacketHeader,
    are_of_one_connection,
    parse_header,
    retry_packet,
    version_negotiation_packet,
)
from mqcore_quic._socket import Datagrams, DatagramSocket

DAY = datetime.timedelta(days=1)
WINDOW = 65_536
ENGINES = ("qh3", "aioquic")


class Files:
    """A server's certificate and the authority that signed it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.cert = str(folder / "server.pem")
        self.authority.cert_pem.write_to_path(self.ca)
        self.issue("127.0.0.1")

    def issue(self, *names: str, **options: Any) -> None:
        self.authority.issue_cert(*names, **options).private_key_and_cert_chain_pem.write_to_path(self.cert)
        Path(self.cert).chmod(0o600)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Ends:
    """A listener with what was reported, and links between both ends of it."""

    def __init__(self, listener: Listener, query: str, files: Files, notices: list[Notice]) -> None:
        self.listener = listener
        self.notices = notices
        self.port = listener.url.address[1]
        self.query = query
        self._tls = TlsOptions(ca=files.ca)

    async def connect(self, url: str | None = None) -> Link:
        context = TransportContext(tls=self._tls)
        return await create_transport(f"{url or self.listener.url}?{self.query}", context).connect()

    async def links(self) -> tuple[Link, Link]:
        client = await self.connect()
        return client, await self.listener.accept()

    async def streams(self) -> tuple[Link, Link, ByteStream, ByteStream]:
        client, server = await self.links()
        return client, server, await client.open_stream(), await server.accept_stream()

    @property
    def endpoint(self) -> Any:
        return self.listener._endpoint  # type: ignore[attr-defined]


@asynccontextmanager
async def listening(files: Files, query: str = f"window_bytes={WINDOW}", **tls: str) -> AsyncIterator[Ends]:
    notices: list[Notice] = []
    context = TransportContext(report=notices.append, tls=TlsOptions(cert=files.cert, **tls))
    async with await create_transport(f"quic://127.0.0.1:0?{query}", context).listen() as listener:
        yield Ends(listener, query, files, notices)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            await test()

    trio.run(main)


async def receive(stream: ByteStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = await stream.receive_some(min(size - len(received), 65_536))
        assert data
        received += data
    return bytes(received)


async def close_all(*links: Link) -> None:
    async with trio.open_nursery() as nursery:
        for link in links:
            nursery.start_soon(link.aclose)


@pytest.mark.parametrize("engine", ENGINES)
def test_g20_a_stream_that_nobody_reads_holds_up_its_sender_and_nobody_else(engine: str, files: Files) -> None:
    """Neither engine holds anybody up: what was not read came to hundreds of megabytes."""

    async def test() -> None:
        async with listening(files, f"window_bytes={WINDOW}&engine={engine}") as ends:
            client, server, unread, unread_there = await ends.streams()
            others = [(await client.open_stream(), await server.accept_stream()) for _ in range(63)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(unread.send_all, bytes(4 * 1024 * 1024))
                for ours, theirs in others:
                    await ours.send_all(b"question" * 100)
                    assert await receive(theirs, 800) == b"question" * 100
                    await theirs.send_all(b"answer")
                    assert await receive(ours, 6) == b"answer"
                assert unread_there.unread == WINDOW  # type: ignore[attr-defined]
                assert await receive(unread_there, 4 * 1024 * 1024) == bytes(4 * 1024 * 1024)
            await close_all(client, server)

    run(test)


@pytest.mark.parametrize(("here", "there"), [(WINDOW, 1 << 20), (1 << 20, WINDOW), (1 << 20, 1 << 22)])
def test_two_ends_with_windows_of_different_sizes_understand_each_other(here: int, there: int, files: Files) -> None:
    """The one sent more than the other let it, which ended the connection; or waited for credit that came later."""

    async def test() -> None:
        async with listening(files, f"window_bytes={there}") as ends:
            ends.query = f"window_bytes={here}"
            client, server, ours, theirs = await ends.streams()
            data = os.urandom(1 << 20) * 9
            for sender, reader in ((ours, theirs), (theirs, ours)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sender.send_all, data)
                    while reader.unread < min(here, there):  # type: ignore[attr-defined]  # noqa: ASYNC110 - no task
                        await trio.sleep(0.01)
                    await trio.testing.wait_all_tasks_blocked()
                    assert reader.unread == min(here, there)  # type: ignore[attr-defined]
                    assert await receive(reader, len(data)) == data
            await close_all(client, server)

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_everything_that_was_sent_before_the_link_was_closed_arrives(engine: str, files: Files) -> None:
    """The engines' own close drops it."""

    async def test() -> None:
        async with listening(files, f"window_bytes=1048576&engine={engine}") as ends:
            for size in (1, 100, 300_000, 1_000_000):
                client, server, ours, theirs = await ends.streams()
                await ours.send_all(b"x" * size)
                await client.aclose()
                assert await receive(theirs, size) == b"x" * size
                assert await theirs.receive_some() == b""
                with pytest.raises(trio.EndOfChannel):
                    await server.accept_stream()
                await server.aclose()

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_put_off_goes_out_before_the_connection_is_ended(
    engine: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqcore_quic._driver.TOGETHER_SECONDS", 1.0)  # however slow the machine is

    async def test() -> None:
        async with listening(files, f"engine={engine}") as ends:
            client, server, ours, theirs = await ends.streams()
            await trio.testing.wait_all_tasks_blocked(0.05)  # the handshake is behind them: nothing is paced
            for part in (b"first", b"last"):
                assert theirs.send_now([part]) == len(part)  # type: ignore[attr-defined]
            server.fail("enough")  # type: ignore[attr-defined]
            assert await receive(ours, 9) == b"firstlast"
            with pytest.raises(trio.BrokenResourceError, match="enough"):
                await ours.receive_some()
            await close_all(client, server)

    run(test)


def test_what_is_more_than_the_credit_ends_the_connection(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as ends:
            client, server, ours, theirs = await ends.streams()
            ours.limit = 10 * WINDOW  # type: ignore[attr-defined]  # a peer that keeps no rules
            await ours.send_all(bytes(2 * WINDOW))
            with pytest.raises(trio.BrokenResourceError, match="more was sent on a stream than its credit allows"):
                await ours.receive_some()
            assert theirs.unread <= 2 * WINDOW  # type: ignore[attr-defined]
            await close_all(client, server)

    run(test)


def test_more_streams_than_are_allowed_at_once_end_the_connection_and_one_after_the_other_do_not(files: Files) -> None:
    async def test() -> None:
        async with listening(files, "streams_max=8") as ends:
            client, server = await ends.links()
            for number in range(300):  # the engines' first limit of streams is 128, over a connection's life
                ours = await client.open_stream()
                theirs = await server.accept_stream()
                await ours.send_all(b"%d" % number)
                await ours.aclose()
                assert await theirs.receive_some() == b"%d" % number
                await theirs.aclose()
            (link,) = client._links  # type: ignore[attr-defined]
            streams = [link.open_now() for _ in range(20)]
            with pytest.raises(trio.BrokenResourceError, match="streams_max"):
                await streams[0].receive_some()
            await close_all(client, server)

    run(test)


def test_g20_streams_that_a_peer_leaves_out_count_as_open_and_are_all_that_is_kept(files: Files) -> None:
    """A link that lives for months has had streams without number; a peer could have each of them remembered."""

    async def test() -> None:
        async with listening(files, "streams_max=8") as ends:
            client, server = await ends.links()
            (link,) = client._links  # type: ignore[attr-defined]
            for left_out in range(7):
                assert link.engine.open_stream() == 4 * left_out
            for _ in range(200):
                ours, theirs = await client.open_stream(), await server.accept_stream()
                await ours.aclose()
                assert await theirs.receive_some() == b""
                await theirs.aclose()
            numbers = server._numbers  # type: ignore[attr-defined]
            assert numbers._left_out == set(range(7))
            link.engine.open_stream()
            stream = await client.open_stream()
            with pytest.raises(trio.BrokenResourceError, match="streams_max"):
                await stream.receive_some()
            await close_all(client, server)

    run(test)


def test_two_thousand_streams_at_once(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as ends:
            client = await ends.connect()
            served = 0

            async def accept() -> None:  # what the engine's limit of one connection does not allow, another one carries
                while True:
                    nursery.start_soon(serve, await ends.listener.accept())

            async def serve(server: Link) -> None:
                nonlocal served
                while True:
                    stream = await server.accept_stream()
                    nursery.start_soon(answer, stream)
                    served += 1

            async def answer(stream: ByteStream) -> None:
                await stream.send_all(await stream.receive_some())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                streams = [await client.open_stream() for _ in range(2_000)]
                for number, stream in enumerate(streams):
                    await stream.send_all(b"%d" % number)
                for number, stream in enumerate(streams):
                    assert await stream.receive_some() == b"%d" % number
                nursery.cancel_scope.cancel()
            assert served == 2_000
            await client.aclose()

    run(test)


def test_many_half_open_handshakes_have_the_next_client_prove_its_address(files: Files) -> None:
    async def test() -> None:
        async with listening(files, "half_open_max=3&handshake_timeout_ms=400") as ends:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.settimeout(5)
                for _ in range(200):
                    stranger.sendto(fake_initial(), ("127.0.0.1", ends.port))
                    await trio.testing.wait_all_tasks_blocked()
                links = await await_links(ends)
                # None of them keeps more than three connections, and a client that is one gets in.
                assert len(ends.endpoint._links) <= 3 + len(links)
                kinds = [parse_header(stranger.recv(2_048)) for _ in range(100)]
                assert all(header is not None and header.version == 1 for header in kinds)
            with trio.fail_after(10):
                while ends.endpoint._half_open:  # noqa: ASYNC110 - what times out is no task of ours
                    await trio.sleep(0.01)
            await close_all(*links)

    async def await_links(ends: Ends) -> list[Link]:
        return [*(await ends.links())]

    run(test)


def fake_initial(version: bytes = b"\x00\x00\x00\x01") -> bytes:
    head = b"\xc3" + version + b"\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\x00"
    return head + b"\x44\x90" + os.urandom(1_200 - len(head) - 2)


def test_garbage_of_every_kind_disturbs_nobody(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as ends:
            client, server, ours, theirs = await ends.streams()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                kinds = (b"", b"\x00", b"\xff" * 5, b"\x41" + os.urandom(99), os.urandom(1_200), b"\xc0" + b"\xff" * 60)
                for data in kinds:
                    for _ in range(50):
                        stranger.sendto(data, ("127.0.0.1", ends.port))
                await ours.send_all(b"still here")
                assert await receive(theirs, 10) == b"still here"
                stranger.settimeout(5)
                stranger.sendto(fake_initial(b"\x1a\x2a\x3a\x4a"), ("127.0.0.1", ends.port))
                with trio.fail_after(60):
                    while (answer := await trio.to_thread.run_sync(stranger.recv, 2_048)) == UNKNOWN:
                        pass
                assert answer[1:5] == bytes(4)  # version negotiation: 1 is what is spoken here
                assert answer[-4:] == b"\x00\x00\x00\x01"
            assert not ends.notices
            await close_all(client, server)

    run(test)


def test_nobody_there_is_told_at_once_and_silence_in_time(files: Files) -> None:
    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(("127.0.0.1", 0))
            url = f"quic://127.0.0.1:{mute.getsockname()[1]}"
            context = TransportContext(tls=TlsOptions(ca=files.ca))
            with pytest.raises(TransportError, match=r"no handshake within 0\.2 s"):
                await create_transport(f"{url}?handshake_timeout_ms=200", context).connect()
        with pytest.raises(TransportError, match="nothing listens there"), trio.fail_after(60):
            await create_transport(url, context).connect()

    run(test)


def test_a_peer_that_is_gone_without_a_word_is_noticed(files: Files) -> None:
    """A process that was killed sends nothing, and its port may not answer."""

    async def test() -> None:
        async with listening(files, "idle_timeout_ms=600") as ends:
            client, server, ours, theirs = await ends.streams()
            ours.owner._outlet._sock.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            ours.owner._outlet._scope.cancel()  # type: ignore[attr-defined]
            with trio.fail_after(20), pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
            await close_all(client, server)

    run(test)


def test_an_idle_link_stays(files: Files) -> None:
    async def test() -> None:
        async with listening(files, "idle_timeout_ms=600") as ends:
            client, server, ours, theirs = await ends.streams()
            await trio.sleep(1.5)
            await ours.send_all(b"x")
            assert await theirs.receive_some() == b"x"
            await close_all(client, server)

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("issue", "told"),
    [
        ({"not_after": datetime.datetime.now(datetime.UTC) - DAY}, "it is expired"),
        ({"names": ("other.example.org",)}, "not for this name"),
        (None, "its authority is not known here"),
    ],
    ids=["expired", "another-name", "foreign"],
)
def test_a_certificate_that_does_not_do_is_refused_with_the_reason(
    issue: dict[str, Any] | None, told: str, engine: str, files: Files, tmp_path: Path
) -> None:
    options = dict(issue or {})
    files.issue(*options.pop("names", ("127.0.0.1",)), **options)
    if issue is None:
        trustme.CA().cert_pem.write_to_path(files.ca)

    async def test() -> None:
        async with listening(files, f"engine={engine}") as ends:
            with pytest.raises(TransportError, match=told) as caught:
                await ends.connect()
            assert not caught.value.retryable
            assert "\n" not in str(caught.value)

    run(test)


def test_files_that_do_not_do_are_named(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    files.authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(other))
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_bytes(b"rubbish")

    async def refused(**tls: str) -> str:
        with pytest.raises(TransportError) as caught:
            await create_transport("quic://127.0.0.1:0", TransportContext(tls=TlsOptions(**tls))).listen()
        return str(caught.value)

    async def no_connection(ca: Path) -> str:
        with pytest.raises(TransportError) as caught:
            await create_transport("quic://127.0.0.1:1", TransportContext(tls=TlsOptions(ca=str(ca)))).connect()
        assert not caught.value.retryable
        return str(caught.value)

    async def test() -> None:
        assert "rubbish.pem: no PEM file of certificates" in await no_connection(rubbish)
        assert "nowhere.pem: No such file" in await no_connection(tmp_path / "nowhere.pem")
        assert "is not that of the certificate" in await refused(cert=files.cert, key=str(other))
        assert "rubbish.pem: no PEM files" in await refused(cert=str(rubbish))
        assert "No such file" in await refused(cert=str(tmp_path / "nowhere.pem"))
        assert "no certificate; give --tls-cert" in await refused()
        assert "[[listen]] tables of tls:// only, not in [tls]" in await refused(cert=files.cert, client_ca=files.ca)

    run(test)


def test_a_broker_serves_it_beside_others_and_messages_come_through(files: Files) -> None:
    async def test() -> None:
        build: Any = {"storage": "memory://", "flush": "none", "tls": {"cert": files.cert}, "topics": {"t": {}}}
        async with mqcore.open_broker(listen=["quic://127.0.0.1:0", "tls://127.0.0.1:0"], **build) as broker:
            for url in broker.urls:
                async with mqcore.connect(url, ca=files.ca) as client, client.producer("t") as producer:
                    sent = await producer.send_many([b"%d" % number * 100 for number in range(5_000)])
                    async with client.consumer("t", start=sent[0].offset) as consumer:
                        count = 0
                        async for message in consumer:
                            assert message.value == b"%d" % count * 100
                            count += 1
                            if count == 5_000:
                                break

    run(test)


# without a connection


def test_headers_of_any_bytes_are_parsed_or_refused() -> None:
    assert parse_header(b"") is None
    assert parse_header(b"\x40short") is None
    header = parse_header(fake_initial())
    assert header is not None
    assert (header.version, header.is_initial, len(header.destination), len(header.source)) == (1, True, 8, 8)
    whole = fake_initial()
    for size in range(len(whole)):
        parse_header(whole[:size])
    for _ in range(2_000):
        parse_header(bytes([0xC0 | os.urandom(1)[0]]) + os.urandom(30))


def test_an_address_token_is_good_for_its_address_its_id_and_a_while() -> None:
    tokens = AddressTokens(b"k" * 32)
    token = tokens.issue(("127.0.0.1", 5), b"original", b"new-id", 1_000)
    assert tokens.check(("127.0.0.1", 5), token, b"new-id", 1_005) == b"original"
    for address, given, to, now in (
        (("127.0.0.2", 5), token, b"new-id", 1_000),
        (("127.0.0.1", 5), token, b"other!", 1_000),
        (("127.0.0.1", 5), token, b"new-id", 1_011),
        (("127.0.0.1", 5), token, b"new-id", 990),
        (("127.0.0.1", 5), token[:-1] + b"!", b"new-id", 1_000),
        (("127.0.0.1", 5), b"", b"new-id", 1_000),
        (("127.0.0.1", 5), b"x" * 16, b"new-id", 1_000),
    ):
        assert tokens.check(address, given, to, now) is None


def test_the_retry_of_the_standard_has_its_proof() -> None:
    """RFC 9001, appendix A.4, whose first byte has other unused bits, which the proof covers."""
    header = PacketHeader(1, True, bytes.fromhex("8394c8f03e515708"), b"", b"")
    packet = retry_packet(header, bytes.fromhex("f067a5502a4262b5"), b"token")
    assert packet[1:-16] == bytes.fromhex("ff000000010008f067a5502a4262b5746f6b656e")[1:]
    answer = version_negotiation_packet(PacketHeader(7, False, b"to", b"from", b""))
    assert answer == b"\x80" + bytes(4) + b"\x04from\x02to" + b"\x00\x00\x00\x01"


def test_a_row_of_datagrams_is_for_one_connection_only_if_each_of_them_is() -> None:
    size = 40

    def row(*ids: bytes, tail: int = size) -> bytes:
        whole = b"".join(b"\x41" + each + os.urandom(size - 1 - CONNECTION_ID_BYTES) for each in ids)
        return whole[: len(whole) - size + tail]

    first, other = os.urandom(CONNECTION_ID_BYTES), os.urandom(CONNECTION_ID_BYTES)
    assert are_of_one_connection(row(first), size)
    assert are_of_one_connection(row(*[first] * 50), size)
    assert are_of_one_connection(row(*[first] * 50, tail=20), size)
    assert not are_of_one_connection(row(*[first] * 50, tail=CONNECTION_ID_BYTES), size)
    assert not are_of_one_connection(row(*[first] * 25, other, *[first] * 25), size)
    for at in range(CONNECTION_ID_BYTES):
        nearly = bytearray(first)
        nearly[at] ^= 1
        assert not are_of_one_connection(row(first, bytes(nearly)), size)
    assert not are_of_one_connection(row(first) + b"\xc1" + row(first)[1:], size)


def test_rows_of_datagrams_for_several_connections_reach_each_of_them(files: Files) -> None:
    """The kernel puts datagrams of one address into one buffer; who listens there may have several connections."""

    async def test() -> None:
        async with listening(files) as ends:
            pairs = [await ends.streams() for _ in range(3)]
            taken: list[tuple[Any, bytes]] = []
            for client, server, _, _ in pairs:
                (link,) = client._links  # type: ignore[attr-defined]
                link._outlet.send = lambda datagrams, to=server: taken.extend((to, data) for data, _ in datagrams)
            for number, (_, _, ours, _) in enumerate(pairs):
                await ours.send_all(bytes([number]) * 30_000)
            await trio.testing.wait_all_tasks_blocked()
            # The largest that each of them has sent: a full one is a byte shorter where a number in it is.
            size = max(set.intersection(*({len(d) for to, d in taken if to is server} for _, server, _, _ in pairs)))
            assert size > 1_100
            whole = [data for _, data in taken if len(data) == size]
            routed: dict[Any, Any] = {}
            address = pairs[0][0]._links[0]._outlet._sock.sock.getsockname()  # type: ignore[attr-defined]
            ends.endpoint._route(Datagrams(address, b"".join(whole), size), trio.current_time(), routed)
            for data in (data for _, data in taken if len(data) != size):
                ends.endpoint._route(Datagrams(address, data, len(data)), trio.current_time(), routed)
            assert set(routed) == {(server, address) for _, server, _, _ in pairs}
            for (link, _), parts in routed.items():
                link.receive(parts, address, trio.current_time())
            for number, (_, _, _, theirs) in enumerate(pairs):
                received = await theirs.receive_some()
                assert len(received) > size // 2
                assert set(received) == {number}
            ended: list[Any] = [end for client, server, _, _ in pairs for end in (client._links[0], server)]  # type: ignore[attr-defined]
            for end in ended:
                end.fail("the test is over")

    run(test)


def test_small_sends_of_tasks_that_run_together_share_their_datagrams(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqcore_quic._driver.TOGETHER_SECONDS", 1.0)  # however slow the machine is

    async def test() -> None:
        async with listening(files) as ends:
            client, server = await ends.links()
            streams = [(await client.open_stream(), await server.accept_stream()) for _ in range(32)]
            await trio.testing.wait_all_tasks_blocked(0.05)
            (link,) = client._links  # type: ignore[attr-defined]
            sent: list[int] = []
            send = link._outlet.send

            def counted(datagrams: list[tuple[bytes, Any]]) -> None:
                sent.append(len(datagrams))
                send(datagrams)

            link._outlet.send = counted
            async with trio.open_nursery() as nursery:
                for ours, _ in streams:
                    nursery.start_soon(ours.send_all, b"question")
            for _, theirs in streams:
                assert await receive(theirs, 8) == b"question"
            assert sum(sent) < 16
            await close_all(client, server)

    run(test)


def test_what_goes_without_waiting_is_sent_and_the_rest_is_left(files: Files) -> None:
    async def test() -> None:
        async with listening(files) as ends:
            client, server, ours, theirs = await ends.streams()
            assert ours.send_now([b"abc", b"", b"def"]) == 6
            assert await receive(theirs, 6) == b"abcdef"
            data = os.urandom(2 * WINDOW)
            while ours.limit < WINDOW:  # type: ignore[attr-defined]  # noqa: ASYNC110 - no task of ours
                await trio.sleep(0.01)
            went = ours.send_now([data[:1_000], data[1_000:], b"more"])
            assert WINDOW - 6 <= went < len(data)
            assert ours.send_now([b"x"]) == 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.send_all, data[went:])
                assert await receive(theirs, len(data)) == data
            await ours.aclose()
            assert ours.send_now([b"x"]) == 0
            await close_all(client, server)

    run(test)


def test_datagrams_of_one_size_go_in_one_call_and_an_interface_that_cannot_gets_them_singly() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(5)
        ours = DatagramSocket(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), None, 0)
        address = there.getsockname()
        datagrams = [(bytes([number]) * 1_200, address) for number in range(20)] + [(b"tail", address)]
        for segments in (True, False):
            ours._segments = segments
            assert ours.send(datagrams)
            assert [there.recv(2_048) for _ in datagrams] == [data for data, _ in datagrams]
        ours.close()


def test_g20_an_engine_that_fails_ends_its_own_connection_and_no_other(files: Files) -> None:
    """qh3 does, at a client that begins and never goes on, once it may send no more to its address."""

    def fails(*_: object) -> Any:
        raise RuntimeError("packet builder capacity exhausted")

    async def test() -> None:
        async with listening(files) as ends:
            client, server, ours, theirs = await ends.streams()
            for method in ("transmit", "receive", "events"):
                _, doomed, its, _ = await ends.streams()
                setattr(doomed.engine, method, fails)  # type: ignore[attr-defined]
                await its.send_all(b"x")
                with pytest.raises(trio.EndOfChannel):
                    await doomed.accept_stream()
                assert "capacity exhausted" in str(doomed.why_dead())  # type: ignore[attr-defined]
            await ours.send_all(b"still here")
            assert await receive(theirs, 10) == b"still here"
            assert not ends.notices
            await close_all(client, server)

    run(test)


def test_g20_a_handshake_that_may_send_no_more_waits_for_its_client_and_its_time(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Any:
        fails.count += 1  # type: ignore[attr-defined]
        raise RuntimeError("packet builder capacity exhausted")

    fails.count = 0  # type: ignore[attr-defined]

    async def test() -> None:
        async with listening(files, "handshake_timeout_ms=300") as ends:
            monkeypatch.setattr(type(ends.endpoint), "_accept", unable(type(ends.endpoint)._accept))
            with pytest.raises(TransportError, match="no handshake"):
                await ends.connect()
            monkeypatch.undo()
            assert 0 < fails.count < 20, "it is asked again and again"  # type: ignore[attr-defined]
            client, server = await ends.links()
            await close_all(client, server)

    def unable(accept: Any) -> Any:
        def take(*args: Any) -> Any:
            link = accept(*args)
            if link is not None:
                link.engine.transmit = fails
            return link

        return take

    run(test)
