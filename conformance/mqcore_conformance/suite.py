"""The suite as tests: ``from mqcore_conformance.suite import *`` in a test module of the author's repository.

What is tested stands in the author's pyproject.toml::

    [tool.mqcore.conformance]
    storage = "mybackend://{dir}"      # and/or transport = "mytransport://..."
    claims = "conformance.toml"        # optional
    seeds = 2                          # optional, per cell

Test names hold the ids of the clauses, so that ``-k G01`` picks one.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mqcore.abc import StorageContext
from mqcore.errors import ConfigurationError
from mqcore.ports import system_ports
from mqcore.registry import create_storage
from mqcore_conformance.cells import Cell, CellResult, run_cell
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.claims import Claims, load_claims, read_settings
from mqcore_conformance.contract import CHECKS, StorageHarness, TransportHarness, checks_of, run_check
from mqcore_conformance.runner import STORAGES, TRANSPORTS, Request, plan_cells
from mqcore_conformance.verdicts import Status

__all__ = [
    "pytest_generate_tests",
    "test_claims_are_what_the_part_declares",
    "test_contract",
    "test_no_clause_is_left_out",
    "test_simulation",
]

SEEDS_DEFAULT = 2
FAMILIES_DEFAULT = ("none", "kill", "power-cut", "flush-error", "full", "rot", "mixed")


@cache
def _settings(root: Path) -> dict[str, Any]:
    return dict(read_settings(root))


def _claims(root: Path) -> Claims:
    name = _settings(root).get("claims")
    return load_claims(root / str(name)) if name else Claims()


def _parts(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Storages and transports under test: those of the author, else all that mqcore brings."""
    found = _settings(root)
    storages, transports = _as_tuple(found.get("storage")), _as_tuple(found.get("transport"))
    return (storages, transports) if storages or transports else (STORAGES, TRANSPORTS)


def _as_tuple(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(item) for item in value)  # type: ignore[attr-defined]


def _cells(root: Path) -> list[tuple[Cell, str]]:
    storages, transports = _parts(root)
    settings = _settings(root)
    if not storages:
        storages = ("mmap://{dir}",)
    schemes = tuple(url.partition(":")[0] for url in transports) or ("inproc",)
    families = _as_tuple(settings.get("families")) or FAMILIES_DEFAULT
    request = Request(storages=storages, transports=schemes[:1], families=families)
    return list(plan_cells(request))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its parameters, from the settings of the repository in which it runs."""
    root = metafunc.config.rootpath
    if metafunc.function.__module__ != __name__:
        return
    if "contract" in metafunc.fixturenames:
        storages, transports = _parts(root)
        cases = [("storage", url, one.name) for url in storages for one in checks_of("storage")]
        cases += [("transport", url, one.name) for url in transports for one in checks_of("transport")]
        ids = [f"{CHECKS[name].clause}-{url.partition(':')[0]}-{name}" for _, url, name in cases]
        metafunc.parametrize("contract", cases, ids=ids)
    elif "cell" in metafunc.fixturenames:
        cells = [(one, why, clause) for one, why in _cells(root) if not why for clause in CHECKERS]
        metafunc.parametrize("cell", cells, ids=[f"{clause}-{one.name}" for one, _, clause in cells])


def test_contract(contract: tuple[str, str, str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """One contract check of one part."""
    kind, url, name = contract
    harness = StorageHarness if kind == "storage" else TransportHarness
    with tempfile.TemporaryDirectory(prefix="mqcore-") as folder:
        result = run_check(CHECKS[name], lambda place: harness(url, place), Path(folder))
    claims = _claims(request.config.rootpath)
    status = claims.judge(CHECKS[name].clause, f"contract/{name}", result.status)
    _report(status, f"{CHECKS[name].clause} {url}: {CHECKS[name].summary}: {result.text}")


@cache
def _run(cell: Cell, seeds: int) -> CellResult:
    return run_cell(cell, range(seeds))


def test_simulation(cell: tuple[Cell, str, str], request: pytest.FixtureRequest) -> None:
    """One clause in one cell of the simulation."""
    one, _, clause = cell
    root = request.config.rootpath
    result = _run(one, int(_settings(root).get("seeds", SEEDS_DEFAULT)))
    texts = [str(found) for failure in result.failures for found in failure.violations if found.clause == clause]
    status = _claims(root).judge(clause, one.name, result.statuses[clause])
    _report(status, texts[0] if texts else f"{clause} {one.name}: {result.reason or status.value}")


def _report(status: Status, text: str) -> None:
    if status in (Status.PASS, Status.XFAIL):
        if status is Status.XFAIL:
            pytest.xfail(text)
        return
    if status in (Status.NOT_RUN, Status.NOT_CLAIMED, Status.INCONCLUSIVE):
        pytest.skip(f"{status.value}: {text}")
    pytest.fail(f"{status.value}: {text}", pytrace=False)


def test_claims_are_what_the_part_declares(request: pytest.FixtureRequest) -> None:
    """What the claims file states is what the storage declares."""
    root = request.config.rootpath
    storages, _ = _parts(root)
    for url in storages if _settings(root).get("storage") else ():
        with tempfile.TemporaryDirectory(prefix="mqcore-") as folder:
            backend = create_storage(url.replace("{dir}", folder), StorageContext(ports=system_ports()))
        differences = _claims(root).differences(backend.capabilities)
        assert not differences, f"{url}: {'; '.join(differences)}"


def test_no_clause_is_left_out(request: pytest.FixtureRequest) -> None:
    """Nobody overrode or deleted a test of the suite: a known failure is stated as [[xfail]] with reason and issue."""
    module = request.module
    for name in __all__:
        if getattr(module, name, None) is not globals()[name]:
            raise ConfigurationError(
                f"{module.__name__}.{name} is not the suite's: state what is known to fail as [[xfail]] with clause, "
                "reason and issue in the claims file instead"
            )
