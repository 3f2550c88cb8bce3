"""The contract of mqcore.abc.Transport, held by every transport (guarantees: transport clauses, G20)."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from mqcore.abc import ByteStream, Link, Listener, TlsOptions, Transport, TransportContext
from mqcore.errors import TransportError
from mqcore.registry import create_transport

CLOG_BYTES = 16 * 1024 * 1024


class Wire:
    """A listener of one transport, and pairs of connected ends."""

    def __init__(self, transport: Transport, listener: Listener, client: Transport) -> None:
        self.transport = transport
        self.listener = listener
        self.client = client
        self._links: list[Link] = []

    async def connect(self) -> Link:
        """The client's end of a new link; closed at the end of the test."""
        self._links.append(await self.client.connect())
        return self._links[-1]

    async def accept(self) -> Link:
        """The broker's end of a new link; closed at the end of the test."""
        self._links.append(await self.listener.accept())
        return self._links[-1]

    async def links(self) -> tuple[Link, Link]:
        """The client's and the broker's end of a new link."""
        return await self.connect(), await self.accept()

    async def accept_further(self, link: Link) -> ByteStream:
        """The broker's end of a stream that a client opened which has ``link`` already."""
        return await (link if self.transport.capabilities.multiplexed else await self.accept()).accept_stream()

    async def aclose(self) -> None:
        """Close every link."""
        for link in self._links:
            await link.aclose()

    async def streams(self) -> tuple[ByteStream, ByteStream]:
        """The client's and the broker's end of a new stream."""
        client, broker = await self.links()
        return await client.open_stream(), await broker.accept_stream()


