"""What a run does: contract checks of each part, then the cells, each recorded as soon as it is judged.

Knows which cells make sense for a storage; asks the storage itself and believes what it can see.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import attrs

from mqcore.abc import Capabilities, StorageContext
from mqcore.errors import ConfigurationError, MqcoreError
from mqcore.guarantees import Level
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports
from mqcore_conformance.cells import DISK_FAMILIES, Cell, CellResult, cells_of, run_cell, shrink
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.contract import StorageHarness, TransportHarness, checks_of, run_check
from mqcore_conformance.plans import CRASH_POINTS, FAMILIES, FLUSH_POLICIES
from mqcore_conformance.processes import T1_FAMILIES
from mqcore_conformance.report import Record, ReportFile, record_of_cell, record_of_check, write_repro
from mqcore_conformance.simulation import URLS

__all__ = ["ALL_FAMILIES", "STORAGES", "TIERS", "TRANSPORTS", "Request", "plan_cells", "run_request"]

STORAGES = ("memory://", "mmap://{dir}", "null://")
TRANSPORTS = ("tcp", "unix", "inproc")
ALL_FAMILIES = (*FAMILIES, CRASH_POINTS)
TIERS = ("contract", "T0", "T1")


@attrs.frozen(kw_only=True)
class Request:
    """What is to be run. ``storages`` are URLs with ``{dir}``, ``transports`` schemes; ``folder``: where data goes."""

    storages: tuple[str, ...]
    transports: tuple[str, ...]
    flushes: tuple[str, ...] = tuple(FLUSH_POLICIES)
    families: tuple[str, ...] = tuple(FAMILIES)
    tiers: tuple[str, ...] = ("contract", "T0")
    clauses: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    cells: str = ""
    budget_s: float | None = None
    jobs: int = 1

    def __attrs_post_init__(self) -> None:
        for names, allowed, what in (
            (self.flushes, FLUSH_POLICIES, "flush policy"),
            (self.families, ALL_FAMILIES, "fault family"),
            (self.tiers, TIERS, "tier"),
            (self.clauses, CHECKERS, "clause"),
        ):
            for name in names:
                if name not in allowed:
                    raise ConfigurationError(f"no {what} {name!r}; one of {', '.join(allowed)}")


def plan_cells(request: Request) -> Iterator[tuple[Cell, str]]:
    """Give every cell of a request with the reason why it is not run (empty when it is)."""
    families = {"T0": request.families, "T1": tuple(T1_FAMILIES)}
    for tier in request.tiers:
        for cell in cells_of(
            tier, request.storages, request.transports, request.flushes, families.get(tier, ())
        ):
            if not request.cells or request.cells in cell.name:
                yield cell, _why_not(cell)


def _why_not(cell: Cell) -> str:
    try:
        context = StorageContext(ports=model_ports(0, ModelDisk(0)))
        capabilities: Capabilities = create_storage(cell.storage.replace("{dir}", "/data"), context).capabilities
    except MqcoreError as error:
        return f"the storage cannot be composed: {error}"
    if cell.tier == "T1":
        return _why_not_in_processes(cell, capabilities)
    if not capabilities.simulable:
        return "own I/O: it does not go through the ports; contract checks and T1 cover it"
    if cell.transport not in URLS:
        return "only tcp, unix and inproc run on the model network"
    if capabilities.append_level is Level.NONE and cell.family != "none":
        return "it keeps nothing, so that no fault can take anything"
    if capabilities.flush_level < Level.DISK:
        if cell.flush != "none":
            return f"refused at composition: a flush reaches {capabilities.flush_level.label} (probed by G18)"
        if cell.family in DISK_FAMILIES:
            return "it has no disk"
    if cell.family == "rot" and cell.flush == "none":
        return "nothing is flushed under this policy, so that no damage can be proved"
    if cell.transport == "inproc" and cell.family == "network":
        return "inproc has no network"
    return ""


def _why_not_in_processes(cell: Cell, capabilities: Capabilities) -> str:
    if cell.transport not in ("tcp", "unix"):
        return "it does not leave its process"
    if capabilities.append_level is Level.NONE:
        return "it keeps nothing, so that no fault can take anything"
    if capabilities.flush_level < Level.DISK and cell.flush != "none":
        return f"refused at composition: a flush reaches {capabilities.flush_level.label} (probed by G18)"
    return ""


def run_request(request: Request, report: ReportFile, tell: Callable[[Record], None]) -> bool:
    """Run everything that the report does not hold yet; True when nothing was left out for want of time."""
    deadline = time.perf_counter() + request.budget_s if request.budget_s is not None else None
    if "contract" in request.tiers:
        for record in _contract(request, report):
            report.write(record)
            tell(record)
            if deadline is not None and time.perf_counter() > deadline:
                return False
    if set(request.tiers) & {"T0", "T1"}:
        todo = [(cell, why) for cell, why in plan_cells(request) if not report.has(cell.name)]
        for result in _run_cells(request, todo, deadline):
            record = _recorded(report, result)
            tell(record)
            if deadline is not None and time.perf_counter() > deadline:
                return False
    return True


def _recorded(report: ReportFile, result: CellResult) -> Record:
    repros = []
    for number, failure in enumerate(result.failures):
        if number == 0 and failure.violations and result.cell.tier == "T0":
            failure = result.failures[0] = shrink(failure)
        repros.append(write_repro(report.folder, failure) if number < 5 else "")
    record = record_of_cell(result, repros)
    report.write(record)
    return record


def _run_cells(request: Request, todo: Sequence[tuple[Cell, str]], deadline: float | None) -> Iterator[CellResult]:
    if request.jobs == 1:
        for cell, why in todo:
            yield _run_one(request, cell, why, deadline)
        return
    with ProcessPoolExecutor(request.jobs) as pool:
        futures = [pool.submit(_run_one, request, cell, why, None) for cell, why in todo]
        for future in futures:
            yield future.result()


def _run_one(request: Request, cell: Cell, why: str, deadline: float | None) -> CellResult:
    return run_cell(cell, request.seeds, clauses=request.clauses, not_run=why, deadline=deadline)


def _contract(request: Request, report: ReportFile) -> Iterator[Record]:
    for url in request.storages:
        part = url.partition(":")[0]
        for check in checks_of("storage"):
            if _wanted(request, check.clause) and not report.has(f"contract/{part}/{check.name}"):
                with tempfile.TemporaryDirectory(prefix="mqcore-conformance-") as folder:
                    result = run_check(check, partial(StorageHarness, url), Path(folder))
                yield record_of_check(part, url, result)
    for url in request.transports:
        part = url.partition(":")[0]
        for check in checks_of("transport"):
            if _wanted(request, check.clause) and not report.has(f"contract/{part}/{check.name}"):
                with tempfile.TemporaryDirectory(prefix="mqcore-conformance-") as folder:
                    result = run_check(check, partial(TransportHarness, url), Path(folder))
                yield record_of_check(part, url, result)


def _wanted(request: Request, clause: str) -> bool:
    return not request.clauses or clause in request.clauses
