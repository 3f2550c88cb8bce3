"""``mqcore ping``: one line, the step that fails by its name."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

import mqcore.sync
from mqcore.broker import serve_broker
from mqcore.cli._root import root
from mqcore.config import make_config
from mqcore.errors import NotReachedError


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name in ("server", "client"):
        pair = ca.issue_cert("127.0.0.1", common_name=name)
        pair.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / f"{name}.pem"))
        (tmp_path / f"{name}.pem").chmod(0o600)  # else a notice of the key's mode stands beside what is asked for
    return ca


@pytest.fixture
def urls(authority: trustme.CA, tmp_path: Path) -> Iterator[list[str]]:
    """A broker with a listener of each kind, in a thread of its own."""
    import threading

    import trio

    ready = threading.Event()
    found: list[str] = []
    stop: list[object] = []

    async def main() -> None:
        config = make_config(
            storage="memory://",
            flush="none",
            listen=["tcp://127.0.0.1:0", f"unix://{tmp_path}/broker.sock", "tls://127.0.0.1:0"],
            tls={"cert": str(tmp_path / "server.pem"), "client_ca": str(tmp_path / "ca.pem")},
        )
        async with trio.open_nursery() as nursery:
            broker = await nursery.start(serve_broker, config)
            found.extend(broker.urls)
            token, scope = trio.lowlevel.current_trio_token(), nursery.cancel_scope
            stop.append(lambda: token.run_sync_soon(scope.cancel))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        assert ready.wait(30)
        yield found
    finally:
        stop[0]()  # type: ignore[operator]
        thread.join(30)


def ping(*arguments: str) -> str:
    result = CliRunner().invoke(root, ["ping", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_every_listener_of_one_broker_answers_with_what_it_is(urls: list[str], tmp_path: Path) -> None:
    own = ["--ca", f"{tmp_path}/ca.pem", "--cert", f"{tmp_path}/client.pem", "--key", f"{tmp_path}/client.pem"]
    found = {url: json.loads(ping(url, "--count", "3", "--output", "json", *own)) for url in urls}
    assert [each["encrypted"] for each in found.values()] == [False, False, True]
    assert [each["addresses"] for each in found.values()] == [["127.0.0.1"], [], ["127.0.0.1"]]
    assert {each["node"] for each in found.values()} == {"mqcore"}
    encrypted = found[urls[2]]
    assert encrypted["tls_subject"].startswith("CN=server")
    assert encrypted["tls_names"] == ["IP Address:127.0.0.1"]
    assert encrypted["round_trips"] == 3
    assert 0 < encrypted["round_trip_ms_min"] <= encrypted["round_trip_ms_median"] <= encrypted["round_trip_ms_max"]


def test_people_are_told_in_one_line(urls: list[str], tmp_path: Path) -> None:
    (line,) = ping(urls[0]).splitlines()
    assert line.startswith(f"{urls[0]}: resolved to 127.0.0.1 in ")
    for words in ("connected in", "(not encrypted)", "broker mqcore greeted in", "round trip"):
        assert words in line


def test_the_step_that_fails_is_named(urls: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    ca = ["--ca", f"{tmp_path}/ca.pem"]
    for arguments, words in (
        (["tcp://two..dots:1"], "resolve: .*: check the host's name"),
        ([f"tcp://127.0.0.1:{port}"], "connect: cannot connect .*: nothing listens there"),
        ([urls[2]], "connect: .*its authority is not trusted here: name that as ca"),
        ([urls[2], *ca], "greeting: .*asks for a certificate of this client: give one"),
        ([urls[2].replace("tls", "tcp")], "greeting: the broker speaks TLS and this end does not"),
        ([urls[0].replace("tcp", "tls"), *ca], "connect: .*does not speak TLS here"),
    ):
        with pytest.raises(NotReachedError, match=words):
            ping(*arguments)


def test_the_client_that_blocks_pings_too(urls: list[str]) -> None:
    with mqcore.sync.connect(urls[0]) as client:
        assert client.ping() > 0
