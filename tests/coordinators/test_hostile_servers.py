"""What stands at a coordinator's address is no server of its kind, or lies: every call ends in time, in words."""

from __future__ import annotations

import contextlib
import resource
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio
from coordinator_parts import SCHEMES, Place, each_of, put

from mqcore.abc import CellPair
from mqcore.errors import CoordinatorError, CoordinatorOutcomeUnknownError, CoordinatorUnreachableError

Behaviour = Callable[[trio.SocketStream], Awaitable[None]]
CALL_TIMEOUT_MS = 200


async def closes(stream: trio.SocketStream) -> None:
    pass


async def is_silent(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def talks_nonsense(stream: trio.SocketStream) -> None:
    await stream.receive_some(100)
    await stream.send_all(b"\x7f\xff\xff\xff" + b"220 mail.example ESMTP\r\n" * 10)
    await trio.sleep_forever()


async def never_ends(stream: trio.SocketStream) -> None:
    await stream.receive_some(100)
    await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"10000\r\n" + bytes(65_536) + b"\r\n")


async def claims_a_huge_frame(stream: trio.SocketStream) -> None:
    await stream.receive_some(100)
    await stream.send_all(struct.pack("!i", 2**31 - 1))
    while True:
        await stream.send_all(bytes(65_536))


async def drips(stream: trio.SocketStream) -> None:
    await stream.receive_some(100)
    for _ in range(10_000):
        await stream.send_all(b"H")
        await trio.sleep(0.01)


@pytest.mark.parametrize("behave", [closes, is_silent, talks_nonsense, never_ends, claims_a_huge_frame, drips])
@pytest.mark.parametrize("scheme", each_of(*SCHEMES))
def test_every_call_ends_in_time_with_the_address_in_its_error(scheme: str, behave: Behaviour) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                await behave(stream)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            place.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, serve, listeners)
            client = place.client(CALL_TIMEOUT_MS)
            for call, allowed in (
                (client.read, CoordinatorUnreachableError),
                (client.names, CoordinatorUnreachableError),
                (lambda name: client.write(name, CellPair(), record=put(b"r")), CoordinatorError),
            ):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                with trio.fail_after(CALL_TIMEOUT_MS / 1000 + 20), pytest.raises(allowed) as caught:
                    await call("sets/a")  # type: ignore[operator]
                assert f"127.0.0.1:{place.port}" in str(caught.value)
                assert "\n" not in str(caught.value)
                assert isinstance(caught.value, (CoordinatorUnreachableError, CoordinatorOutcomeUnknownError))
                assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB
            calls = 0
            called = trio.Event()

            def changed() -> None:
                nonlocal calls
                calls += 1
                called.set()

            nursery.start_soon(client.watch, "sets/a", changed)
            with trio.fail_after(60):
                await called.wait()
            await trio.sleep(0.3)
            assert 1 <= calls < 10
            nursery.cancel_scope.cancel()

    place = Place(scheme, [])
    place.run(main)
