"""The worked examples are honest: the checks and cells that find their liars out find nothing against them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqcore.registry import register, unregister
from mqcore_conformance.broker_process.parts import register_parts, registered_parts
from mqcore_conformance.cells import Cell, run_cell
from mqcore_conformance.contract import check_part, checks_of
from mqcore_conformance.examples.framed_transport import FramedTransport
from mqcore_conformance.examples.sqlite_storage import SqliteStorage
from mqcore_conformance.running import tiers_of
from mqcore_conformance.saboteurs import PART_SABOTEURS
from mqcore_conformance.saboteurs.selftest import run_selftest
from mqcore_conformance.verdicts import Status

SQLITE, FRAMED = "sqlite://{dir}", "framed://127.0.0.1:0"
FAMILIES = ("kill", "kill-at-call", "power-cut", "flush-error", "full")
pytestmark = pytest.mark.needs("diverted-calls")


@pytest.fixture(autouse=True)
def examples() -> Iterator[None]:
    register("storage", "sqlite", SqliteStorage)
    register("transports", "framed", FramedTransport)
    yield
    unregister("storage", "sqlite")
    unregister("transports", "framed")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "url"), [("storage", SQLITE), ("transport", FRAMED)])
def test_every_check_of_the_contract_passes(kind: str, url: str) -> None:
    results = {one.name: check_part(one, url) for one in checks_of(kind)}
    wrong = {name: result.text for name, result in results.items() if result.status is Status.FAIL}
    assert wrong == {}
    of_liars = {one.check for one in PART_SABOTEURS if one.check and one.is_storage == (kind == "storage")}
    assert {name for name in of_liars if results[name].status is not Status.PASS} == set()


@pytest.mark.slow
@pytest.mark.needs("dirty-pages")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_pair_keeps_its_promises_under_every_fault_of_real_processes(family: str) -> None:
    cell = Cell(tier="T1", storage=SQLITE, transport="framed", flush="sync", family=family)
    result = run_cell(cell, (0,))
    assert [str(violation) for failure in result.failures for violation in failure.violations] == []
    assert result.statuses["G01"] is Status.PASS, result.reason


def test_a_storage_with_io_of_its_own_gets_real_processes_by_default() -> None:
    assert tiers_of((), [SQLITE]) == (("contract", "T0", "T1"), True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sqlite-late-ends", "sqlite-zeros", "framed-overtakes"])
def test_a_liar_is_caught_and_the_honest_one_is_not(name: str) -> None:
    unregister("storage", "sqlite")
    unregister("transports", "framed")
    (kill,) = run_selftest([name])
    assert (kill.verdict, kill.stray) == ("killed", ())


def test_parts_that_no_distribution_brings_are_handed_to_other_processes_by_name() -> None:
    parts = registered_parts()
    assert ["storage", "sqlite", SqliteStorage.__module__, "SqliteStorage"] in parts
    unregister("storage", "sqlite")
    register_parts(parts)
    assert parts == registered_parts()


def test_a_part_that_another_process_cannot_import_is_not_handed_over() -> None:
    class Local(SqliteStorage):
        pass

    register("storage", "local", Local)
    try:
        assert all(name != "local" for _, name, _, _ in registered_parts())
    finally:
        unregister("storage", "local")
