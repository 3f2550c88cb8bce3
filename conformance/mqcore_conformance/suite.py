"""The suite as tests: ``from mqcore_conformance.suite import *`` in a test module of the author's repository.

What is tested stands in the author's pyproject.toml, the nearest one above the test module that has the table::

    [tool.mqcore.conformance]
    storage = "mybackend://{dir}"      # and/or transport, coordinator, offset_store, authenticator = "..."
    claims = "conformance.toml"        # optional
    seeds = 2                          # optional, per cell

Test names hold the ids of the clauses, so that ``-k G01`` runs the checks and cells that are about one; what a cell
says of the clauses that its faults are not about is one more test. What is known to fail is stated in the claims
file; a test of the suite that was overridden or deleted fails the run.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import attrs
import pytest

from mqcore.errors import ConfigurationError
from mqcore_conformance.cells import Cell, CellResult, label_of, run_cell
from mqcore_conformance.checkers import CHECKERS
from mqcore_conformance.children import alive, run_apart
from mqcore_conformance.claims import (
    PARTNER_STORAGE,
    PARTNER_TRANSPORT,
    Claims,
    SuiteSettings,
    find_settings,
    load_claims,
    read_settings,
)
from mqcore_conformance.contract import (
    CHECKS,
    Check,
    check_part,
    checks_of,
    explain_check,
    part_facts,
    replay_command,
    use_server,
    write_check_repro,
)
from mqcore_conformance.report import explain_failure, write_repro
from mqcore_conformance.running import (
    STORAGES,
    TRANSPORTS,
    Request,
    pieces_of,
    plan_cells,
    tiers_of,
    unproved_levels,
    why_not_repeatable,
    without_proof,
)
from mqcore_conformance.verdicts import Status
from mqcore_conformance.witnesses import ABOUT

__all__ = [
    "pytest_generate_tests",
    "test_contract",
    "test_every_claimed_level_meets_its_fault",
    "test_no_clause_is_left_out",
    "test_simulation",
    "test_what_does_not_run",
]

RUN_S_MAX = {"T0": 60.0, "T1": 300.0}
"""By tier: a run of a cell of which nothing comes for so long hangs."""
_WORST_FIRST = (
    Status.FAIL,
    Status.XPASS,
    Status.ERROR,
    Status.LIVENESS,
    Status.XFAIL,
    Status.PASS,
    Status.INCONCLUSIVE,
)
"""Of several clauses judged in one test. What was not judged hides nothing that was."""
SEE_OTHER = "see test_no_clause_is_left_out"
_CHECKS_AT_IMPORT = dict(CHECKS)
_CHECKERS_AT_IMPORT = dict(CHECKERS)


@attrs.frozen(kw_only=True)
class Adoption:
    """What is tested where the suite was adopted. ``problem``: its settings or its claims cannot be read."""

    root: Path
    settings: SuiteSettings = attrs.field(factory=SuiteSettings)
    claims: Claims = attrs.field(factory=Claims)
    problem: str = ""

    @property
    def storages(self) -> tuple[str, ...]:
        """Storages under test: the author's, else all that mqcore brings."""
        return self.settings.storage or (() if self.settings.transport or self._alone else STORAGES)

    @property
    def transports(self) -> tuple[str, ...]:
        """Transports under test, likewise."""
        return self.settings.transport or (() if self.settings.storage or self._alone else TRANSPORTS)

    @property
    def _alone(self) -> bool:
        """Whether a part is tested that is in no cell."""
        return bool(self.settings.coordinator or self.settings.offset_store or self.settings.authenticator)

    def contract(self) -> Iterable[tuple[str, Check]]:
        """Every contract check with the URL of its part."""
        if "contract" in self.request.tiers:
            parts = (
                ("storage", self.storages),
                ("transport", self.transports),
                ("coordinator", self.settings.coordinator),
                ("offset_store", self.settings.offset_store),
                ("authenticator", self.settings.authenticator),
            )
            for kind, urls in parts:
                for url in urls:
                    for one in checks_of(kind):
                        yield url, one

    @cached_property
    def request(self) -> Request:
        """The same as a request of the command line."""
        tiers, t1_by_default = tiers_of(self.settings.tiers, self.settings.storage, self.settings.transport)
        if not self.storages and not self.transports:
            # A coordinator, an offset store or an authenticator alone is in no cell.
            tiers = tuple(tier for tier in tiers if tier == "contract")
        partners = (*(() if self.storages else (PARTNER_STORAGE,)), *(() if self.transports else (PARTNER_TRANSPORT,)))
        return Request(
            storages=self.storages or (PARTNER_STORAGE,),
            transports=self.settings.transport or self.transports[:1] or (PARTNER_TRANSPORT,),
            coordinators=self.settings.coordinator,
            offset_stores=self.settings.offset_store,
            authenticators=self.settings.authenticator,
            partners=partners,
            families=self.settings.families_tested,
            tiers=tiers,
            t1_by_default=t1_by_default,
        )

    def cells(self) -> Iterable[Cell]:
        """Every cell that can run."""
        return (cell for cell, why in plan_cells(self.request) if not why)

    def not_run(self) -> Counter[tuple[str, str]]:
        """How many cells do not run, by tier and reason."""
        return Counter((cell.tier, why) for cell, why in plan_cells(self.request) if why)

    def unproved(self) -> list[str]:
        """Levels that no fault meets in any check or cell that runs."""
        return unproved_levels(self.request, pieces_of(self.request), lambda piece: not getattr(piece, "why", ""))


