"""Contract checks of one transport, on real sockets: order, cuts, back-pressure, cancellation, many streams."""

from __future__ import annotations

import contextlib
import random
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio
import trio.testing

from mqcore.abc import ByteStream, Link, Listener, Transport
from mqcore.errors import TransportError
from mqcore.registry import create_transport
from mqcore.url import Url
from mqcore_conformance.certificates import with_certificates, with_options_of
from mqcore_conformance.contract._checks import (
    CheckFailed,
    Harness,
    NotApplicable,
    check,
    expect,
    expect_unknown_option_refused,
    refused,
)

FRAME = bytes(range(40))
CLOG_BYTES = 64 * 1024 * 1024
HELD_BYTES_MAX = 32 * 1024 * 1024
STREAMS = 1_000
DEFAULTS = {
    "tcp": "tcp://127.0.0.1:0",
    "tls": "tls://127.0.0.1:0",
    "quic": "quic://127.0.0.1:0",
    "unix": "unix://{dir}/socket",
    "inproc": "inproc://conformance",
}


@attrs.define
class Wire:
    """A listener and its clients."""

    listener: Listener
    client: Transport
    url: Url
    """What clients connect to: the listener's, with the options that clients need."""
    links: list[Link] = attrs.field(factory=list)

    async def streams(self) -> tuple[ByteStream, ByteStream]:
        """Return the client's and the broker's end of a new stream."""
        _, _, client, broker = await self.connected(self.client)
        return client, broker

    async def connected(self, client: Transport) -> tuple[Link, Link, ByteStream, ByteStream]:
        """Return the client's and the broker's link, and their first stream: made beside each other.

        A transport may need the other end's answer before it has connected, as TLS does.
        """
        opened: list[tuple[Link, ByteStream]] = []

        async def connect() -> None:
            self.links.append(link := await client.connect())
            opened.append((link, await link.open_stream()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            self.links.append(theirs := await self.listener.accept())
            accepted = await theirs.accept_stream()
        ours, stream = opened[0]
        return ours, theirs, stream, accepted

    async def close(self) -> None:
        """Close every link."""
        for link in self.links:
            await trio.aclose_forcefully(link)


class TransportHarness(Harness):
    """A transport by URL or by scheme, with a folder of its own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.folder = folder
        self.url = with_certificates(DEFAULTS.get(url, url).replace("{dir}", str(folder)))

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """Listen for a block."""
        transport = create_transport(self.url)
        async with await transport.listen() as listener:
            url = with_options_of(listener.url, self.url)
            wire = Wire(listener, create_transport(url), url)
            try:
                yield wire
            finally:
                await wire.close()

    @property
    def half_close(self) -> bool:
        """Whether it claims a working ``send_eof``."""
        return create_transport(self.url).capabilities.half_close


async def read_to_end(stream: ByteStream) -> bytes:
    """Return everything up to the end of a stream."""
    received = bytearray()
    while data := await stream.receive_some():
        received += data
    return bytes(received)


@check("transport", "G18")
def an_unknown_transport_option_is_refused_by_name(harness: TransportHarness) -> None:
    """An option that does not exist is refused, and the message names it."""
    expect_unknown_option_refused(harness.url, harness.seed, create_transport)


@check("transport", "G04")
async def trios_own_stream_checks_pass(harness: TransportHarness) -> None:
    """Trio's generic checks of a stream (half-close where it is claimed) pass."""
    async with harness.wire() as wire:

        async def pair() -> tuple[ByteStream, ByteStream]:
            return await wire.streams()

        if harness.half_close:
            await trio.testing.check_half_closeable_stream(pair, None)  # type: ignore[arg-type]
        else:
            await trio.testing.check_two_way_stream(pair, None)


@check("transport", "G04")
async def a_frame_cut_at_every_byte_arrives_as_its_beginning(harness: TransportHarness) -> None:
    """A writer that goes away in the middle of a frame leaves its beginning and then the end, at every byte."""
    async with harness.wire() as wire:
        for cut in range(len(FRAME) + 1):
            client, broker = await wire.streams()
            await _cut(client, broker, cut)
            client, broker = await wire.streams()
            await _cut(broker, client, cut)


async def _cut(writer: ByteStream, reader: ByteStream, cut: int) -> None:
    await writer.send_buffers([FRAME[: cut // 2], FRAME[cut // 2 : cut]])
    await writer.aclose()
    received = bytearray()
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await reader.receive_some():
            received += data
    shown = f"{len(received)} bytes: {bytes(received[:60])!r}"
    expect(FRAME[:cut].startswith(received), f"cut at {cut}, the reader got {shown}")
    expect(len(received) == cut, f"cut at {cut} and closed in order, the reader got {len(received)} bytes only")
    await reader.aclose()


@check("transport", "G05")
async def bytes_arrive_in_order_and_unchanged(harness: TransportHarness) -> None:
    """Bytes of many sends of any size, empty ones too, arrive in order and unchanged, in both directions at once."""
    source = random.Random(7)
    parts = [source.randbytes(source.choice((0, 1, 100, 5_000, 300_000))) for _ in range(60)]
    async with harness.wire() as wire:
        client, broker = await wire.streams()

        async def send(stream: ByteStream) -> None:
            for start in range(0, len(parts), 3):
                await stream.send_buffers(parts[start : start + 3])

        async def receive(stream: ByteStream) -> None:
            wanted = b"".join(parts)
            received = bytearray()
            buffer = bytearray(70_000)
            while len(received) < len(wanted):
                size = await stream.receive_into(buffer)
                expect(size > 0, f"the stream ended after {len(received)} of {len(wanted)} bytes")
                received += buffer[:size]
            expect(received == wanted, "the bytes that arrived are not those that were sent")

        async with trio.open_nursery() as nursery:
            for stream in (client, broker):
                nursery.start_soon(send, stream)
                nursery.start_soon(receive, stream)


@check("transport", "G20")
async def a_reader_that_stops_holds_its_writer_up(harness: TransportHarness) -> None:
    """A writer whose reader stops is held up with bounded memory, and goes on when the reader does, however slow."""
    async with harness.wire() as wire:
        client, broker = await wire.streams()
        sent = 0
        memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        while sent < HELD_BYTES_MAX:  # on a loaded machine as well: it is over when a send is held up, not before
            with trio.move_on_after(0.5) as scope:
                await client.send_all(bytes(65_536))
                sent += 65_536
            if scope.cancelled_caught:
                break
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kib) * 1024
        expect(sent < HELD_BYTES_MAX, f"{sent} bytes were taken in while the reader did not read")
        expect(grown < HELD_BYTES_MAX, f"{grown} bytes of memory were taken for a reader that stopped")
        with trio.move_on_after(8) as scope:
            expect(len(await broker.receive_some(1)) > 0, "the stream ended because its reader stopped for a while")
        expect(not scope.cancelled_caught, "the reader gets nothing after it stopped for a while")


@check("transport", "G04")
async def a_receive_that_was_cancelled_loses_nothing(harness: TransportHarness) -> None:
    """A cancelled receive has no effect."""
    async with harness.wire() as wire:
        client, broker = await wire.streams()
        with trio.move_on_after(0.02):
            await broker.receive_some()
        await client.send_all(b"whole")
        with trio.CancelScope() as scope:
            scope.cancel()
            await broker.receive_some()
        with trio.move_on_after(8) as scope:
            expect(await broker.receive_some() == b"whole", "what arrived during a cancelled receive is changed")
        expect(not scope.cancelled_caught, "what arrived during a cancelled receive is lost")


@check("transport", "G04")
async def a_send_that_was_cut_short_tears_the_stream_down(harness: TransportHarness) -> None:
    """A send that was cancelled half way leaves no stream on which garbage could follow."""
    async with harness.wire() as wire:
        client, broker = await wire.streams()
        with trio.move_on_after(0.1) as scope:
            await client.send_buffers([bytes(CLOG_BYTES), b"end"])
        expect(scope.cancelled_caught, "64 MiB were sent although the reader did not read")
        try:
            await client.send_all(b"garbage")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        try:
            received = await read_to_end(broker)
        except trio.BrokenResourceError:
            return
        raise CheckFailed(f"the stream goes on after a send that was cut short; it ends with {received[-10:]!r}")


@check("transport", "G13", leaves_nothing=True)
async def connect_and_accept_can_be_cancelled(harness: TransportHarness) -> None:
    """Cancelled connects and accepts leave nothing behind that keeps the next ones from working."""
    async with harness.wire() as wire:
        for _ in range(10):
            with trio.move_on_after(0.005):
                await wire.listener.accept()
        for delay in (0, 0.0001, 0.001):
            with trio.move_on_after(delay):
                link = await wire.client.connect()
                await trio.aclose_forcefully(link)

        async def say_here() -> None:
            wire.links.append(client := await wire.client.connect())
            await (await client.open_stream()).send_all(b"here")

        with trio.move_on_after(8):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(say_here)
                while True:
                    link = await wire.listener.accept()
                    wire.links.append(link)
                    if await _first(link) == b"here":
                        return
        raise CheckFailed("a connection is never accepted after others were cancelled")


async def _first(link: Link) -> bytes:
    try:
        return bytes(await (await link.accept_stream()).receive_some())
    except (trio.BrokenResourceError, trio.EndOfChannel):  # the link of a connect that was cancelled
        return b""


@check("transport", "G20", seconds_max=60.0)  # a transport that encrypts shakes hands a thousand times
async def a_thousand_streams_work_at_once(harness: TransportHarness) -> None:
    """A thousand streams at once each carry their own bytes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(STREAMS, (soft - 100) // 2)
    if count < 50:
        raise NotApplicable(f"the process may open {soft} files only")
    async with harness.wire() as wire:
        pairs = [await wire.streams() for _ in range(count)]
        for number, (client, _) in enumerate(pairs):
            await client.send_all(b"%08d" % number)
        for number, (_, broker) in enumerate(pairs):
            got = await broker.receive_some()
            expect(got == b"%08d" % number, f"stream {number} carries {got!r}")


@check("transport", "G18")
async def an_address_in_use_is_refused(harness: TransportHarness) -> None:
    """Listening where somebody listens is refused in one line that names the URL."""
    async with harness.wire() as wire:
        with refused("a second listener at one address", TransportError, names=str(wire.client.url)):
            second = await wire.client.listen()
            await second.aclose()