OpenWire = Callable[[], AbstractAsyncContextManager[Wire]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> TransportContext:
    """What transports that encrypt are given, on either side."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    server, ca = folder / "server.pem", folder / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(server))
    authority.cert_pem.write_to_path(str(ca))
    return TransportContext(tls=TlsOptions(cert=str(server), ca=str(ca)))


@pytest.fixture(params=["tcp", "unix", "inproc", "quic", "quic-aioquic"])
def open_wire(request: pytest.FixtureRequest, tmp_path: Path, certificates: TransportContext) -> OpenWire:
    small = "socket_buffer_bytes=65536"
    url = {
        "tcp": f"tcp://127.0.0.1:0?{small}",
        "unix": f"unix://{tmp_path}/s?{small}",
        "inproc": "inproc://wire?buffer_bytes=65536",
        "quic": "quic://127.0.0.1:0?window_bytes=65536",
        "quic-aioquic": "quic://127.0.0.1:0?window_bytes=65536&engine=aioquic",
    }[request.param]

    @asynccontextmanager
    async def opened() -> AsyncIterator[Wire]:
        transport = create_transport(url, certificates)
        async with await transport.listen() as listener:
            client_url = f"{listener.url}?{url.partition('?')[2]}"
            async with aclosing(Wire(transport, listener, create_transport(client_url, certificates))) as wire:
                yield wire

    return opened


async def read_all(stream: ByteStream) -> bytes:
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


def test_streams_pass_trios_own_checks(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:

            async def pair() -> tuple[ByteStream, ByteStream]:
                return await wire.streams()

            await trio.testing.check_half_closeable_stream(pair, None)

    trio.run(main)


def test_a_frame_cut_at_every_byte_arrives_as_its_beginning_and_then_the_end(open_wire: OpenWire) -> None:
    frame = bytes(range(48))

    async def main() -> None:
        async with open_wire() as wire:
            for cut in range(len(frame) + 1):
                client, broker = await wire.streams()
                await client.send_buffers([frame[: cut // 2], frame[cut // 2 : cut]])
                await client.aclose()
                assert await read_all(broker) == frame[:cut]
                await broker.aclose()

    trio.run(main)


def test_bytes_of_many_sends_arrive_in_order_and_unchanged(open_wire: OpenWire) -> None:
    random_source = random.Random(7)
    sends = [
        [random_source.randbytes(random_source.choice((0, 1, 100, 5_000, 300_000))) for _ in range(count)]
        for count in (1, 3, 2_500, 2)
    ]
    sends[2] = [b"%d," % number for number in range(2_500)]

    async def main() -> None:
        async with open_wire() as wire:
            client, broker = await wire.streams()

            async def send() -> None:
                for buffers in sends:
                    await client.send_buffers([memoryview(part) for part in buffers])
                await client.send_eof()

            buffer = bytearray(70_000)
            received = bytearray()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while size := await broker.receive_into(memoryview(buffer)[5:]):
                    received += memoryview(buffer)[5 : 5 + size]
            assert received == b"".join(b"".join(buffers) for buffers in sends)

    trio.run(main)


def test_half_close_leaves_the_other_direction_open(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, broker = await wire.streams()
            await client.send_all(b"question")
            await client.send_eof()  # type: ignore[attr-defined]
            assert await read_all(broker) == b"question"
            await broker.send_all(b"answer")
            await broker.aclose()
            assert await read_all(client) == b"answer"

    trio.run(main)


def test_g20_a_reader_that_stops_holds_its_writer_up(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, broker = await wire.streams()
            await client.send_all(bytes(4096))
            sent = 4096
            with trio.move_on_after(0.3):
                while sent < CLOG_BYTES:
                    await client.send_all(bytes(4096))
                    sent += 4096
            assert sent < 1024 * 1024
            with trio.fail_after(60):
                assert len(await broker.receive_some()) > 0

    trio.run(main)


@pytest.mark.parametrize("open_wire", ["unix", "inproc"], indirect=True)  # TCP joins them to a few bytes of its buffer
def test_g20_tiny_sends_to_a_stalled_reader_are_held_up_too(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, _broker = await wire.streams()
            sends = 0

            async def send() -> None:
                nonlocal sends
                while sends < 100_000:
                    await client.send_all(b"x")
                    sends += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert sends < 100_000
                nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_write_that_was_cancelled_half_way_tears_the_stream_down(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, broker = await wire.streams()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_buffers, [bytes(CLOG_BYTES), b"end"])
                await trio.testing.wait_all_tasks_blocked(0.05)  # as much of it is on its way as there is room for
                nursery.cancel_scope.cancel()
            assert nursery.cancel_scope.cancelled_caught
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await client.send_all(b"garbage")
            try:
                received = await read_all(broker)
            except trio.BrokenResourceError:
                return
            assert received == bytes(len(received))

    trio.run(main)


def test_a_write_that_was_cancelled_before_it_began_has_no_effect(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, broker = await wire.streams()
            with trio.CancelScope() as scope:
                scope.cancel()
                await client.send_all(b"never")
            await client.send_all(b"sent")
            await client.send_eof()  # type: ignore[attr-defined]
            assert await read_all(broker) == b"sent"

    trio.run(main)


def test_a_receive_that_was_cancelled_loses_nothing(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, broker = await wire.streams()
            with trio.move_on_after(0.02):
                await broker.receive_into(bytearray(10))
            await client.send_all(b"whole")
            with trio.CancelScope() as scope:
                scope.cancel()
                await broker.receive_some()
            assert await broker.receive_some() == b"whole"

    trio.run(main)


def test_connect_and_accept_can_be_cancelled_and_tried_again(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            with trio.move_on_after(0.02) as scope:
                await wire.accept()
            assert scope.cancelled_caught
            with trio.CancelScope() as scope:
                scope.cancel()
                await wire.connect()
            assert scope.cancelled_caught
            client, broker = await wire.streams()
            await client.send_all(b"x")
            assert await broker.receive_some() == b"x"

    trio.run(main)


def test_two_senders_at_once_are_an_error(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, _ = await wire.streams()

            async def send_much() -> None:
                with pytest.raises((trio.ClosedResourceError, trio.BrokenResourceError)):
                    await client.send_all(bytes(CLOG_BYTES))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_much)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await client.send_all(b"between")
                with pytest.raises(trio.BusyResourceError):
                    await client.send_buffers([b"between", b"them"])
                await client.aclose()

    trio.run(main)


def test_a_link_opens_further_streams_to_the_same_broker(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, broker = await wire.links()
            first, first_there = await client.open_stream(), await broker.accept_stream()
            second = await client.open_stream()
            second_there = await wire.accept_further(broker)
            await second.send_all(b"second")
            await first.send_all(b"first")
            assert await first_there.receive_some() == b"first"
            assert await second_there.receive_some() == b"second"
            if not wire.transport.capabilities.multiplexed:
                with pytest.raises(trio.EndOfChannel):
                    await broker.accept_stream()
                with pytest.raises(TransportError, match="only its client"):
                    await broker.open_stream()

    trio.run(main)


def test_closing_a_link_closes_all_its_streams(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            client, broker = await wire.links()
            first, first_there = await client.open_stream(), await broker.accept_stream()
            second = await client.open_stream()
            second_there = await wire.accept_further(broker)
            await client.aclose()
            for ours in (first, second):
                with pytest.raises(trio.ClosedResourceError):
                    await ours.send_all(b"x")
            for theirs in (first_there, second_there):
                assert await theirs.receive_some() == b""
            with pytest.raises(trio.ClosedResourceError):
                await client.open_stream()

    trio.run(main)


def test_a_closed_listener_wakes_who_waits_and_answers_nobody(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:

            async def accept() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await wire.accept()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                await wire.listener.aclose()
            with pytest.raises(TransportError, match="cannot connect"):
                await wire.connect()

    trio.run(main)


def test_listening_twice_is_refused_naming_the_url(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:
            with pytest.raises(TransportError, match="in use") as caught:
                await wire.client.listen()
            assert str(wire.client.url) in str(caught.value)
            assert "\n" not in str(caught.value)
            stream = await (await wire.connect()).open_stream()
            await stream.send_all(b"still there")
            received = b""
            with trio.fail_after(60):
                while not received:  # the refused one may have knocked first
                    received = await (await (await wire.accept()).accept_stream()).receive_some()
            assert received == b"still there"

    trio.run(main)


def test_trio_serves_the_listener(open_wire: OpenWire) -> None:
    async def main() -> None:
        async with open_wire() as wire:

            async def echo(link: object) -> None:
                stream = await link.accept_stream()  # type: ignore[attr-defined]
                await stream.send_all(await stream.receive_some())
                await stream.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, echo, [wire.listener])
                for text in (b"one", b"two"):
                    link = await wire.connect()
                    stream = await link.open_stream()
                    await stream.send_all(text)
                    assert await read_all(stream) == text
                    await link.aclose()
                nursery.cancel_scope.cancel()

    trio.run(main)
