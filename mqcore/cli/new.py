"""``mqcore new``: the package of a plug-in that installs and runs as it is, for its author to go on from."""

from __future__ import annotations

import keyword
import re
import shlex
import sys
from importlib.resources import files
from pathlib import Path

import click

from mqcore.cli.shell import Group, Verb, current, make_folder, output_options, refuse, write_json, write_line

__all__ = ["command"]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}\Z")
_CONFUSING = sys.stdlib_module_names | set(keyword.kwlist) | {"mqcore", "conformance", "trio", "attrs", "click"}
"""Words that mean something else to a reader; ``mqcore_conformance`` is a package of mqcore."""
_COMMON = {
    ".gitignore": "gitignore.txt",
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "src/@module@/__init__.py": "__init__.py.txt",
    "src/@module@/_config.py": "_config.py.txt",
    "tests/test_@module@.py": "test.py.txt",
    "tests/test_conformance.py": "test_conformance.py.txt",
    "conformance.toml": "conformance.toml.txt",
}
_LAYOUTS = {
    "storage": {
        **_COMMON,
        "src/@module@/_storage.py": "_storage.py.txt",
        "src/@module@/_log.py": "_log.py.txt",
        "src/@module@/_mark.py": "_mark.py.txt",
    },
    "transport": {**_COMMON, "src/@module@/_transport.py": "_transport.py.txt"},
    "coordinator": {**_COMMON, "src/@module@/_coordinator.py": "_coordinator.py.txt"},
    "offset-store": {**_COMMON, "src/@module@/_store.py": "_store.py.txt"},
    "authenticator": {
        **_COMMON,
        "src/@module@/_authenticator.py": "_authenticator.py.txt",
        "tests/logins.py": "logins.py.txt",
    },
}
"""For each kind: path in the new package, name of the template."""
_GROUPS = {
    "storage": "storage",
    "transport": "transports",
    "coordinator": "coordinators",
    "offset-store": "offset_stores",
    "authenticator": "authenticators",
}
_NEXT = {
    "storage": "mqcore serve --storage {name}:///tmp/{name}",
    "transport": "mqcore serve --storage memory:// --listen {name}://mqcore",
    "coordinator": "mqcore plugins check coordinators/{name} --url {name}:///tmp/{name}",
    "offset-store": "mqcore plugins check offset_stores/{name} --url {name}:///tmp/{name}",
    "authenticator": "mqcore plugins check authenticators/{name}",
}


@click.group("new", cls=Group, examples=["mqcore new storage shelf", "mqcore new transport pigeon --to ~/src"])
@output_options
def command() -> None:
    """Write the package of a new part, of one of these kinds: it installs, runs and has a test."""


def _verb(kind: str, thing: str, name: str) -> None:
    @command.command(kind, cls=Verb, help=f"Write a package with {thing}.", examples=[f"mqcore new {kind} {name}"])
    @click.argument("name")
    @click.option("--to", metavar="DIR", default=".", show_default=True, help="Where to make it; made if missing.")
    @output_options
    def write(name: str, to: str) -> None:
        _write_package(kind, name, Path(to))


_verb("storage", "a storage backend NAME:///PATH, one plain file per log, to go on from", "shelf")
_verb("transport", "a transport NAME://ADDRESS over local stream sockets, to go on from", "pigeon")
_verb("coordinator", "a coordinator NAME:///PATH, cells in one SQLite file, to go on from", "notary")
_verb("offset-store", "an offset store NAME:///PATH, cursors in one SQLite file, to go on from", "tally")
_verb("authenticator", "an authenticator NAME, a shared secret per user that never travels, to go on from", "badge")


def _write_package(kind: str, name: str, to: Path) -> None:
    from mqcore.registry import installed

    if not _NAME.match(name) or name.endswith("-"):
        refuse(f"{name!r}: it becomes a URL's scheme; use 1 to 30 of a-z, 0-9 and '-', beginning with a letter")
    if name.replace("-", "_") in _CONFUSING:
        refuse(f"{name!r} is a name of Python's or mqcore's own; choose one that is only yours, such as my-{name}")
    taken = [part for group in _GROUPS.values() for part in installed(group, name)]
    if taken:
        refuse(f"{name!r} is taken by {taken[0].origin}; a URL's scheme picks one part, so choose another name")
    folder = to / f"mqcore-{name}"
    if folder.exists():
        refuse(f"{folder} is there already; remove it, or name another folder with --to")
    make_folder(to)
    words = {
        "@name@": name,
        "@module@": f"mqcore_{name.replace('-', '_')}",
        "@Class@": "".join(part.capitalize() for part in name.split("-")),
    }
    written: list[str] = []
    for path, template in _LAYOUTS[kind].items():
        target = folder / _filled(path, words)
        target.parent.mkdir(parents=True, exist_ok=True)
        place = files("mqcore.cli").joinpath("templates", *((kind,) if template != "gitignore.txt" else ()), template)
        text = place.read_text(encoding="utf-8")
        target.write_text(_filled(text, words), encoding="utf-8")
        written.append(str(target))
    typed = folder / "src" / words["@module@"] / "py.typed"
    typed.touch()
    written = sorted([*written, str(typed)])
    if current().json:
        write_json({"package": str(folder), "files": written})
        return
    for path in written:
        write_line(path)
    shown = folder if folder.is_absolute() else f"./{folder}"  # pip would take a bare name for one of an index
    write_line(f"next: pip install -e {shlex.quote(f'{shown}[test]')} && {_NEXT[kind].format(name=name)}")


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
