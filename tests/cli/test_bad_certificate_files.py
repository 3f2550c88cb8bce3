"""Files of certificates of a client's own that are of no use: wrong usage (status 2) in every verb that takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import trustme

from mqcore.cli._root import root
from mqcore.cli._run import run

OF_BROKERS = {"serve", "explain", "config check", "config diff", "config show"}
"""Verbs whose files are a broker's."""
NEEDED = {
    "dead-letter delete": ["--all"],
    "dead-letter replay": ["--all"],
    "group reset": ["--topic", "t", "--to", "start"],
    "producer delete": ["--topic", "t"],
    "producer describe": ["--topic", "t"],
    "topic alter": ["--retention-bytes", "0"],
    "cluster switchover": ["--to", "a"],
}
"""What some of them need besides their arguments."""


def verbs(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Each verb that connects to a server."""
    context = click.Context(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from verbs(found, (*path, name))
    elif any("--ca" in parameter.opts for parameter in command.params):
        yield path, command


VERBS = {" ".join(path): command for path, command in verbs(root) if " ".join(path) not in OF_BROKERS}


def typed(name: str, folder: Path) -> list[str]:
    """The verb with an argument for each that it needs, and with a yes to what it would ask."""
    command, given = VERBS[name], name.split()
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and parameter.required:
            given.append("2" if parameter.name == "copies" else str(folder / "x"))
        elif "--yes" in parameter.opts:
            given.append("--yes")
    return [*given, *NEEDED.get(name, [])]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Options with a file that will not do, by what is wrong with it; the last option is the one that is named."""
    folder, authority = tmp_path_factory.mktemp("files"), trustme.CA()
    paths = {name: str(folder / name) for name in ("ca", "cert", "key", "other", "text", "missing")}
    mine, others = authority.issue_cert("a"), authority.issue_cert("b")
    authority.cert_pem.write_to_path(paths["ca"])
    mine.cert_chain_pems[0].write_to_path(paths["cert"])
    mine.private_key_pem.write_to_path(paths["key"])
    others.private_key_pem.write_to_path(paths["other"])
    Path(paths["text"]).write_text("nothing of a certificate")
    return {
        "ca-missing": ["--ca", paths["missing"]],
        "ca-no-pem": ["--ca", paths["text"]],
        "ca-a-folder": ["--ca", str(folder)],
        "cert-missing": ["--ca", paths["ca"], "--key", paths["key"], "--cert", paths["missing"]],
        "cert-no-pem": ["--ca", paths["ca"], "--key", paths["key"], "--cert", paths["text"]],
        "key-missing": ["--ca", paths["ca"], "--cert", paths["cert"], "--key", paths["missing"]],
        "key-no-pem": ["--ca", paths["ca"], "--cert", paths["cert"], "--key", paths["text"]],
        "key-of-another": ["--ca", paths["ca"], "--cert", paths["cert"], "--key", paths["other"]],
    }


def status_and_words(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = run([*arguments, "--timeout", "2 s"])
    return status, capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(VERBS))
@pytest.mark.parametrize("kind", ["ca-missing", "key-of-another"])
def test_every_verb_ends_with_status_2_and_names_the_file(
    name: str, kind: str, files: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = files[kind]
    status, told = status_and_words([*typed(name, tmp_path), "--server", "tls://127.0.0.1:1", *options], capsys)
    assert (status, options[-1] in told) == (2, True), told


@pytest.mark.parametrize("scheme", ["tls", "quic"])
@pytest.mark.parametrize("verb", [["ping"], ["topic", "list"]], ids=" ".join)
def test_so_does_every_kind_of_file_that_will_not_do(
    verb: list[str], scheme: str, files: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, options in files.items():
        status, told = status_and_words([*verb, "--server", f"{scheme}://127.0.0.1:1", *options], capsys)
        assert (status, options[-1] in told) == (2, True), (kind, told)
        assert len(told.splitlines()) == 1


def test_a_server_that_cannot_be_reached_is_another_matter(
    files: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    good = files["cert-missing"][:2]
    assert status_and_words(["topic", "list", "--server", "tls://127.0.0.1:1", *good], capsys)[0] == 4


@pytest.mark.parametrize("scheme", ["tls", "quic"])
def test_a_broker_with_such_files_ends_with_status_2_too(
    scheme: str, files: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"--ca": "--ca", "--cert": "--tls-cert", "--key": "--tls-key"}
    options = [own.get(each, each) for each in files["key-of-another"][2:]]
    capsys.readouterr()
    listen = ["serve", "--storage", "memory://", "--flush", "none", "--listen", f"{scheme}://127.0.0.1:0"]
    assert run([*listen, *options]) == 2
    assert options[-1] in capsys.readouterr().err
