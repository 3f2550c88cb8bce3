"""Check a built wheel as a user meets it: what it puts into site-packages, and the quick tests from an empty folder.

usage: python tests/wheel/run.py dist/mqcore-VERSION-py3-none-any.whl

Makes an empty environment, installs the wheel into it (no editable install, no source folder in sight) and runs the
tests marked ``quick`` on a copy of the test folder; in another, without any extra, it runs every verb.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PRESENT_BESIDE_A_WHEEL = {"linux", "lz4", "root", "zstandard"}
"""Of what a run may require, what this environment has too: no source folder, no fuzzer."""
FOLDERS = ("transports", "storage_backends", "plugins", "conformance", "benchmarks")


def expected_names() -> set[str]:
    """Import names that the source folders hold: what the wheel has to install, no more and no less."""
    names = {"mqcore"}
    for folder in FOLDERS:
        for entry in (ROOT / folder).glob("*"):
            if entry.suffix == ".py" or (entry / "__init__.py").exists():
                names.add(entry.name)
    return names


def check_contents(wheel: Path) -> None:
    """Refuse a wheel that lacks a package, or puts anything else beside them (a README, a folder of ours)."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        odd = [name for name in archive.namelist() if "/tests/" in name or name.endswith((".md", ".pyc"))]
    tops = {name for name in tops if not name.endswith(".dist-info")}
    odd = [name for name in odd if ".dist-info/" not in name]
    missing, unexpected = expected_names() - tops, tops - expected_names()
    if missing or unexpected or odd:
        sys.exit(
            f"{wheel.name}: missing {sorted(missing)}, unexpected at the top {sorted(unexpected)}, "
            f"files that do not belong there {odd[:5]}"
        )
    print(f"{wheel.name} installs {', '.join(sorted(tops))} and nothing else", flush=True)


def check_without_extras(wheel: Path, home: Path, environment: dict[str, str]) -> None:
    """Refuse a wheel of which a verb, without any extra installed, neither works nor names the extra in one line."""
    venv.create(home / "bare", with_pip=True)
    binaries, empty = home / "bare" / "bin", home / "empty"
    subprocess.run([binaries / "python", "-m", "pip", "install", "--quiet", wheel], check=True, cwd=empty)
    listing = "from mqcore.cli._root import VERBS; from mqcore.registry import installed; "
    listing += "print(*VERBS, *(item.name for item in installed('commands')))"
    verbs = subprocess.check_output([binaries / "python", "-c", listing], cwd=empty, text=True).split()
    lines = [(verb, "--help") for verb in verbs]
    lines += [("explain", "--storage", "memory://", "--flush", "none"), ("plugins", "list"), ("bench", "list")]
    lines += [("conformance", "run", "--storage", "memory://"), ("demo",)]
    for line in lines:
        done = subprocess.run([binaries / "mqcore", *line], cwd=empty, env=environment, capture_output=True, text=True)
        if done.returncode and ("pip install 'mqcore[" not in done.stderr or len(done.stderr.splitlines()) != 1):
            sys.exit(f"mqcore {' '.join(line)} without extras: status {done.returncode}: {done.stderr}")
    print(f"{len(lines)} command lines without any extra: each works, or names the extra", flush=True)


def main(arguments: list[str]) -> None:
    """Run the checks; exit status is pytest's."""
    if len(arguments) != 1 or not os.path.isfile(arguments[0]):
        sys.exit(__doc__)
    wheel = Path(arguments[0]).resolve()
    check_contents(wheel)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    required = set(environment.pop("MQCORE_TEST_REQUIRE", "").split(",")) & PRESENT_BESIDE_A_WHEEL
    environment["MQCORE_TEST_REQUIRE"] = ",".join(sorted(required))
    with tempfile.TemporaryDirectory(prefix="mqcore-wheel-") as folder:
        home = Path(folder)
        empty, tests = home / "empty", home / "suite" / "tests"
        empty.mkdir()
        shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", home / "suite")
        check_without_extras(wheel, home, environment)
        print("installing it into an empty environment", flush=True)
        venv.create(home / "venv", with_pip=True)
        binaries = home / "venv" / "bin"
        wanted = f"{wheel}[testing,zstandard,lz4]"
        subprocess.run([binaries / "python", "-m", "pip", "install", "--quiet", wanted], check=True, cwd=empty)
        subprocess.run([binaries / "mqcore", "--version"], check=True, cwd=empty, env=environment)
        suite = ["-c", tests.parent / "pyproject.toml", "--rootdir", tests.parent, tests]
        outcome = subprocess.run([binaries / "pytest", "-m", "quick", *suite], cwd=empty, env=environment)
    sys.exit(outcome.returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
