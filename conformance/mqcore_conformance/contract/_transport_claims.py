"""What a transport claims, probed: half-close, streams per link, limits, model sockets, silence, nothing left behind.

What it does not claim is probed as well, and listed as NOT CLAIMED with what was seen.
"""

from __future__ import annotations

import contextlib
from functools import partial

import trio
import trio.lowlevel

from mqcore.abc import ByteStream, Link
from mqcore.errors import TransportError
from mqcore.registry import create_transport
from mqcore.testing import ModelNetwork, run_simulation
from mqcore.url import Url
from mqcore_conformance.certificates import with_certificates
from mqcore_conformance.children.tracebacks import tell_exception
from mqcore_conformance.contract._checks import CheckFailed, NotApplicable, check, expect, expect_silence, refused
from mqcore_conformance.contract._storage_claims import expect_declared
from mqcore_conformance.contract._transport import TransportHarness, Wire, read_to_end
from mqcore_conformance.contract._transport_timing import CancelAtStep
from mqcore_conformance.contract._watched import own_io_of

STREAMS_TRIED_MAX = 2_000
CANCEL_STEPS_MAX = 400
END_S_MAX = 5.0
MODEL_URLS = {
    "tcp": "tcp://127.0.0.1:7400",
    "tls": "tls://127.0.0.1:7400",
    "quic": "quic://127.0.0.1:7400",
    "unix": "unix:///mqcore-simulation/broker.sock",
}


async def talk_a_little(wire: Wire) -> None:
    """Use every call of a transport once."""
    client, broker = await wire.streams()
    await client.send_all(b"question")
    expect(await broker.receive_some() == b"question", "what was sent is not what arrived")
    await broker.send_buffers([b"ans", b"wer"])
    buffer = bytearray(100)
    received = b""
    while len(received) < len(b"answer"):
        size = await client.receive_into(buffer)
        expect(size > 0, "the stream ended early")
        received += buffer[:size]
    expect(received == b"answer", "what was sent is not what arrived")
    await client.aclose()
    with trio.move_on_after(END_S_MAX) as scope:
        await read_to_end(broker)
    expect(not scope.cancelled_caught, "the peer of a closed stream waits for its end for ever")
    await broker.aclose()


@check("transport", "G18")
def what_is_claimed_of_a_transport_is_declared(harness: TransportHarness) -> None:
    """What the claims file states of the transport is what the transport declares."""
    expect_declared(harness.claims, "transport", create_transport(harness.url).capabilities)


@check("transport", "G04")
def nothing_is_printed_by_a_transport(harness: TransportHarness) -> None:
    """Standard output belongs to messages and standard error to the broker: a part writes to neither."""
    trio.run(_converse, harness)
    expect_silence()


async def _converse(harness: TransportHarness) -> None:
    async with harness.wire() as wire:
        await talk_a_little(wire)


@check("transport", "G20", leaves_nothing=True)
async def no_socket_is_left_behind(harness: TransportHarness) -> None:
    """Conversations, links that were dropped in the middle, and refused connects leave nothing behind."""
    async with harness.wire() as wire:
        for _ in range(5):
            await talk_a_little(wire)
        await wire.streams()
        gone = create_transport(wire.url)
    try:
        link = await gone.connect()
    except TransportError as error:
        expect(bool(str(error)), "a refused connect says nothing")
    else:
        await trio.aclose_forcefully(link)
        raise CheckFailed("a listener that was closed is still answered for")


@check("transport", "G18")
async def an_address_is_free_after_the_close(harness: TransportHarness) -> None:
    """What was listened on can be listened on again as soon as the listener is closed."""
    async with harness.wire() as wire:
        await talk_a_little(wire)
        url = wire.url
    for _ in range(3):
        again = await create_transport(url).listen()
        await again.aclose()


@check("transport", "G13")
async def a_silent_peer_holds_up_no_other(harness: TransportHarness) -> None:
    """A peer that connects and says nothing, and one that stops in a frame, keep no other from talking."""
    async with harness.wire() as wire:

        async def say_nothing() -> None:
            wire.links.append(await wire.client.connect())  # which may need more of the broker than it gets

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say_nothing)
            half, _ = await _accept_beside(wire)
            await half.send_all(b"hal")
            with trio.move_on_after(8) as scope:
                client, broker = await _accept_beside(wire)
                await client.send_all(b"whole")
                while await broker.receive_some() != b"whole":
                    pass
            nursery.cancel_scope.cancel()
        expect(not scope.cancelled_caught, "no other peer gets through while one says nothing")


async def _accept_beside(wire: Wire) -> tuple[ByteStream, ByteStream]:
    """Return both ends of a new stream, however many others wait to be accepted."""
    clients: list[ByteStream] = []
    brokers: list[ByteStream] = []

    async def connect() -> None:
        wire.links.append(link := await wire.client.connect())
        clients.append(client := await link.open_stream())
        await client.send_all(b"me")

    async def listen_to(accepted: Link) -> None:
        broker = await accepted.accept_stream()
        if await broker.receive_some() == b"me":
            brokers.append(broker)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        while True:
            accepted = await wire.listener.accept()
            wire.links.append(accepted)
            nursery.start_soon(listen_to, accepted)
    return clients[0], brokers[0]


