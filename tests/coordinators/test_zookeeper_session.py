"""The session keeps itself alive while it waits, and takes no answer for another's."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from mqcore.abc import CellPair, Coordinator, CoordinatorContext
from mqcore.errors import CoordinatorUnreachableError
from mqcore.ports import system_ports
from mqcore.registry import create_coordinator

pytestmark = pytest.mark.needs("zookeeper")
GRANTED_MS = 300
PING_XID, PING, NO_NODE = -2, 11, -101


@attrs.define
class FakeServer:
    """Grants short sessions. ``answers_pings`` and ``xid_shift``: what it does wrong."""

    answers_pings: bool = True
    xid_shift: int = 0
    sessions: int = 0
    pings: int = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.sessions += 1
        data = bytearray()

        async def frame() -> bytes:
            while len(data) < 4 or len(data) < 4 + struct.unpack_from("!i", data)[0]:
                received = await stream.receive_some()
                if not received:
                    raise trio.EndOfChannel
                data.extend(received)
            size = struct.unpack_from("!i", data)[0]
            found = bytes(data[4 : 4 + size])
            del data[: 4 + size]
            return found

        async def send(body: bytes) -> None:
            await stream.send_all(struct.pack("!i", len(body)) + body)

        async with stream:
            try:
                await frame()
                await send(struct.pack("!iiqi16sb", 0, GRANTED_MS, self.sessions, 16, bytes(16), 0))
                while True:
                    xid, kind = struct.unpack_from("!ii", await frame())
                    if kind == PING:
                        self.pings += 1
                        if not self.answers_pings:
                            continue
                    elif xid != PING_XID:
                        xid += self.xid_shift
                    await send(struct.pack("!iqi", xid, 1, 0 if kind == PING else NO_NODE))
            except (trio.BrokenResourceError, trio.EndOfChannel):
                pass


def run(server: FakeServer, main: Callable[[Coordinator], Awaitable[None]]) -> None:
    async def with_server() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, server.serve, listeners)
            port = listeners[0].socket.getsockname()[1]
            client = create_coordinator(f"zookeeper://127.0.0.1:{port}", CoordinatorContext(ports=system_ports()))
            with trio.fail_after(20):
                await main(client)
            await client.aclose()
            nursery.cancel_scope.cancel()

    trio.run(with_server)


def test_a_watch_with_nothing_to_report_pings_and_stays() -> None:
    server, calls = FakeServer(), []

    async def main(client: Coordinator) -> None:
        with trio.move_on_after(5 * GRANTED_MS / 1000):
            await client.watch("sets/a", lambda: calls.append(None))

    run(server, main)
    assert server.pings >= 5
    assert server.sessions == 1
    assert len(calls) == 2  # at once, and when it listens


def test_a_watch_whose_ping_is_not_answered_connects_again() -> None:
    server = FakeServer(answers_pings=False)

    async def main(client: Coordinator) -> None:
        with trio.CancelScope() as scope:
            await client.watch("sets/a", lambda: scope.cancel() if server.sessions == 3 else None)

    run(server, main)
    assert server.sessions == 3


def test_an_answer_to_another_request_is_a_failure() -> None:
    async def main(client: Coordinator) -> None:
        with pytest.raises(CoordinatorUnreachableError, match="an answer to request 6 where 1 was due"):
            await client.read("sets/a")

    run(FakeServer(xid_shift=5), main)


def test_a_session_that_was_kept_until_it_may_have_ended_is_not_used_again() -> None:
    server = FakeServer()

    async def main(client: Coordinator) -> None:
        for pause in (0.0, GRANTED_MS / 1000):
            await trio.sleep(pause)
            assert await client.read("sets/a") == CellPair()

    run(server, main)
    assert server.sessions == 2
