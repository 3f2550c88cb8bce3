"""docs/encrypt.md: its commands are run in order in one shell and print what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mqcore.testing import reserve_ports

PAGE = "encrypt.md"
BLOCK = re.compile(r"<!-- run -->\n```console\n(.*?)```\n", re.DOTALL)
TIME = re.compile(r"\d+\.\d+ ?m?s\b")
MARK = "@@ next command @@"
STILL_STARTING = "mqcore: no server answers, going on trying"
"""What a verb says where a broker that was just started takes its time: not on the page."""
PORTS = ("7444", "7401", "7402", "7403")
pytestmark = [pytest.mark.needs("source-tree"), pytest.mark.needs("linux"), pytest.mark.slow]


def test_the_commands_print_what_the_page_says(pages: Any, tmp_path: Path) -> None:
    text = pages.text(PAGE)
    there = {"/tmp/mq": f"{tmp_path}/mq", **dict(zip(PORTS, map(str, reserve_ports(len(PORTS))), strict=True))}

    def moved(what: str) -> str:
        for name, other in there.items():
            what = what.replace(name, other)
        return what

    (tmp_path / "cluster.toml").write_text(moved(pages.code(PAGE, "cluster.toml")))
    lines = "".join(BLOCK.findall(text)).splitlines()
    commands = [line[2:] for line in lines if line.startswith("$ ")]
    script = "".join(f"{moved(command)}\necho '{MARK}'\n" for command in commands)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MQCORE_", "PYTEST_", "COV_"))}
    process = subprocess.run(
        ["bash", "-c", f"trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\nexec 2>&1\n{script}"],
        cwd=tmp_path,
        env={**clean, "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}", "COLUMNS": "110"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    printed = process.stdout
    for name, other in there.items():
        printed = printed.replace(other, name)
    outputs = printed.split(f"{MARK}\n")[:-1]
    shown: list[str] = []
    for command, output in zip(commands, outputs, strict=True):
        shown += [f"$ {command}", *(line for line in output.splitlines() if not line.startswith(STILL_STARTING))]
    assert [TIME.sub("<time>", line) for line in shown] == [TIME.sub("<time>", line) for line in lines], printed


def test_what_the_page_says_of_the_configuration_is_one(pages: Any, tmp_path: Path) -> None:
    from mqcore.config import load_config

    path = tmp_path / "cluster.toml"
    path.write_text(pages.code(PAGE, "cluster.toml"))
    config = load_config(path, overrides={"name": "b", "storage": "memory://"})
    assert [each.url for each in config.listen] == ["tls://127.0.0.1:7402"]
    assert config.tls.cert is not None
    assert config.tls.client_ca == config.tls.ca
