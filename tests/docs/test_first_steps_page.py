"""docs/first-steps.md: its commands are run in order in one shell and print what the page says; its programs too.

With MQCORE_TEST_UPDATE set, what they print is written into the page instead.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = "first-steps.md"
MARK = "@@ next command @@"
URL = "tcp://127.0.0.1:7400"
BLOCK = re.compile(r"(<!-- run -->\n```console\n)(.*?)(```\n)", re.DOTALL)
VARIES = (
    (r"\b[0-9a-f]{32}\b", "<id>"),
    (r"\d+\.\d+ ?m?s\b", "<time>"),
    (r"open_files_max \d+(?: \d{3})*", "open_files_max <number>"),
    (r"(?m)^( +\d+ +\d+ +\d+ +\d+) +\d+$", r"\1 <bytes>"),
)
"""What differs from run to run or from machine to machine, and what it is compared as."""
pytestmark = [pytest.mark.needs("source-tree"), pytest.mark.needs("linux"), pytest.mark.slow]


def settled(text: str) -> list[str]:
    """``text`` without what varies."""
    for pattern, name in VARIES:
        text = re.sub(pattern, name, text)
    return [line.rstrip() for line in text.splitlines()]


def environment(**more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MQCORE_", "PYTEST_", "COV_"))}
    return {**clean, "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}", "COLUMNS": "110", **more}


def outputs_of(commands: list[str], folder: Path, root: Path) -> list[str]:
    """What each command prints, run one after the other in one shell with /tmp/mq replaced by a path in ``folder``."""
    socket = f"unix://{folder}/socket"
    # A reader of the page types slower than a broker starts; this shell does not, on a busy machine.
    ready = "until mqcore ping >/dev/null 2>&1; do sleep 0.1; done\n"
    script = "".join(
        f"{command.replace('/tmp/mq', f'{folder}/mq')}\n{ready if ' serve ' in command else ''}echo '{MARK}'\n"
        for command in commands
    )
    process = subprocess.run(
        ["bash", "-c", f"trap 'kill -KILL $(jobs -p) 2>/dev/null' EXIT\nexec 2>&1\n{script}"],
        cwd=root,
        env=environment(MQCORE_LISTEN=socket, MQCORE_SERVER=socket),
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    printed = process.stdout.replace(f"{folder}/mq", "/tmp/mq").replace(socket, URL)
    printed = re.sub(r"(?m)^bash: line \d+: .*\n", "", printed)  # the shell's own word on a job that was killed
    return printed.split(f"{MARK}\n")[:-1]


def test_every_command_prints_what_the_page_says(pages: Any, tmp_path: Path) -> None:
    text = pages.text(PAGE)
    blocks = [match[2] for match in BLOCK.finditer(text)]
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    outputs = outputs_of(commands, tmp_path, pages.root)
    assert len(outputs) == len(commands)
    printed = iter(zip(commands, outputs, strict=True))
    made = []
    for block in blocks:
        count = sum(line.startswith("$ ") for line in block.splitlines())
        made.append("".join(f"$ {command}\n{output}" for command, output in (next(printed) for _ in range(count))))
    if [settled(block) for block in made] != [settled(block) for block in blocks] and pages.updating:
        remaining = iter(made)
        (pages.docs / PAGE).write_text(BLOCK.sub(lambda match: match[1] + next(remaining) + match[3], text))
    else:
        assert [settled(block) for block in made] == [settled(block) for block in blocks]


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("embedded.py", [sys.executable]),
        ("test_orders.py", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]),
    ],
)
def test_every_program_prints_what_the_page_says(name: str, command: list[str], pages: Any, tmp_path: Path) -> None:
    (tmp_path / name).write_text(pages.code(PAGE, name))
    result = subprocess.run(
        [*command, name], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    text = pages.text(PAGE)
    match = re.search(rf"<!-- output: {re.escape(name)} -->\n```\n(.*?)```", text, re.DOTALL)
    assert match
    if settled(result.stdout) != settled(match[1]) and pages.updating:
        (pages.docs / PAGE).write_text(text[: match.start(1)] + result.stdout + text[match.end(1) :])
    else:
        assert settled(result.stdout) == settled(match[1])


def test_what_the_page_claims_holds_whatever_was_printed(pages: Any) -> None:
    text = pages.text(PAGE)
    assert "acknowledged at level disk" in text
    assert re.search(r"head -1\nhello, broker\n", text)
    assert "the same\n" in text
    assert "1 passed" in text
