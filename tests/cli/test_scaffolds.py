"""``mqcore new``: what it writes installs, passes the conformance suite at once, and fails it when it lies."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import attrs
import pytest


@attrs.frozen
class Scaffold:
    """A package as ``mqcore new`` wrote it, on the path as pip would have installed it."""

    folder: Path
    module: str

    @property
    def environment(self):
        """Variables with which its entry points are found."""
        return {"PYTHONPATH": str(self.folder / "src")}

    def pytest(self, *arguments):
        """Run the tests of the package, as its README says."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "-rfE", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=os.environ | self.environment, capture_output=True, text=True
        )

    def change(self, file, old, new):
        """Change the one place in a file of the package that says ``old``."""
        path = self.folder / "src" / self.module / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} says {text.count(old)} times: {old}"
        path.write_text(text.replace(old, new))


@pytest.fixture
def scaffold(cli, tmp_path):
    """Writes the package of a part and installs it without pip: the metadata that pip would write."""

    def write(kind, name):
        assert cli("new", kind, name, "--to", tmp_path, "--output", "json").status == 0
        made = Scaffold(tmp_path / f"mqcore-{name}", f"mqcore_{name.replace('-', '_')}")
        project = tomllib.loads((made.folder / "pyproject.toml").read_text())["project"]
        installed = made.folder / "src" / f"{made.module}-{project['version']}.dist-info"
        installed.mkdir()
        installed.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        )
        ((section, points),) = project["entry-points"].items()
        entries = "".join(f"{entry} = {target}\n" for entry, target in points.items())
        installed.joinpath("entry_points.txt").write_text(f"[{section}]\n{entries}")
        return made

    return write


@pytest.mark.parametrize("kind", ["storage", "transport", "coordinator", "offset-store", "authenticator"])
def test_a_new_part_is_installed_to_be_changed_with_the_build_backend_alone(cli, tmp_path, kind):
    """As ``pip install --no-build-isolation -e`` asks for it, where no registry is reached."""
    assert cli("new", kind, "shelf-x", "--to", tmp_path).status == 0
    code = (
        "import sys; sys.modules['editables'] = None\n"
        "from hatchling.build import build_editable\n"
        "print(build_editable('..'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "mqcore-shelf-x", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "mqcore_shelf_x-0.1.0-py3-none-any.whl\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "group", "url"),
    [
        ("storage", "storage", "shelf-x:///tmp/s"),
        ("transport", "transports", "shelf-x://n"),
        ("coordinator", "coordinators", "shelf-x:///tmp/s"),
        ("offset-store", "offset_stores", "shelf-x:///tmp/s"),
        ("authenticator", "authenticators", "shelf-x://"),
    ],
)
def test_a_new_part_passes_the_whole_suite_as_it_was_written(scaffold, mqcore_command, kind, group, url):
    made = scaffold(kind, "shelf-x")
    checked = mqcore_command("plugins", "check", f"{group}/shelf-x", "--url", url, **made.environment)
    assert checked.returncode == 0, checked.stdout
    done = made.pytest()
    assert done.returncode == 0, done.stdout
    two_lines = made.folder.joinpath("tests", "test_conformance.py").read_text().splitlines()
    assert [line for line in two_lines if line and '"""' not in line] == [
        "from mqcore_conformance.suite import *  # noqa: F403"
    ]


@pytest.mark.slow
def test_a_new_storage_is_conformant_to_the_command_line(scaffold, mqcore_command, tmp_path):
    made = scaffold("storage", "shelf")
    done = mqcore_command(
        *("conformance", "run", "--storage", "shelf://{dir}", "--transport", "tcp", "--to", str(tmp_path / "r2")),
        *("--tier", "T0", "--flush", "sync", "--family", "power-cut,rot", "--seeds", "1"),
        **made.environment,
    )
    out = done.stdout.decode()
    assert done.returncode == 0, out
    lines = out.splitlines()
    assert lines[-1].startswith("conformant")
    assert {line.split()[0] for line in lines[:-1]} <= {"PASS", "NOT"}  # or not claimed, or not to be run here
    assert sum(line.startswith("PASS ") and "T0/shelf/tcp/sync/" in line for line in lines) == 2


LIES = [
    pytest.param(
        "_storage.py",
        "            self.files.flush_many([log.file for log in logs])\n",
        "",
        "G01 and T0 and sync and power-cut",
        "G01",
        id="acknowledges-before-the-flush",
    ),
    pytest.param(
        "_log.py",
        "self.end = file.size() - HEADER_BYTES",
        "self.end = mark.durable_end - mark.durable_end % 1000",
        "G01 and killed",
        "G01",
        id="loses-the-tail",
    ),
    pytest.param(
        "_log.py",
        "        self.file.truncate(HEADER_BYTES + position)\n",
        "",
        "G07 and cut_off",
        "G07",
        id="forgets-the-truncation",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new", "chosen", "clause"), LIES)
def test_a_lie_planted_into_a_new_storage_turns_its_clause_red(scaffold, file, old, new, chosen, clause):
    made = scaffold("storage", "shelf")
    made.change(file, old, new)
    done = made.pytest("-k", chosen)
    assert done.returncode == 1, done.stdout
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert failed
    assert all(f"[{clause}-" in line for line in failed)
    assert any(line.startswith(f"{clause} ") for line in done.stdout.splitlines()), done.stdout


@pytest.mark.parametrize("kind", ["storage", "transport", "coordinator", "offset-store", "authenticator"])
def test_every_word_of_the_template_is_filled_in(scaffold, kind):
    made = scaffold(kind, "shelf-x")
    for path in made.folder.rglob("*"):
        text = path.read_text() if path.is_file() else ""
        assert not [word for word in ("@name@", "@module@", "@Class@") if word in text], path
