"""The real servers in the tests' hands: they end with whoever started them, and a relay loses what it is told to."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio
from coordinator_parts import SCHEMES, SERVERS, each_of

from mqcore_conformance.servers import OneWayRelay

pytestmark = pytest.mark.slow


def is_running(pid: int) -> bool:
    """Whether there is such a process that is not just waiting for its parent to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("scheme", each_of(*SCHEMES))
def test_a_server_has_a_folder_of_its_own_and_leaves_neither_it_nor_a_process(scheme: str) -> None:
    with SERVERS[scheme]() as server:
        assert server.answers()
        processes = server.processes()
        server.freeze()
    assert not server.folder.exists()
    assert not [pid for pid in processes if is_running(pid)]


@pytest.mark.needs("etcd", "linux")
def test_a_server_ends_with_the_process_that_started_it_however_that_ends() -> None:
    code = "from mqcore_conformance.servers import EtcdServer; import os, signal, sys; server = EtcdServer(); "
    code += "server.start(); print(server.pid, server.folder, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=60).stdout
    pid, folder = output.split()
    deadline = time.monotonic() + 10
    while is_running(int(pid)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    subprocess.run(["rm", "-r", folder], check=True)


def test_a_relay_drops_one_direction_until_it_heals_and_cuts_what_lost_bytes() -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, echo, listeners)
            relay = OneWayRelay(listeners[0].socket.getsockname()[1])
            nursery.start_soon(relay.run)
            stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
            for direction in ("to-server", "from-server"):
                await stream.send_all(b"heard")
                assert await stream.receive_some() == b"heard"
                relay.lose(direction)
                await stream.send_all(b"lost")
                with trio.move_on_after(0.1) as waited:
                    await stream.receive_some()
                assert waited.cancelled_caught
                relay.lose()
                with trio.fail_after(60):
                    assert await stream.receive_some() == b""
                await stream.aclose()
                stream = await trio.open_tcp_stream("127.0.0.1", relay.port)
            await stream.aclose()
            nursery.cancel_scope.cancel()

    trio.run(main)
