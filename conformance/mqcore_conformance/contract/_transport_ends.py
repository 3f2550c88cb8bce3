"""Contract checks of a transport about the two ends of a link: its first datagram, and what its close owes the peer."""

from __future__ import annotations

import contextlib
import random
import socket

import trio
import trio.lowlevel
import trio.testing

from mqcore.abc import ByteStream
from mqcore.registry import create_transport
from mqcore.url import Url
from mqcore_conformance.contract._checks import NotApplicable, check, expect
from mqcore_conformance.contract._transport import TransportHarness

CLOSED_BYTES = 400_000
CLOSED_STREAMS = 3
READ_BYTES, READ_PAUSE_S = 50_000, 0.001
STRANGERS = 260
"""More than a listener should remember of those who begin and do not go on."""
AT_ONCE = 16
QUIET_S = 0.25
PAUSE_S = 0.002
END_S_MAX = 30.0
DATAGRAM_BYTES_MAX = 65_536
BUFFER_BYTES = 4 * 1024 * 1024


@check("transport", "G04")
async def what_was_sent_before_a_link_is_closed_arrives(harness: TransportHarness) -> None:
    """A link that is closed in order loses nothing that was sent on its streams, however slow their readers are."""
    source = random.Random(harness.seed)
    async with harness.wire() as wire:
        for _ in range(CLOSED_STREAMS):
            link, _, client, broker = await wire.connected(wire.client)
            data = source.randbytes(CLOSED_BYTES)
            received = bytearray()
            with trio.move_on_after(END_S_MAX):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_read_slowly_into, broker, received)
                    await client.send_all(data)
                    await link.aclose()
            count = len(received)
            expect(count == len(data), f"{len(data)} bytes were sent before the link was closed; {count} arrived")
            expect(received == data, "other bytes arrived than were sent before the link was closed")


async def _read_slowly_into(reader: ByteStream, received: bytearray) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await reader.receive_some(READ_BYTES):
            received += data
            await trio.sleep(READ_PAUSE_S)


@check("transport", "G20", seconds_max=60.0)
async def strangers_get_less_than_they_sent(harness: TransportHarness) -> None:
    """Of many who begin a handshake and never go on, nobody gets a flood in the name of their address, and a client is
    let in beside them. For transports on datagrams, whose senders' addresses prove nothing.
    """
    if not create_transport(harness.url).capabilities.datagrams:
        raise NotApplicable("its streams do not travel in datagrams: the system proves who sends")
    async with harness.wire() as wire:
        strangers = await _first_datagrams(wire.url)
        answered = 0
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            for number, datagrams in enumerate(strangers):
                for data in datagrams:
                    stranger.sendto(data, wire.url.address)
                if number % AT_ONCE == 0:  # more at a time, and the kernel drops some
                    await trio.testing.wait_all_tasks_blocked(PAUSE_S)
                    answered += sum(len(data) for data, _ in _waiting(stranger))
            with trio.move_on_after(END_S_MAX) as scope:
                client, broker = await wire.streams()
                await client.send_all(b"let in")
                expect(await broker.receive_some() == b"let in", "what was sent beside strangers is not what arrived")
                await trio.sleep(QUIET_S)
                answered += sum(len(data) for data, _ in _waiting(stranger))
        expect(not scope.cancelled_caught, f"{STRANGERS} handshakes that nobody goes on with keep a client out")
        sent = sum(len(data) for datagrams in strangers for data in datagrams)
        expect(answered <= sent, f"{STRANGERS} strangers sent {sent} bytes, and {answered} went to their addresses")


async def _first_datagrams(url: Url) -> list[list[bytes]]:
    """Return what each of many clients of ``url`` sends first, to a place where nobody answers."""
    found: list[list[bytes]] = []
    with socket.socket(type=socket.SOCK_DGRAM) as mute:
        mute.setblocking(False)
        mute.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        mute.bind(("127.0.0.1", 0))
        client = create_transport(Url(url.scheme, f"127.0.0.1:{mute.getsockname()[1]}", url.query))
        while len(found) < STRANGERS:
            seen: dict[object, list[bytes]] = {}
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(client.connect)
                while len(seen) < AT_ONCE:
                    await trio.lowlevel.wait_readable(mute)
                    for data, address in _waiting(mute):
                        seen.setdefault(address, []).append(data)
                nursery.cancel_scope.cancel()
            found += seen.values()
            _waiting(mute)  # what they said when they gave up
    return found


def _waiting(sock: socket.socket) -> list[tuple[bytes, object]]:
    found: list[tuple[bytes, object]] = []
    with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
        while True:
            found.append(sock.recvfrom(DATAGRAM_BYTES_MAX))
    return found
