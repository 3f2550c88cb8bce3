"""QUIC: what a peer that has not said who it is can have kept, by sending parts of streams without their beginnings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import mqcore
from mqcore.abc import Link, TlsOptions, TransportContext
from mqcore.registry import create_transport
from mqcore_quic._config import QuicOptions
from mqcore_quic._engine import LinkEnded, StreamArrived, client_configuration, engine_for, server_configuration
from mqcore_quic._held import HeldBytes
from mqcore_quic._windows import FIRST_WINDOW_BYTES

WINDOW = 64 * 1024
STREAMS = 20
BEFORE_LOGIN = 64 * 1024
"""The default of ``before_login_bytes_max``."""
QUERY = f"window_bytes={WINDOW}"
TOKEN = "0123456789abcdef0123456789abcdef"
ENGINES = ("qh3", "aioquic")


class Files:
    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca, self.cert = str(folder / "ca.pem"), str(folder / "server.pem")
        authority.cert_pem.write_to_path(self.ca)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(self.cert)
        self.tokens, self.token = str(folder / "tokens"), str(folder / "token")
        Path(self.tokens).write_text(f"robot {TOKEN}\n")
        Path(self.token).write_text(f"{TOKEN}\n")
        for path in (self.cert, self.tokens, self.token):
            Path(path).chmod(0o600)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


class Attacker:
    """A peer that keeps the rules of QUIC, and leaves the first byte of each stream out, for ever."""

    def __init__(self, port: int, files: Files) -> None:
        from aioquic.quic.connection import QuicConnection

        options = QuicOptions(engine="aioquic")
        self.address = ("127.0.0.1", port)
        config = client_configuration(options, TlsOptions(ca=files.ca), "quic://", "127.0.0.1")
        self.engine: Any = QuicConnection(configuration=config)
        self.was_ended = False
        self.is_connected = False
        self._sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        self._streams: list[int] = []

    @property
    def kept(self) -> int:
        """Bytes that the other end has acknowledged, which it has to keep: it can give them to nobody."""
        return sum(self.engine._streams[each].sender._buffer_start - 1 for each in self._streams)

    async def run(self, until: Callable[[], object]) -> None:
        """Send and receive until ``until`` or the end of the connection."""
        while not until() and not self.was_ended:
            await self._transmit()
            with trio.move_on_after(0.02):
                self.engine.receive_datagram(await self._sock.recv(65_536), self.address, trio.current_time())
            if (at := self.engine.get_timer()) is not None and at <= trio.current_time():
                self.engine.handle_timer(trio.current_time())
            while (event := self.engine.next_event()) is not None:
                self.is_connected = self.is_connected or type(event).__name__ == "HandshakeCompleted"
                self.was_ended = self.was_ended or type(event).__name__ == "ConnectionTerminated"
        await self._transmit()

    async def _transmit(self) -> None:
        for data, _ in self.engine.datagrams_to_send(trio.current_time()):
            await self._sock.send(data)

    async def connect(self) -> None:
        await self._sock.connect(self.address)
        self.engine.connect(self.address, trio.current_time())
        await self.run(lambda: self.is_connected)

    async def attack(self, streams: int, size: int) -> None:
        """Send ``size`` bytes on each of so many streams until they are acknowledged, or the connection is over."""
        for _ in range(streams):
            stream_id = self.engine.get_next_available_stream_id()
            self.engine.send_stream_data(stream_id, b"", False)
            sender = self.engine._streams[stream_id].sender
            sender._buffer_start = sender._buffer_stop = sender.highest_offset = 1
            self.engine.send_stream_data(stream_id, bytes(size), False)
            self._streams.append(stream_id)
        await self.run(lambda: self.kept >= streams * size)

    async def jump(self) -> None:
        """Send one byte, then one twice as far, and so on: what lies between may be filled with zeros."""
        stream_id = self.engine.get_next_available_stream_id()
        self.engine.send_stream_data(stream_id, b"", False)
        sender = self.engine._streams[stream_id].sender
        self._streams.append(stream_id)
        offset = 2_000
        while not self.was_ended and offset < 1 << 30:
            sender._buffer_start = sender._buffer_stop = sender.highest_offset = offset
            self.engine._remote_max_data = self.engine._streams[stream_id].max_stream_data_remote = 1 << 40
            self.engine.send_stream_data(stream_id, b"x", False)
            await self.run(lambda: sender._buffer_start > offset)  # noqa: B023 - it is over when the loop goes on
            offset = int(offset * 1.9)

    def close(self) -> None:
        self._sock.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(90):
            await test()

    trio.run(main)


async def attacked(engine: str, files: Files, *, is_known: bool, jumps: bool = False) -> tuple[Attacker, Any]:
    """Attack a listener; return the attacker and the link that it attacked."""
    context = TransportContext(tls=TlsOptions(cert=files.cert), admits=True)
    transport = create_transport(f"quic://127.0.0.1:0?{QUERY}&engine={engine}", context)
    async with await transport.listen() as listener:
        attacker = Attacker(listener.url.address[1], files)
        await attacker.connect()
        link: Link = await listener.accept()
        try:
            if is_known:
                link.admit()
            await (attacker.jump() if jumps else attacker.attack(STREAMS, WINDOW // 4))
        finally:
            attacker.close()
            await trio.aclose_forcefully(link)
        return attacker, link


@pytest.mark.parametrize("engine", ENGINES)
def test_g20_before_a_login_no_more_is_kept_than_may_be_sent_by_then(engine: str, files: Files) -> None:
    """All that came out of order was kept, up to two windows of each stream: a quarter of a gigabyte."""

    async def test() -> None:
        attacker, link = await attacked(engine, files, is_known=False)
        assert attacker.was_ended
        assert attacker.kept <= BEFORE_LOGIN
        assert "before_login_bytes_max" in str(link.why_dead())

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_who_is_known_may_be_ahead_by_the_window_of_the_connection(engine: str, files: Files) -> None:
    """And so the counting above counts."""

    async def test() -> None:
        attacker, _ = await attacked(engine, files, is_known=True)
        assert not attacker.was_ended
        assert attacker.kept == STREAMS * WINDOW // 4

    run(test)


@pytest.mark.parametrize("is_known", [False, True])
def test_g20_bytes_far_ahead_do_not_have_what_lies_between_kept(is_known: bool, files: Files) -> None:
    """aioquic keeps zeros there, and doubles windows for whoever comes to half of them: a few packets, all memory."""

    async def test() -> None:
        attacker, link = await attacked("aioquic", files, is_known=is_known, jumps=True)
        assert attacker.was_ended
        streams = link.engine._connection._streams.values()
        assert sum(len(each.receiver._buffer) for each in streams) <= (8 * WINDOW if is_known else BEFORE_LOGIN)

    run(test)


def test_what_is_held_is_counted_by_how_far_a_stream_came_and_what_was_delivered_of_it() -> None:
    held = HeldBytes(1_000)
    assert held.takes(0, 400)
    assert held.takes(0, 300)  # a frame before it
    assert held.takes(4, 600)
    assert not held.takes(4, 601)
    assert held.total == 1_000
    held.delivered(0, 400, is_end=False)
    assert held.takes(4, 1_000)
    held.reset(4)
    assert held.total == 0
    assert held.takes(4, 900)  # it is over: what comes of it again is not kept
    assert held.total == 0
    assert held.takes(0, 1_400)
    held.delivered(0, 1_000, is_end=True)
    assert held.total == 0
    assert not held._streams


def test_who_keeps_the_rules_and_finds_no_room_is_ended_only_where_nothing_more_is_delivered() -> None:
    held = HeldBytes(1_000, 800)
    assert not held.is_too_far(0, 800)
    assert held.is_too_far(0, 801)
    assert not held.is_too_far(2, 801)  # records
    assert held.takes(0, 800)
    assert not held.takes(4, 300)
    assert not held.refused(5.0)
    assert not held.refused(15.0)
    assert held.refused(15.1)
    held.delivered(0, 500, is_end=False)
    assert not held.is_too_far(0, 1_300)
    assert held.takes(4, 300)
    assert not held.refused(16.0)


def test_a_large_first_frame_of_who_is_not_known_yet_waits_and_is_not_held_against_it(files: Files) -> None:
    """As a replica's, which names all that it has; all of it that may go arrives before the broker has seen any."""

    async def test() -> None:
        context = TransportContext(tls=TlsOptions(cert=files.cert), admits=True)
        async with await create_transport("quic://127.0.0.1:0", context).listen() as listener:
            link = await create_transport(str(listener.url), TransportContext(tls=TlsOptions(ca=files.ca))).connect()
            peer = await listener.accept()
            data = bytes(range(256)) * 4_000
            ours = await link.open_stream()
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.send_all, data)
                theirs: Any = await peer.accept_stream()
                while theirs.unread < FIRST_WINDOW_BYTES:  # noqa: ASYNC110 - what comes is no task of ours
                    await trio.sleep(0.01)
                await trio.testing.wait_all_tasks_blocked(0.1)
                assert theirs.unread == FIRST_WINDOW_BYTES
                peer.admit()
                while len(received) < len(data):
                    received += await theirs.receive_some()
            assert received == data
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.aclose)
                nursery.start_soon(peer.aclose)

    run(test)