@check("transport", "G04")
async def a_closed_stream_takes_and_gives_nothing(harness: TransportHarness) -> None:
    """After ``aclose`` every call raises ``ClosedResourceError``; the peer sees the end; closing twice is no error."""
    async with harness.wire() as wire:
        client, broker = await wire.streams()
        await client.aclose()
        await client.aclose()
        for name, call in (
            ("send_all", lambda: client.send_all(b"x")),
            ("send_buffers", lambda: client.send_buffers([b"x"])),
            ("receive_some", client.receive_some),
            ("receive_into", lambda: client.receive_into(bytearray(10))),
        ):
            with refused(f"{name} of a closed stream", trio.ClosedResourceError):
                await call()
        with trio.move_on_after(8) as scope:
            with contextlib.suppress(trio.BrokenResourceError):
                expect(await broker.receive_some() == b"", "a stream whose peer closed it gives bytes")
        expect(not scope.cancelled_caught, "the peer of a closed stream waits for ever")


@check("transport", "G13", leaves_nothing=True)
async def cancellation_anywhere_leaves_the_transport_usable(harness: TransportHarness) -> None:
    """A conversation is cancelled at each of its steps in turn; the next one always works."""
    async with harness.wire() as wire:
        for step in range(1, CANCEL_STEPS_MAX):
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, trio.lowlevel.current_task(), step)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await talk_a_little(wire)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            await wire.close()
            wire.links.clear()
            if not scope.cancelled_caught:
                break
            with trio.move_on_after(8) as patience:
                await trio.aclose_forcefully(await _last_waiting(wire))
            expect(not patience.cancelled_caught, f"nothing works any more after a cancellation at step {step}")
        await talk_a_little(wire)


async def _last_waiting(wire: Wire) -> ByteStream:
    """Take whatever connection the cancelled conversation left, until one of our own comes."""
    client, broker = await _accept_beside(wire)
    await trio.aclose_forcefully(client)
    return broker


@check("transport", "G18")
async def half_close_is_what_is_claimed(harness: TransportHarness) -> None:
    """Where ``half_close`` is claimed, the end of one direction is seen and the other goes on."""
    async with harness.wire() as wire:
        client, broker = await wire.streams()
        seen = ""
        try:
            with trio.move_on_after(8) as scope:
                await client.send_eof()  # type: ignore[attr-defined]
                expect(await broker.receive_some() == b"", "the end of one direction is not seen")
                await broker.send_all(b"goes on")
                expect(await client.receive_some() == b"goes on", "the other direction ended too")
            seen = "send_eof hangs" if scope.cancelled_caught else ""
        except CheckFailed as error:
            seen = str(error)
        except Exception as error:
            seen = tell_exception(error)
        if not harness.half_close:
            raise NotApplicable(f"it claims no half-close; probed: {seen or 'send_eof works'}")
        expect(not seen, f"it claims half_close: {seen}")


@check("transport", "G18")
async def streams_of_a_link_are_as_many_as_claimed(harness: TransportHarness) -> None:
    """A multiplexed link opens many streams; another has one and connects again; ``streams_max`` is kept."""
    capabilities = create_transport(harness.url).capabilities
    async with harness.wire() as wire:
        link, accepted, *pair = await wire.connected(wire.client)
        pairs = [(pair[0], pair[1])]
        if capabilities.multiplexed:
            seen = await _why_no_more_streams(link, accepted, pairs, min(50, (capabilities.streams_max or 50) - 1))
            expect(not seen, f"it claims multiplexed, and of a link's further streams: {seen}")
        await _close_all(pairs)
        if capabilities.streams_max is not None:
            await _expect_streams_max(wire, capabilities.streams_max)
    if not capabilities.multiplexed:
        raise NotApplicable("it does not claim multiplexed: one stream per link, another one connects again")


async def _why_no_more_streams(
    link: Link, accepted: Link, pairs: list[tuple[ByteStream, ByteStream]], count: int
) -> str:
    """Open ``count`` more streams of a link into ``pairs``; return what is wrong with them."""
    with trio.move_on_after(END_S_MAX):
        try:
            for number in range(count):
                stream = await link.open_stream()
                await stream.send_all(b"%d" % number)
                other = await accepted.accept_stream()
                pairs.append((stream, other))
                if await other.receive_some() != b"%d" % number:
                    return "they are mixed up"
        except Exception as error:
            return tell_exception(error)
        return ""
    return "they never come"


async def _expect_streams_max(wire: Wire, streams_max: int) -> None:
    if streams_max > STREAMS_TRIED_MAX:
        return
    pairs = []
    try:
        for number in range(streams_max + 1):
            try:
                with trio.fail_after(8):
                    pairs.append(await wire.streams())
            except (TransportError, trio.TooSlowError, trio.BrokenResourceError) as error:
                expect(number >= streams_max, f"stream {number + 1} is refused ({error}); streams_max is {streams_max}")
                return
    finally:
        await _close_all(pairs)
    raise CheckFailed(f"{streams_max + 1} streams at once were taken; streams_max is {streams_max}")


async def _close_all(pairs: list[tuple[ByteStream, ByteStream]]) -> None:
    for pair in pairs:
        for stream in pair:
            await trio.aclose_forcefully(stream)


@check("transport", "G01")
def its_sockets_are_trios(harness: TransportHarness) -> None:
    """A transport that claims ``simulable`` takes its sockets from ``trio.socket``, so that a model can stand in."""
    claimed = create_transport(harness.url).capabilities.simulable
    scheme = harness.url.partition(":")[0]
    url = with_certificates(MODEL_URLS.get(scheme, harness.url))

    async def talk() -> None:
        network = ModelNetwork(0)
        with network.installed(), network.host("server"):
            async with TransportHarness(url, harness.folder).wire() as wire:
                await talk_a_little(wire)

    seen, problem = own_io_of(partial(run_simulation, talk, seconds_max=1_000.0), [*Url.parse(url).query.values()])
    if not claimed:
        found = seen or problem or "it works on a model network"
        raise NotApplicable(f"it does not claim simulable; probed: {found}")
    expect(not seen, f"it does I/O of its own: {seen}")
    expect(not problem, f"it claims simulable; on a model network {problem}")
