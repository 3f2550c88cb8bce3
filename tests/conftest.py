"""What the tests may need of a machine, and what to say when it is not there.

``@pytest.mark.needs("zstandard", "root")`` on a test, a class or a module leaves it out where something is missing.
Every need that left something out is listed at the end in one line with its reason, and a need that is named in the
environment variable ``MQCORE_TEST_REQUIRE`` (comma-separated) fails its tests instead.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib.util
import os
import shutil
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

REQUIRE_VARIABLE = "MQCORE_TEST_REQUIRE"

# An example may take as long as a busy machine makes it take: how long is no property.
hypothesis.settings.register_profile("mqcore", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("mqcore")


def _package(name: str, remedy: str) -> Callable[[], str | None]:
    def look() -> str | None:
        if importlib.util.find_spec(name) is not None:
            return None
        return f"the Python package {name} is not installed; pip install {remedy}"

    return look


def _root() -> str | None:
    return None if os.geteuid() == 0 else "not running as root"


def _not_root() -> str | None:
    return "running as root, whom no permission stops" if os.geteuid() == 0 else None


def _linux() -> str | None:
    return None if sys.platform == "linux" else f"this is {sys.platform}, not Linux"


def _ipv6() -> str | None:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return f"no IPv6 loopback here ({error.strerror})"
    return None


def _source_tree() -> str | None:
    here = os.path.dirname(os.path.abspath(__file__))
    if os.path.exists(os.path.join(here, os.pardir, "pyproject.toml")):
        return None
    return "the tests are not inside mqcore's source folder"


def _eatmydata() -> str | None:
    if ctypes.util.find_library("eatmydata"):
        return None
    return "libeatmydata is not installed; apt-get install eatmydata"


def _dirty_pages() -> str | None:
    if importlib.util.find_spec("mqcore_conformance") is None:
        return "mqcore_conformance is not installed"
    from mqcore_conformance.worlds.processes import why_no_dirty_pages

    return why_no_dirty_pages(tempfile.gettempdir()) or None


def _diverted_calls() -> str | None:
    if importlib.util.find_spec("mqcore_conformance") is None:
        return "mqcore_conformance is not installed"
    from mqcore_conformance.syscalls import why_not_diverted

    return why_not_diverted() or None


def _hanging_disk() -> str | None:
    if importlib.util.find_spec("mqcore_conformance") is None:
        return "mqcore_conformance is not installed"
    from mqcore_conformance.servers import HangingDisk

    return HangingDisk.why_not() or None


def _btrfs_loops() -> str | None:
    if os.geteuid() != 0:
        return "not running as root"
    if not (shutil.which("mkfs.btrfs") and shutil.which("losetup")):
        return "mkfs.btrfs or losetup is not installed; apt-get install btrfs-progs"
    with contextlib.suppress(OSError), open("/proc/filesystems") as known:
        if "btrfs" in known.read() and os.path.exists("/dev/loop-control"):
            return None
    return "this kernel has no btrfs, or no loop devices are to be had"


def _md_loops() -> str | None:
    if os.geteuid() != 0:
        return "not running as root"
    if not (shutil.which("mdadm") and shutil.which("losetup") and shutil.which("mkfs.ext4")):
        return "mdadm, losetup or mkfs.ext4 is not installed; apt-get install mdadm"
    return None if os.path.exists("/proc/mdstat") else "this kernel has no md"


def _server(scheme: str) -> Callable[[], str | None]:
    """A coordinator's library, and a server of it that tests can start."""

    def look() -> str | None:
        library = {"etcd": "h11", "postgres": "psycopg", "zookeeper": "kazoo"}[scheme]
        missing = _package(library, f"'mqcore[{scheme}]'")()
        if missing is not None or importlib.util.find_spec("mqcore_conformance") is None:
            return missing or "mqcore_conformance is not installed"
        from mqcore_conformance.servers import why_not_installed

        return why_not_installed(scheme) or None

    return look


NEEDS: dict[str, Callable[[], str | None]] = {
    "atheris": _package("atheris", "atheris"),
    "btrfs-loops": _btrfs_loops,
    "dirty-pages": _dirty_pages,
    "diverted-calls": _diverted_calls,
    "eatmydata": _eatmydata,
    "etcd": _server("etcd"),
    "hanging-disk": _hanging_disk,
    "ipv6": _ipv6,
    "linux": _linux,
    "md-loops": _md_loops,
    "lz4": _package("lz4", "'mqcore[lz4]'"),
    "not-root": _not_root,
    "postgres": _server("postgres"),
    "root": _root,
    "source-tree": _source_tree,
    "zookeeper": _server("zookeeper"),
    "zstandard": _package("zstandard", "'mqcore[zstandard]'"),
}
"""Name of each need, and a function that says in one line why it is not met (None when it is)."""


def _required() -> frozenset[str]:
    return frozenset(name for name in os.environ.get(REQUIRE_VARIABLE, "").split(",") if name)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a required name that no test could ever need: a misspelt one would require nothing."""
    unknown = _required() - NEEDS.keys()
    if unknown:
        known = ", ".join(sorted(NEEDS))
        raise pytest.UsageError(f"{REQUIRE_VARIABLE}: unknown {', '.join(sorted(unknown))}; one of {known}")
    _keep_bytecode(config.rootpath / ".pytest_cache" / "bytecode")


def _keep_bytecode(folder: Path) -> None:
    """Let the processes that tests start keep compiled modules in ``folder`` where the environment forbids it beside
    them: else each of the hundreds of brokers and commands compiles the core anew.
    """
    if os.environ.get("PYTHONDONTWRITEBYTECODE") and os.access(folder.parent.parent, os.W_OK):
        del os.environ["PYTHONDONTWRITEBYTECODE"]
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(folder))


def _check_need(name: str) -> None:
    look = NEEDS.get(name)
    if look is None:
        pytest.fail(f"unknown need {name!r}; one of {', '.join(sorted(NEEDS))}", pytrace=False)
    reason = look()
    if reason is None:
        return
    if name in _required():
        pytest.fail(f"{name} is required by {REQUIRE_VARIABLE} and missing: {reason}", pytrace=False)
    pytest.skip(f"needs {name}: {reason}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave the test out, or fail it, when one of its needs is not met."""
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            _check_need(name)


@pytest.fixture
def needs() -> Callable[[str], None]:
    """Check a need from within a test: ``needs("root")``."""
    return _check_need


def _reasons_of_skips(reporter: pytest.TerminalReporter) -> Iterator[str]:
    """Read off the reports, which come from every process that ran tests."""
    for report in reporter.stats.get("skipped", ()):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        yield text.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what was left out and why, one line each."""
    reasons = Counter(_reasons_of_skips(terminalreporter))
    if not reasons:
        return
    terminalreporter.section("left out on this machine")
    for reason, count in sorted(reasons.items()):
        name, colon, why = reason.removeprefix("needs ").partition(": ")
        tests = f"{count} test{'s' if count > 1 else ''}"
        is_need = bool(colon) and reason.startswith("needs ")
        terminalreporter.line(f"{name}: {tests}: {why}" if is_need else f"{tests}: {reason}")