def build(files: Files, *, logs_in: bool) -> Any:
    found: dict[str, Any] = {"storage": "memory://", "flush": "none", "tls": {"cert": files.cert}}
    if logs_in:
        rule = {"principal": "*", "resource": "*", "operations": "*"}
        found["access"] = {"authenticators": [{"name": "token", "tokens": files.tokens}], "rules": [rule]}
    return found


@pytest.mark.parametrize("logs_in", [True, False], ids=["with-logins", "without"])
def test_g20_a_broker_keeps_little_of_who_says_nothing_and_all_of_who_does(logs_in: bool, files: Files) -> None:
    async def test() -> None:
        url = f"quic://127.0.0.1:0?{QUERY}"
        async with mqcore.open_broker(listen=url, **build(files, logs_in=logs_in)) as broker:
            attacker = Attacker(int(broker.urls[0].rpartition(":")[2]), files)
            known: dict[str, Any] = {"token_file": files.token} if logs_in else {}
            async with mqcore.connect(broker.urls[0], ca=files.ca, **known) as client:
                await client.admin.create_topic("t")
                await attacker.connect()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(attacker.attack, STREAMS, WINDOW // 4)
                    async with client.producer("t") as producer:
                        sent = await producer.send_many([bytes(10_000)] * 100)
                assert sum(receipt.count for receipt in sent) == 100  # much more than who is not known may send
                assert attacker.was_ended
                assert attacker.kept <= BEFORE_LOGIN
                attacker.close()

    run(test)


def test_a_packet_that_fills_a_hole_behind_what_there_is_no_room_for_makes_room(files: Files) -> None:
    """Of an engine that refused such packets whole nothing was delivered again, and the connection ended after 10 s."""
    from aioquic.quic.connection import QuicConnection

    options = QuicOptions(engine="aioquic", window_bytes=WINDOW)
    client: Any = QuicConnection(
        configuration=client_configuration(options, TlsOptions(ca=files.ca), "quic://", "127.0.0.1")
    )
    here, there = ("127.0.0.1", 1), ("127.0.0.1", 2)
    client.connect(there, 0.0)
    begun = client.datagrams_to_send(0.0)
    server: Any = engine_for(
        options, server_configuration(options, TlsOptions(cert=files.cert), "quic://"),
        window_bytes=WINDOW, original_id=client.original_destination_connection_id,
    )  # fmt: skip
    arrived: dict[int, int] = {}

    def to_server(datagrams: list[tuple[bytes, Any]], now: float) -> None:
        server.receive([(data, len(data)) for data, _ in datagrams], here, now)
        for event in server.events():
            assert not isinstance(event, LinkEnded)
            if isinstance(event, StreamArrived):
                arrived[event.stream_id] = arrived.get(event.stream_id, 0) + len(event.data)

    now = 0.0

    def exchange(rounds: int) -> None:
        nonlocal now
        for _ in range(rounds):
            now += 0.03
            server.on_deadline(now)
            for data, _ in server.transmit(now):
                client.receive_datagram(data, there, now)
            if (at := client.get_timer()) is not None and at <= now:
                client.handle_timer(now)
            to_server(client.datagrams_to_send(now), now)

    to_server(begun, 0.0)
    exchange(10)
    client.send_stream_data(0, b"", False)
    left_out = client._streams[0].sender
    left_out._buffer_start = left_out._buffer_stop = left_out.highest_offset = 1
    client.send_stream_data(0, bytes(WINDOW - 1), False)
    exchange(60)
    assert left_out._buffer_start == WINDOW  # all of it was acknowledged, and there is room for nothing more
    client.send_stream_data(4, bytes(100), False)
    left_out._buffer_start, left_out._buffer = 0, bytearray(1)
    left_out._pending.add(0, 1)
    left_out.buffer_is_empty = False
    client._streams_queue = [client._streams[4], client._streams[0]]
    exchange(1)
    assert arrived == {0: WINDOW}
    exchange(60)
    assert arrived == {0: WINDOW, 4: 100}
