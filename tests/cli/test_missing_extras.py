"""``pip install mqcore`` alone: every verb works, or says in one line which extra it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import requires

import pytest

from mqcore.cli._root import VERBS
from mqcore.cli._run import _extra_with

OPTIONAL = sorted(
    {
        requirement.split(";")[0].split(">")[0].split("[")[0].strip().replace("-", "_")
        for requirement in requires("mqcore") or []
        if "extra ==" in requirement
    }
    - {"mqcore"}
)
WITHOUT = (
    "import sys\n"
    f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))\n"  # None: as if it were not installed
    "from mqcore.cli import main\n"
    "main(sys.argv[1:])\n"
)
WORKING = [
    ("--help",),
    ("--version",),
    *((verb, "--help") for verb in VERBS),
    ("explain", "--storage", "memory://", "--flush", "none"),
    ("plugins", "list"),
    ("plugins", "check", "storage/mmap"),
    ("config", "init", "--to", "made"),
    ("new", "storage", "sample", "--to", "made"),
    ("completion", "bash"),
    ("bench", "list"),
]
REFUSED = [
    (("conformance", "--help"), "testing"),
    (("conformance", "run", "--storage", "memory://"), "testing"),
    (("conformance", "explain", "G01"), "testing"),
    (("produce", "packed", "-", "--codec", "zstandard"), "zstandard"),
    (("produce", "packed", "-", "--codec", "lz4"), "lz4"),
    (("cert", "dev", "--to", "made"), "cert"),
    *((("plugins", "check", f"coordinators/{name}"), name) for name in ("etcd", "postgres", "zookeeper")),
]


def run(arguments, cwd, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MQCORE_")}
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(
        command, input="x\n", capture_output=True, text=True, timeout=60, cwd=cwd, env=environment | variables
    )


@pytest.mark.parametrize("arguments", WORKING, ids=" ".join)
def test_a_verb_that_needs_no_extra_works_without_any(arguments, tmp_path):
    done = run(arguments, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize(("arguments", "extra"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_a_verb_that_needs_an_extra_says_which_in_one_line(arguments, extra, tmp_path, memory_broker, mqcore_command):
    server = {"MQCORE_SERVER": memory_broker.urls[0]}
    mqcore_command("topic", "create", "packed", **server)
    done = run(arguments, tmp_path, **server)
    assert done.returncode != 0
    told = done.stderr or done.stdout
    assert f"pip install 'mqcore[{extra}]'" in told
    assert len(done.stderr.splitlines()) <= 1
    assert "should not happen" not in told


@pytest.mark.parametrize(
    ("module", "extra"),
    [("hypothesis", "testing"), ("pytest_trio.plugin", "testing"), ("lz4.frame", "lz4"), ("mypy", "dev"), ("os", None)],
)
def test_the_smallest_extra_is_named(module, extra):
    assert _extra_with(module) == extra
