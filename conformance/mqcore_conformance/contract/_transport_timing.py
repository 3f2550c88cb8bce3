"""Contract checks of a transport that take bad timing: large writes closed at once, many small ones, bytes one by one.

What wraps another stream goes wrong there: in what it holds back, what it has read half, what it has written half.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from mqcore.abc import ByteStream
from mqcore.errors import ConfigurationError
from mqcore.registry import create_transport
from mqcore.url import Url
from mqcore_conformance.contract._checks import CheckNotRun, check, expect
from mqcore_conformance.contract._transport import TransportHarness, Wire, read_to_end

LARGE_SIZES = (100_000, 300_000, 1_000_000)
SLOW_READ_BYTES, SLOW_READ_S = 20_000, 0.0005
SMALL_WRITES = 2_000
MESSAGES = 25
BYTE_S = 0.001
END_S_MAX = 5.0
CUT_BYTES = 12 * 1024 * 1024
CUT_STEPS = 12
GARBAGE = b"garbage"


@check("transport", "G04")
async def a_large_write_closed_in_order_arrives_whole(harness: TransportHarness) -> None:
    """A large write and an orderly close right behind it: a reader that is slow gets every byte, then the end."""
    source = random.Random(harness.seed)
    async with harness.wire() as wire:
        for size in LARGE_SIZES:
            data = source.randbytes(size)
            for swapped in (False, True):
                ends = await wire.streams()
                writer, reader = ends[::-1] if swapped else ends
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_write_and_close, writer, data)
                    received = await _read_slowly(reader)
                same = received == data[: len(received)]
                expect(len(received) == size, f"a write of {size} bytes was closed in order; {len(received)} arrived")
                expect(same, f"other bytes arrived than were written ({size} bytes, closed in order)")


async def _write_and_close(writer: ByteStream, data: bytes) -> None:
    await writer.send_all(data)
    await writer.aclose()


async def _read_slowly(reader: ByteStream) -> bytes:
    received = bytearray()
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await reader.receive_some(SLOW_READ_BYTES):
            received += data
            await trio.sleep(SLOW_READ_S)
    return bytes(received)


@check("transport", "G05")
async def many_small_writes_keep_their_order(harness: TransportHarness) -> None:
    """Thousands of small writes on one stream arrive one after the other, none before another, none missing."""
    async with harness.wire() as wire:
        client, broker = await wire.streams()

        async def write() -> None:
            for number in range(SMALL_WRITES):
                await client.send_all(b"%08d" % number)
            await client.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            received = await read_to_end(broker)
        for number in range(SMALL_WRITES):
            found = received[8 * number : 8 * number + 8]
            expect(found == b"%08d" % number, f"write {number} of {SMALL_WRITES} arrived as {found!r}")


@check("transport", "G04")
async def bytes_that_come_one_by_one_are_kept_by_cancelled_receives(harness: TransportHarness) -> None:
    """Where the network delivers single bytes and every receive is cut short, again and again, no byte is lost."""
    source = random.Random(harness.seed)
    messages = [source.randbytes(source.randint(1, 12)) for _ in range(MESSAGES)]
    async with harness.wire() as wire, _one_by_one(wire) as url:
        _, _, client, broker = await wire.connected(create_transport(url))

        async def write() -> None:
            for message in messages:
                await client.send_all(message)

        wanted = b"".join(messages)
        received = bytearray()
        with contextlib.suppress(trio.BrokenResourceError), trio.move_on_after(END_S_MAX):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                while len(received) < len(wanted):
                    with trio.move_on_after(BYTE_S * source.random()):
                        received += await broker.receive_some(len(wanted))
                    expect(wanted.startswith(received), f"after {len(received)} bytes other ones came than were sent")
        expect(received == wanted, f"after {len(received)} of {len(wanted)} bytes no other comes")


@asynccontextmanager
async def _one_by_one(wire: Wire) -> AsyncIterator[Url]:
    """Give a URL of the wire's listener at which the network delivers single bytes: a forwarder of plain TCP."""
    url = wire.url
    if wire.client.capabilities.multiplexed:
        raise CheckNotRun(f"{url.scheme} carries its streams within something else than one stream of the network")
    try:
        host, port = url.address
    except ConfigurationError:
        raise CheckNotRun(f"{url.scheme} has no host and port, where single bytes could be delivered") from None

    async def forward(source: trio.SocketStream, target: trio.SocketStream, pause_s: float) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in source:
                for place in range(len(data)):
                    await target.send_all(data[place : place + 1])
                    await trio.sleep(pause_s)

    async def serve(client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream(host, port) as server, trio.open_nursery() as nursery:
            nursery.start_soon(forward, client, server, BYTE_S)
            nursery.start_soon(forward, server, client, 0.0)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield Url(url.scheme, f"127.0.0.1:{listener.socket.getsockname()[1]}", url.query)
        nursery.cancel_scope.cancel()


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when its task is about to run for the n-th time."""

    def __init__(self, scope: trio.CancelScope, task: trio.lowlevel.Task, step: int) -> None:
        self._scope, self._task, self._left = scope, task, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()


@check("transport", "G04")
async def a_send_cut_at_any_step_tears_the_stream_down(harness: TransportHarness) -> None:
    """A large send is cut at each of its first steps in turn: nothing of it went, or the stream is of no more use."""
    data = bytes(range(256)) * (CUT_BYTES // 256)
    async with harness.wire() as wire:
        for step in range(1, CUT_STEPS + 1):
            client, broker = await wire.streams()
            received = bytearray()
            goes_on = False
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read_all_into, broker, received)
                if await _is_cut(client, data, step):
                    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await client.send_all(GARBAGE)
                        goes_on = True
                await client.aclose()
            whole = received in (GARBAGE, data + GARBAGE)
            expect(
                whole or not goes_on, f"cut at step {step}, the stream goes on after {len(received)} bytes of a send"
            )


async def _is_cut(client: ByteStream, data: bytes, step: int) -> bool:
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(scope, trio.lowlevel.current_task(), step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await client.send_buffers([data[: len(data) // 2], data[len(data) // 2 :]])
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


async def _read_all_into(reader: ByteStream, received: bytearray) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await reader.receive_some():
            received += data
