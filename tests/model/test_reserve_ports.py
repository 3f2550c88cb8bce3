"""mqcore.testing.reserve_ports: what is reserved is free for its server only, also after the server has ended."""

from __future__ import annotations

import errno
import socket
import subprocess
import sys

import pytest

from mqcore.testing import _ports, release_ports, reserve_ports

HOST = "127.0.0.1"
TAKES_ALL = """
import sys
from mqcore.testing import _ports, reserve_ports
_ports._candidates = lambda: [int(port) for port in sys.argv[1].split(",")]
_ports.ATTEMPTS_MAX = 50
try:
    print(reserve_ports(1)[0])
except OSError as error:
    print(error.strerror)
"""


def listening(port: int) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((HOST, port))
    server.listen()
    return server


def test_a_server_listens_on_a_reserved_port_and_again_after_it_has_ended():
    (port,) = reserve_ports(1)
    for _ in range(2):
        with listening(port) as server, socket.create_connection((HOST, port)) as client:
            accepted, _ = server.accept()
            client.sendall(b"here")
            assert accepted.recv(4) == b"here"
            accepted.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port))


def test_a_reserved_port_is_held_against_all_who_look_for_one():
    (port,) = reserve_ports(1)
    with socket.socket() as other, pytest.raises(OSError, match=rf"\[Errno {errno.EADDRINUSE}\]"):
        other.bind((HOST, port))
    with listening(port), socket.socket() as other, pytest.raises(OSError, match=rf"\[Errno {errno.EADDRINUSE}\]"):
        other.bind((HOST, port))


def test_another_process_gets_other_ports():
    mine = reserve_ports(2)
    (free,) = reserve_ports(1)
    _ports._held.pop().close()
    asked = ",".join(map(str, (*mine, free)))
    found = subprocess.run([sys.executable, "-c", TAKES_ALL, asked], stdout=subprocess.PIPE, text=True, check=True)
    assert found.stdout.strip() == str(free)
    asked = ",".join(map(str, mine))
    found = subprocess.run([sys.executable, "-c", TAKES_ALL, asked], stdout=subprocess.PIPE, text=True, check=True)
    assert "no 1 free ports on 127.0.0.1" in found.stdout


def test_ports_are_not_those_that_the_kernel_gives_to_outgoing_connections():
    least, most = map(int, _ports._RANGE_FILE.read_text().split())
    assert all(not least <= port <= most for port in reserve_ports(20))


def test_a_port_of_udp_that_is_taken_is_not_reserved(monkeypatch):
    (port,) = reserve_ports(1)
    _ports._held.pop().close()
    monkeypatch.setattr(_ports, "_candidates", lambda: [port])
    monkeypatch.setattr(_ports, "ATTEMPTS_MAX", 20)
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, port))
        with pytest.raises(OSError, match="no 1 free ports"):
            reserve_ports(1)
    assert reserve_ports(1) == [port]


def test_so_many_are_held_and_no_more(monkeypatch):
    monkeypatch.setattr(_ports, "HELD_MAX", len(_ports._held) + 2)
    first, *_ = reserve_ports(2)
    holder = _ports._held[-2]
    before = len(_ports._held)
    reserve_ports(3)
    assert len(_ports._held) == before
    assert first > 0
    assert holder in _ports._held or holder.fileno() == -1


def test_a_port_that_was_given_back_is_held_no_more():
    kept, given = reserve_ports(2)
    release_ports([given])
    release_ports([given])
    held = {holder.getsockname()[1] for holder in _ports._held}
    assert kept in held
    assert given not in held
