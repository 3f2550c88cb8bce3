"""The model network: sockets on which Trio's own streams work, and that break as told."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from mqcore.abc import Link
from mqcore.registry import create_transport
from mqcore.testing import ModelNetwork, run_simulation

TCP4, TCP6, UNIX = (
    (socket.AF_INET, ("127.0.0.1", 0)),
    (socket.AF_INET6, ("::1", 0)),
    (socket.AF_UNIX, "/run/mq.sock"),
)
Pair = tuple[trio.SocketStream, trio.SocketStream]


async def pair(family: int = socket.AF_INET, address: Any = ("127.0.0.1", 0)) -> Pair:
    """A connected client and server stream."""
    listener = trio.socket.socket(family)
    await listener.bind(address)
    listener.listen()
    client = trio.socket.socket(family)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.connect, listener.getsockname())
        server, _ = await listener.accept()
    listener.close()
    return trio.SocketStream(client), trio.SocketStream(server)


async def hosts_pair(network: ModelNetwork) -> Pair:
    """A connection from the host "client" to the host "server"."""
    with network.host("server"):
        listener = trio.socket.socket()
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
    with network.host("client"):
        client = trio.socket.socket()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.connect, listener.getsockname())
        server, _ = await listener.accept()
    return trio.SocketStream(client), trio.SocketStream(server)


def simulate(network: ModelNetwork, main: Callable[[], Awaitable[None]], seed: int = 0) -> None:
    async def installed() -> None:
        with network.installed():
            await main()

    run_simulation(installed, seed=seed, seconds_max=100_000)


@pytest.mark.parametrize(("family", "address"), [TCP4, TCP6, UNIX], ids=["ipv4", "ipv6", "unix"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pieces": True},
        {"latency_s": 0.01, "jitter_s": 0.01},
        {"pieces": True, "jitter_s": 1, "buffer_bytes": 20_000},
    ],
    ids=["plain", "pieces", "slow", "all"],
)
def test_trios_own_checks_of_half_closeable_streams_pass(family: int, address: Any, options: dict[str, Any]) -> None:
    network = ModelNetwork(1, **options)

    async def clogged() -> Pair:
        streams = await pair(family, address)
        for stream in streams:
            with trio.move_on_after(60):
                while True:
                    await stream.send_all(b"x" * 10_000)
        return streams

    async def main() -> None:
        await trio.testing.check_half_closeable_stream(lambda: pair(family, address), clogged)

    simulate(network, main)


def test_trios_helpers_listen_connect_and_resolve_names() -> None:
    network = ModelNetwork(1)
    network.names["replica-1"] = "10.0.0.1"

    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(trio.serve_tcp, echo, 0)
            port = listeners[0].socket.getsockname()[1]
            for host in ("localhost", "10.0.0.1", "replica-1"):
                stream = await trio.open_tcp_stream(host, port)
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
                await stream.aclose()
            with pytest.raises(OSError, match="knows no"):
                await trio.open_tcp_stream("elsewhere", port)
            nursery.cancel_scope.cancel()

    simulate(network, main)


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "unix:///run/mqcore-model.sock"])
def test_the_transports_of_the_project_run_on_it(url: str) -> None:
    network = ModelNetwork(1, pieces=True, latency_s=0.001)

    async def main() -> None:
        listener = await create_transport(url).listen()
        client = create_transport(str(listener.url))
        accepted: list[Link] = []
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                accepted.append(await listener.accept())

            nursery.start_soon(accept)
            near = await client.connect()
        far = accepted[0]
        sender, receiver = await near.open_stream(), await far.accept_stream()
        data = bytes(range(256)) * 2000
        got = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_buffers, [data[:7], data[7:100_000], data[100_000:]])
            while len(got) < len(data):
                buffer = bytearray(10_000)
                got += buffer[: await receiver.receive_into(buffer)]
        assert got == data
        for resource in (near, far, listener):
            await resource.aclose()

    simulate(network, main)


def test_addresses_are_taken_once_and_free_again_after_close() -> None:
    async def main() -> None:
        first, second = trio.socket.socket(), trio.socket.socket()
        await first.bind(("127.0.0.1", 0))
        address = first.getsockname()
        with pytest.raises(OSError, match=rf"\[Errno {errno.EADDRINUSE}\]"):
            await second.bind(address)
        first.close()
        await second.bind(address)

    simulate(ModelNetwork(1), main)


def test_options_say_what_a_transport_asks_for() -> None:
    network = ModelNetwork(1, buffer_bytes=5000)
    network.credentials["server"] = (42, 7, 8)

    async def main() -> None:
        with network.host("server"):
            listener = trio.socket.socket(socket.AF_UNIX)
            await listener.bind(b"/s")
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
            listener.listen()
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        client = trio.socket.socket(socket.AF_UNIX)
        await client.connect("/s")
        found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert struct.unpack("3i", found) == (42, 7, 8)
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 5000
        with pytest.raises(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    simulate(network, main)


def test_a_reader_that_stops_holds_up_its_writer_within_the_buffer() -> None:
    network = ModelNetwork(1, buffer_bytes=1000)

    async def main() -> None:
        client, server = await pair()
        sent = 0
        with trio.move_on_after(10):
            while True:
                sent += await client.socket.send(b"x" * 300)
        assert sent == 1000
        assert len(await server.receive_some(10)) == 10
        assert await client.socket.send(b"y" * 300) == 10

    simulate(network, main)


def test_bytes_travel_for_the_latency() -> None:
    async def main() -> None:
        client, server = await pair()
        start = trio.current_time()
        await client.send_all(b"x")
        assert trio.current_time() == start
        await server.receive_some()
        assert trio.current_time() == pytest.approx(start + 0.25)

    simulate(ModelNetwork(1, latency_s=0.25), main)


def test_nothing_arrives_over_a_cut_and_all_of_it_after_healing() -> None:
    network = ModelNetwork(1)

    async def main() -> None:
        client, server = await hosts_pair(network)
        network.cut("client", "server", both_ways=False)
        await client.send_all(b"there")
        await server.send_all(b"back")
        assert await client.receive_some() == b"back"
        with trio.move_on_after(1000) as scope:
            await server.receive_some()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:

            async def receive() -> None:
                assert await server.receive_some() == b"there"

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            network.heal()

    simulate(network, main)


def test_nobody_connects_over_a_cut_until_it_heals() -> None:
    network = ModelNetwork(1)

    async def main() -> None:
        listeners = await trio.open_tcp_listeners(7400)
        network.cut()
        with trio.move_on_after(5) as scope:
            await trio.open_tcp_stream("127.0.0.1", 7400)
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.open_tcp_stream, "127.0.0.1", 7400)
            await trio.testing.wait_all_tasks_blocked()
            network.heal()
            await listeners[0].accept()

    simulate(network, main)


def test_a_reset_loses_what_is_unread_and_breaks_both_ends() -> None:
    network = ModelNetwork(1)

    async def main() -> None:
        client, server = await hosts_pair(network)
        await client.send_all(b"lost")
        assert network.reset("client", "server") == 1
        for operation in (server.receive_some, client.receive_some, lambda: client.send_all(b"x")):
            with pytest.raises(trio.BrokenResourceError):
                await operation()
        assert network.witnesses["reset"] == 1

    simulate(network, main)


@pytest.mark.parametrize("byte_count", range(8))
@pytest.mark.parametrize("then", ["reset", "close", "stall"])
def test_a_connection_breaks_after_exactly_so_many_bytes(byte_count: int, then: Any) -> None:
    network = ModelNetwork(1)
    network.break_next(byte_count, source="client", then=then)

    async def main() -> None:
        client, server = await hosts_pair(network)
        with pytest.raises(trio.BrokenResourceError) if then == "reset" and byte_count == 0 else trio.CancelScope():
            await client.send_all(b"frame!")
        got = b""
        with trio.move_on_after(100) as scope:
            try:
                while data := await server.receive_some():
                    got += data
                ended = "close"
            except trio.BrokenResourceError:
                ended = "reset"
        if scope.cancelled_caught:
            ended = "stall"
        assert got == b"frame!"[:byte_count]
        assert ended == (then if byte_count <= 6 else "stall")

    simulate(network, main)


@pytest.mark.parametrize("byte_count", [0, 3])
@pytest.mark.parametrize("closes", [False, True])
def test_healing_resets_a_connection_that_a_break_stalled(byte_count: int, closes: bool) -> None:
    network = ModelNetwork(1)
    network.break_next(byte_count, source="client", then="stall")

    async def main() -> None:
        client, server = await hosts_pair(network)
        await client.send_all(b"frame!")
        if closes:
            await client.aclose()
        got = b""
        with trio.move_on_after(100):
            while data := await server.receive_some():
                got += data
        assert got == b"frame!"[:byte_count]
        network.heal()
        for stream in (server,) if closes else (server, client):
            with trio.fail_after(1), pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()

    simulate(network, main)


def test_healing_leaves_a_connection_whole_whose_break_is_still_to_come() -> None:
    network = ModelNetwork(1)
    network.break_next(7, source="client", then="stall")

    async def main() -> None:
        client, server = await hosts_pair(network)
        await client.send_all(b"frame!")
        network.heal()
        assert await server.receive_some(6) == b"frame!"

    simulate(network, main)


def test_refused_connects_and_failed_accepts() -> None:
    network = ModelNetwork(1)

    async def main() -> None:
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", 7400)
        (listener,) = await trio.open_tcp_listeners(7400, host="127.0.0.1")
        network.refuse()
        with pytest.raises(OSError):
            await trio.open_tcp_stream("127.0.0.1", 7400)
        network.accept_again()
        network.fail_accept(errno.EMFILE)
        stream = await trio.open_tcp_stream("127.0.0.1", 7400)
        with pytest.raises(OSError, match=r"\[Errno 24\]"):
            await listener.accept()
        await listener.accept()
        await stream.aclose()
        missing = trio.socket.socket(socket.AF_UNIX)
        with pytest.raises(FileNotFoundError):
            await missing.connect("/none")

    simulate(network, main)


def test_the_peers_of_a_killed_process_read_what_it_sent_and_the_end() -> None:
    network = ModelNetwork(1)

    async def main() -> None:
        client, server = await hosts_pair(network)
        await server.send_all(b"last words")
        network.kill_host("server")
        assert await client.receive_some() == b"last words"
        assert await client.receive_some() == b""
        await client.send_all(b"taken by the kernel, read by nobody")
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"anybody?")
        with pytest.raises(trio.ClosedResourceError):
            await server.receive_some()

    simulate(network, main)


def test_a_killed_process_can_make_no_more_sockets_and_its_next_life_can() -> None:
    network = ModelNetwork(1)

    async def main() -> None:
        with network.host("server"):
            first = trio.socket.socket()
            await first.bind(("127.0.0.1", 7400))
            network.kill_host("server")
            with pytest.raises(OSError, match=rf"\[Errno {errno.ENETDOWN}\]"):
                trio.socket.socket()
        with network.host("server"):
            second = trio.socket.socket()
            await second.bind(("127.0.0.1", 7400))

    simulate(network, main)


def test_the_peers_of_a_host_without_power_hear_nothing_until_it_is_back_and_resets_them() -> None:
    network = ModelNetwork(1)

    async def main() -> None:
        client, server = await hosts_pair(network)
        await server.send_all(b"in flight")
        network.kill_host("server", silent=True)
        await client.send_all(b"hello?")
        with trio.move_on_after(1000) as scope:
            await client.receive_some()
        assert scope.cancelled_caught
        with network.host("server"):
            pass
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()

    simulate(network, main)


def test_sockets_are_real_again_outside_of_the_block() -> None:
    async def main() -> None:
        with ModelNetwork(1).installed():
            assert type(trio.socket.socket()).__name__ == "ModelSocket"
        with trio.socket.socket() as real:
            assert type(real).__name__ == "_SocketType"

    run_simulation(main)
