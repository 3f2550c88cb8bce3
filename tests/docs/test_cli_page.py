"""docs/cli.md says what the commands say of themselves, and its exit codes are those that end the process."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import trio

import mqcore
import mqcore.errors
from mqcore.cli._root import VERBS, root
from mqcore.errors import MqcoreError
from mqcore.registry import installed

PAGE = "cli.md"
SHARED = ("--server", "--timeout", "--output", "--help", "--version")
WITH_SERVER = ("--ca", "--cert", "--key")
"""What says how to speak to a server is told once, where ``--server`` is; ``--ca`` of a broker is its own."""
pytestmark = [pytest.mark.needs("source-tree"), pytest.mark.slow]


def verbs() -> Iterator[tuple[list[str], click.Command]]:
    """Every verb of the project with its path, in the order of the list."""
    context = click.Context(root, info_name="mqcore")
    own = {item.name for item in installed("commands") if item.distribution == "mqcore"}
    for name in root.list_commands(context):
        if name in VERBS or name in own:
            command = root.get_command(context, name)
            assert command is not None
            yield from below(["mqcore", name], command)


def below(path: list[str], command: click.Command) -> Iterator[tuple[list[str], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            yield from below([*path, name], child)


def section(path: list[str], command: click.Command) -> str:
    context = click.Context(command, info_name=path[-1])
    pieces = [piece for piece in command.collect_usage_pieces(context) if not piece.startswith("[OPTIONS]")]
    mark = "###" if len(path) == 2 else "####"
    parts = [f"{mark} `{' '.join([*path, *pieces])}`", inspect.cleandoc(command.help or "").replace("\b\n", "")]
    options = [option for option in command.params if isinstance(option, click.Option)]
    rows = [row(option) for option in options if is_its_own(option, command)]
    if rows:
        parts.append("\n".join(["| option | meaning |", "|---|---|", *rows]))
    shared = [name for name in SHARED[:3] if any(name in option.opts for option in command.params)]
    if shared and not isinstance(command, click.Group):
        parts.append(f"Also {', '.join(f'`{name}`' for name in shared)}.")
    examples = getattr(command, "examples", ())
    if examples:
        parts.append("\n".join(f"    {example}" for example in examples))
    return "\n\n".join(parts)


def is_its_own(option: click.Option, command: click.Command) -> bool:
    speaks = any("--server" in each.opts for each in command.params)
    told = {*SHARED, *WITH_SERVER} if speaks else {*SHARED}
    return not option.hidden and not set(option.opts) & told


def row(option: click.Option) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    kind = option.metavar or (
        "|".join(map(str, option.type.choices)) if isinstance(option.type, click.Choice) else option.type.name.upper()
    )
    value = "" if option.is_flag else f" {kind.replace(' RANGE', '')}"
    default = option.default
    words = (option.help or "").replace("|", "\\|")
    shown = f" Default: `{default}`." if option.show_default and isinstance(default, (str, int, float)) else ""
    assert words, f"{names} has no help"
    return f"| `{(names + value).replace('|', chr(92) + '|')}` | {words}{shown} |"


def expected_verbs() -> str:
    return "\n\n".join(section(path, command) for path, command in verbs())


def exit_codes(text: str) -> dict[int, str]:
    return {int(code): words for code, words in re.findall(r"(?m)^\| (\d+) \| (.*?) \|", text)}


def test_every_verb_and_option_stands_on_the_page(pages: Any) -> None:
    pages.compare_block(PAGE, "verbs", expected_verbs())


def test_the_exit_codes_on_the_page_are_those_of_the_errors(pages: Any) -> None:
    told = exit_codes(pages.text(PAGE))
    errors = [each for _, each in inspect.getmembers(mqcore.errors, inspect.isclass) if issubclass(each, MqcoreError)]
    assert {each.exit_status for each in errors} <= told.keys() == {0, 1, 2, 3, 4, 5, 130, 143}


def damaged(folder: Path) -> str:
    """A storage whose layout file has a wrong byte."""

    async def make() -> None:
        async with mqcore.open_broker(storage=f"mmap://{folder}/d"):
            pass

    trio.run(make)
    layout = folder / "d" / "mqcore-mmap.layout"
    layout.write_bytes(layout.read_bytes()[:-1] + b"?")
    return f"mmap://{folder}/d"


def test_each_exit_code_ends_a_process_for_real(tmp_path: Path) -> None:
    nobody = f"unix://{tmp_path}/nobody"
    cases = {
        0: ["explain", "--storage", "memory://"],
        1: ["serve", "--storage", "memory://", "--listen", f"unix://{tmp_path}/missing/socket"],
        2: ["explain", "--storage", "memory://", "--flush", "later"],
        3: ["explain", "--storage", "memory://", "--flush", "sync"],
        4: ["--server", nobody, "--timeout", "100 ms", "topic", "list"],
        5: ["storage", "verify", damaged(tmp_path)],
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQCORE_")}
    running = {
        code: subprocess.Popen(
            [sys.executable, "-c", "from mqcore.cli import main; main()", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for code, arguments in cases.items()
    }
    ended = {code: (process.communicate(timeout=120)[0], process.returncode) for code, process in running.items()}
    assert {code: returned for code, (_, returned) in ended.items()} == {code: code for code in cases}, ended
