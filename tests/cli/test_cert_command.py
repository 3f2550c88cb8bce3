"""``mqcore cert dev``: an authority and certificates that a broker and its clients take as they are."""

from __future__ import annotations

import json
import ssl
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

import mqcore
from mqcore.cli._root import root
from mqcore.errors import ConfigurationError


def cert(*arguments: str) -> str:
    result = CliRunner().invoke(root, ["cert", "dev", *arguments], catch_exceptions=True)
    if result.exception is not None:
        raise result.exception
    return result.output


def test_keys_are_their_owners_and_the_rest_is_for_all(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    files = json.loads(cert("--to", str(folder), "--output", "json"))["files"]
    assert sorted(Path(each).name for each in files) == [
        "ca.key", "ca.pem", "client.key", "client.pem", "server.key", "server.pem",
    ]  # fmt: skip
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {"ca.key", "server.key", "client.key"}


def test_a_broker_and_its_clients_take_them(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    cert("--to", str(folder), "--host", "broker.lan", "--host", "10.0.0.7", "--client", "alice")
    name = {each: str(folder / each) for each in ("ca.pem", "server.pem", "server.key", "alice.pem", "alice.key")}
    tls = {"cert": name["server.pem"], "key": name["server.key"], "client_ca": name["ca.pem"]}

    async def test() -> None:
        async with mqcore.open_broker(storage="memory://", flush="none", listen="tls://localhost:0", tls=tls) as broker:
            for url in (broker.urls[0], broker.urls[0].replace("localhost", "127.0.0.1")):
                own = {"ca": name["ca.pem"], "cert": name["alice.pem"], "key": name["alice.key"]}
                async with mqcore.connect(url, **own) as client:
                    assert await client.admin.list_topics() == []
            async with mqcore.connect(  # the certificate of a node is that of a client too
                broker.urls[0], ca=name["ca.pem"], cert=name["server.pem"], key=name["server.key"]
            ) as client:
                assert client.node is not None

    import trio

    trio.run(test)
    shown = ssl._ssl._test_decode_cert(name["server.pem"])  # type: ignore[attr-defined]
    assert {("DNS", "broker.lan"), ("IP Address", "10.0.0.7")} <= set(shown["subjectAltName"])


def test_nothing_is_overwritten_and_a_client_can_be_added(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    cert("--to", str(folder))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigurationError, match=r"server\.pem exists, and nothing is overwritten"):
        cert("--to", str(folder))
    with pytest.raises(ConfigurationError, match=r"client\.pem exists"):
        cert("--to", str(folder), "--client", "client")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    cert("--to", str(folder), "--client", "bob")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "bob.pem", folder / "bob.key")


def names_in(path: Path) -> set[tuple[str, str]]:
    return set(ssl._ssl._test_decode_cert(str(path))["subjectAltName"])  # type: ignore[attr-defined]


def test_each_server_has_a_certificate_of_its_own_from_one_authority(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    files = json.loads(cert("--to", str(folder), "--server", "a", "--server", "b.lan", "--output", "json"))["files"]
    assert [Path(each).name for each in files] == [
        "ca.pem", "ca.key", "a.pem", "a.key", "b.lan.pem", "b.lan.key", "client.pem", "client.key",
    ]  # fmt: skip
    loopback = {("DNS", "localhost"), ("IP Address", "127.0.0.1"), ("IP Address", "0:0:0:0:0:0:0:1")}
    assert names_in(folder / "a.pem") == loopback | {("DNS", "a")}
    assert names_in(folder / "b.lan.pem") == loopback | {("DNS", "b.lan")}
    assert stat.S_IMODE((folder / "a.key").stat().st_mode) == 0o600
    for name in ("a", "b.lan"):
        for purpose in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH):
            context = ssl.create_default_context(purpose, cafile=str(folder / "ca.pem"))
            context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    assert (folder / "a.key").read_bytes() != (folder / "b.lan.key").read_bytes()


def test_servers_and_clients_are_added_to_an_authority_one_by_one(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    cert("--to", str(folder), "--server", "a", "--host", "10.0.0.7")
    assert ("IP Address", "10.0.0.7") in names_in(folder / "a.pem")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    cert("--to", str(folder), "--server", "b")
    cert("--to", str(folder), "--client", "bob")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() - before.keys() == {"b.pem", "b.key", "bob.pem", "bob.key"}
    assert {name: after[name] for name in before} == before
    with pytest.raises(ConfigurationError, match=r"a\.pem exists, and nothing is overwritten"):
        cert("--to", str(folder), "--server", "a")


@pytest.mark.parametrize("ending", ["pem", "key"])
def test_half_an_authority_is_not_completed(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"ca.{ending}").write_text("something of somebody's")
    with pytest.raises(ConfigurationError, match=rf"ca\.{ending} exists"):
        cert("--to", str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [f"ca.{ending}"]


def test_an_authority_of_no_use_is_named(tmp_path: Path) -> None:
    for name in ("ca.pem", "ca.key"):
        (tmp_path / name).write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"ca\.pem: this authority and its key cannot be read"):
        cert("--to", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--client", "server"], "not 'ca' or 'server'"),
        (["--client", "../x"], "letters, digits"),
        (["--client", "a", "--client", "a"], "given twice"),
        (["--server", "ca"], "not 'ca'"),
        (["--server", "client"], "not 'ca' or 'client'"),
        (["--server", "../x"], "letters, digits"),
        (["--server", ".."], "letters, digits"),
        (["--server", ""], "letters, digits"),
        (["--server", "bücher"], "letters, digits"),
        (["--server", "a", "--server", "a"], "given twice"),
        (["--server", "a", "--client", "a"], "given twice"),
        (["--host", "bücher.example"], "neither an address nor a name in ASCII"),
    ],
)
def test_names_that_cannot_be_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        cert("--to", str(tmp_path / "certs"), *arguments)
    assert not list(tmp_path.glob("certs/*"))
