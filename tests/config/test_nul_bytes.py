"""A NUL byte in a path, a name or an address: refused in one line that shows it, from wherever it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest
import trio

import mqcore
from mqcore.abc import AccessContext, TransportContext, read_private_file
from mqcore.certificates import read_certificates
from mqcore.cli._run import run
from mqcore.config import load_config, make_config
from mqcore.errors import ConfigurationError, MqcoreError
from mqcore.registry import create_authenticator, create_transport

NUL = "/tmp/a\0b"


def with_nul(keys: Mapping[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """Each key of text in ``keys``, dotted, and the keys with a NUL byte in that one."""
    for key, value in keys.items():
        if isinstance(value, str):
            yield key, {**keys, key: NUL}
        elif isinstance(value, Mapping):
            yield from ((f"{key}.{at}", {**keys, key: table}) for at, table in with_nul(value))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from ((f"{key}.{at}", {**keys, key: [table]}) for at, table in with_nul(value[0]))


TEXTS: dict[str, object] = {
    "name": "a",
    "storage": {"url": "memory://"},
    "listen": [
        {"url": "tls://127.0.0.1:7444", "cert": "c", "key": "k", "ca": "a", "client_ca": "l", "server_name": "n"},
    ],
    "tls": {"cert": "c", "key": "k", "ca": "a", "client_ca": "l", "server_name": "n"},
    "http": "127.0.0.1:0",
    "offset_store": "postgres://127.0.0.1/x",
    "access": {
        "authenticators": [{"name": "token", "options": {"tokens": "t"}}],
        "login": {"user": "u", "password_file": "p", "token_file": "f"},
    },
    "cluster": {"coordinator": {"url": "manual"}, "sets": [{"name": "one", "nodes": [{"name": "a", "urls": ["tls://127.0.0.1:7444"]}]}]},
}  # fmt: skip


def compose(keys: Mapping[str, object]) -> None:
    """Read a configuration, and what is told to its parts, whose options are looked at when they are composed."""
    config = make_config(**keys)
    for listen in config.listen:
        create_transport(listen.url, TransportContext(tls=config.tls), listen.options)
    assert config.access is not None
    for each in config.access.authenticators:
        create_authenticator(each.name, AccessContext(), each.options)


def test_without_one_it_is_a_configuration() -> None:
    compose(TEXTS)


@pytest.mark.parametrize(("key", "keys"), [pytest.param(*each, id=each[0]) for each in with_nul(TEXTS)])
def test_a_nul_byte_is_refused_in_one_line_wherever_a_text_is_given(key: str, keys: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compose(keys)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)
    assert "a\\x00b" in str(caught.value)


@pytest.mark.parametrize("name", ["cert", "key", "ca", "password_file", "token_file"])
def test_a_client_refuses_it_too(name: str) -> None:
    beside = {"password_file": {"user": "u"}, "key": {"cert": "c"}}.get(name, {})

    async def main() -> None:
        with pytest.raises(ConfigurationError, match=r"a\\x00b") as caught:
            async with mqcore.connect("tls://127.0.0.1:1", **{name: NUL, **beside}):
                pass
        assert "\n" not in str(caught.value)

    trio.run(main)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--ca", NUL, "ping"],
        ["ping", "--password-file", NUL],
        ["serve", "--config", NUL],
        ["serve", "--storage", "mmap:///tmp/%00"],
        ["ping", "tls://127.0.0.1:1?ca=%00"],
        ["storage", "verify", NUL],
        ["cert", "dev", "--to", NUL],
    ],
    ids=" ".join,
)
def test_so_does_the_command_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    told = capsys.readouterr().err.splitlines()
    assert "\\x00" in told[0] or "%00" in told[0]
    assert len([line for line in told if not line.startswith("Try ")]) == 1


@pytest.mark.parametrize("read", [load_config, read_private_file, lambda path: read_certificates(path, "here")])
def test_what_reads_a_file_by_itself_names_the_path(read: Callable[[str], object]) -> None:
    with pytest.raises(MqcoreError, match=r"a\\x00b'?:? .*NUL byte"):
        read(NUL)