def _plan_of(module: ModuleType, config: pytest.Config) -> Adoption:
    here = Path(str(module.__file__)).parent
    own = module.__name__.startswith("mqcore_conformance.")
    return _read_plan(Path(config.rootpath), Path(config.invocation_params.dir), None if own else here)


@cache
def _read_plan(root: Path, invoked_in: Path, module_in: Path | None) -> Adoption:
    found = root
    try:
        places = (invoked_in, root) if module_in is None else (module_in, invoked_in, root)
        found = find_settings(*places) or root
        settings = read_settings(found)
        claims = load_claims(found / settings.claims) if settings.claims else Claims()
        for server in settings.servers:
            use_server(server)
        parts = (
            ("storage", settings.storage),
            ("transport", settings.transport),
            ("coordinator", settings.coordinator),
            ("offset_store", settings.offset_store),
            ("authenticator", settings.authenticator),
        )
        for kind, urls in parts:
            for url in urls:
                facts = part_facts(kind, url)
                if facts.unknown:
                    raise ConfigurationError(f"{found / 'pyproject.toml'}, {kind}: {facts.refusal}")
    except ConfigurationError as error:
        return Adoption(root=found, problem=str(error))
    return Adoption(root=found, settings=settings, claims=claims)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its parameters, from the settings of the repository in which it runs."""
    if metafunc.function.__module__ != __name__:
        return
    module = metafunc.module
    assert isinstance(module, ModuleType)
    plan = _plan_of(module, metafunc.config)
    why = SEE_OTHER if plan.problem else "nothing to run here"
    for name in {"contract", "not_run", "cell"}.intersection(metafunc.fixturenames):
        cases = [] if plan.problem else list(_cases(name, plan))
        metafunc.parametrize(name, cases or [pytest.param(None, marks=pytest.mark.skip(reason=why), id="nothing")])


def _cases(name: str, plan: Adoption) -> Iterator[Any]:
    """Give the parameters of the test that has ``name`` as its argument."""
    if name == "contract":
        for url, one in plan.contract():
            yield pytest.param((url, one.name), id=f"{one.clause}-{label_of(url)}-{one.name}")
    elif name == "not_run":
        for number, ((tier, why), count) in enumerate(plan.not_run().items(), 1):
            yield pytest.param(f"{tier}, {count} cells: {why}", id=f"{tier}-{number}")
    else:
        for cell in plan.cells():
            for clause in ABOUT[cell.family]:
                yield pytest.param((cell, (clause,)), id=f"{clause}-{cell.name}")
            others = tuple(clause for clause in CHECKERS if clause not in ABOUT[cell.family])
            yield pytest.param((cell, others), id=f"other-clauses-{cell.name}")


def test_no_clause_is_left_out(request: pytest.FixtureRequest) -> None:
    """The settings and the claims can be read; no test and no clause of the suite was overridden or deleted."""
    problem = _plan_of(request.module, request.config).problem or _left_out(request.module)
    if problem:
        pytest.fail(problem, pytrace=False)


def test_every_claimed_level_meets_its_fault(request: pytest.FixtureRequest) -> None:
    """A level that is claimed is tried against the fault that it is claimed against; else nothing is proved of it."""
    _refuse_what_is_left_out(request)
    plan = _plan_of(request.module, request.config)
    if plan.problem:
        pytest.skip(SEE_OTHER)
    unproved = plan.unproved()
    if unproved:
        _fail(["INCOMPLETE", *unproved])


def test_what_does_not_run(not_run: str) -> None:
    """Cells that do not run here, with the reason."""
    pytest.skip(f"NOT RUN: {not_run}")


def _left_out(module: ModuleType) -> str:
    remedy = "state what is known to fail as [[xfail]] with clause, reason and issue in the claims file instead"
    for name in __all__:
        if getattr(module, name, None) is not _OWN[name]:
            done = "overridden" if hasattr(module, name) else "deleted"
            return f"{module.__name__}.{name} was {done}: {remedy}"
    gone = [f"check {name}" for name, one in _CHECKS_AT_IMPORT.items() if CHECKS.get(name) is not one]
    gone += [f"clause {name}" for name, one in _CHECKERS_AT_IMPORT.items() if CHECKERS.get(name) is not one]
    return f"the {gone[0]} was taken out of the suite or replaced: {remedy}" if gone else ""


def _refuse_what_is_left_out(request: pytest.FixtureRequest) -> None:
    """Where the test that tells it was itself deleted, every other one fails."""
    if getattr(request.module, "test_no_clause_is_left_out", None) is not _OWN["test_no_clause_is_left_out"]:
        pytest.fail(_left_out(request.module), pytrace=False)


def test_contract(contract: tuple[str, str], request: pytest.FixtureRequest) -> None:
    """One contract check of one part."""
    _refuse_what_is_left_out(request)
    plan = _plan_of(request.module, request.config)
    url, name = contract
    one = CHECKS[name]
    seconds_max, claims = plan.settings.check_seconds_max, plan.claims
    result = check_part(one, url, seconds_max=seconds_max, claims=claims)
    status = claims.judge(one.clause, f"contract/{label_of(url)}/{name}", result.status)
    place = None
    if result.status is Status.FAIL:
        folder = _report_folder(request)
        place = folder / write_check_repro(folder, url, result, seconds_max, claims)
    lines = explain_check(url, result, place)
    if status is Status.XPASS:
        lines = [claims.out_of_date(one.clause, f"contract/{label_of(url)}/{name}", plan.settings.claims)]
    _tell(status, lines)


def test_simulation(cell: tuple[Cell, tuple[str, ...]], request: pytest.FixtureRequest) -> None:
    """A clause, or those that a family of faults is not about, in one cell of the simulation or of real processes."""
    _refuse_what_is_left_out(request)
    plan = _plan_of(request.module, request.config)
    one, clauses = cell
    result = _run(one, plan.settings.seeds)
    judged = {clause: plan.claims.judge(clause, one.name, result.statuses[clause]) for clause in clauses}
    status = next((status for status in _WORST_FIRST if status in judged.values()), Status.NOT_RUN)
    worst = [clause for clause in clauses if judged[clause] is status]
    if status is Status.XPASS:
        _tell(status, [plan.claims.out_of_date(clause, one.name, plan.settings.claims) for clause in worst])
    _tell(
        status,
        _lines_of(one, result, worst, request) or [f"{' '.join(worst)} {one.name}: {result.reason or status.value}"],
    )


def _lines_of(cell: Cell, result: CellResult, clauses: Sequence[str], request: pytest.FixtureRequest) -> list[str]:
    """Return what a failure says of one of ``clauses``, and how it is replayed; nothing when none failed."""
    for failure in result.failures:
        found = [violation for violation in failure.violations if violation.clause in clauses]
        if found:
            lines = [str(found[0]), *explain_failure(failure, cell)[:20]]
            folder = _report_folder(request)
            with contextlib.suppress(OSError):
                lines.append(f"replay: {replay_command(folder / write_repro(folder, failure, cell))}")
            return lines
    return []


@cache
def _run(cell: Cell, seeds: int) -> CellResult:
    """Run a cell in a child: a part that hangs, prints or ends its process does it there."""
    work = partial(run_cell, cell, range(seeds), ran=alive)
    outcome = run_apart(work, seconds_max=RUN_S_MAX[cell.tier], returns=CellResult)
    result = outcome.value
    if result is not None:
        problem = why_not_repeatable(result.last, seconds_max=RUN_S_MAX[cell.tier])
        if problem:
            result.reason = problem
            result.statuses = {clause: without_proof(status) for clause, status in result.statuses.items()}
        return result
    return CellResult(cell=cell, statuses=dict.fromkeys(CHECKERS, Status.ERROR), reason=outcome.problem)


def _report_folder(request: pytest.FixtureRequest) -> Path:
    """Return where repros of this run are kept: pytest's cache, or its temporary folder where there is no cache."""
    cache_of_pytest = getattr(request.config, "cache", None)
    if cache_of_pytest is not None:
        return Path(cache_of_pytest.mkdir("mqcore-conformance"))
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    return factory.getbasetemp() / "mqcore-conformance"


def _tell(status: Status, lines: Sequence[str]) -> None:
    if status is Status.PASS:
        return
    if status is Status.XFAIL:
        pytest.xfail(lines[0])
    if status in (Status.NOT_RUN, Status.NOT_CLAIMED, Status.INCONCLUSIVE):
        pytest.skip(f"{status.value}: {' '.join(' '.join(lines).split())[:300]}")
    _fail([status.value, *lines])


def _fail(lines: Sequence[str]) -> NoReturn:
    pytest.fail("\n".join(lines), pytrace=False)


_OWN = {name: globals()[name] for name in __all__}
