"""docs/coordinator.md: its coordinator keeps the contract, and its part list is the contract's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from mqcore.abc import Coordinator, StorageContext
from mqcore.ports import system_ports
from mqcore.registry import check, installed, register, unregister
from mqcore_conformance.contract import CHECKS, ServerControl, check_part, checks_of
from mqcore_conformance.verdicts import Status

PAGE = "coordinator.md"
pytestmark = pytest.mark.needs("source-tree")
LONG = {"never_two_primaries_at_once"}
"""The scaffold, which is the same code, is tested with it."""
NEEDS_SERVER = "mqcore_conformance.contract._coordinator_servers"


@pytest.fixture(autouse=True)
def _notary(pages: Any) -> Iterator[None]:
    part: type[Coordinator] = pages.module(PAGE, "notary_coordinator").NotaryCoordinator
    register("coordinators", "notary", part)
    yield
    unregister("coordinators", "notary")


@pytest.mark.parametrize(
    "name",
    [
        one.name
        for one in checks_of("coordinator")
        if one.name not in LONG
        and (one.function.__module__ != NEEDS_SERVER or one.name == "a_restored_backup_revives_nothing")
    ],
)
def test_the_coordinator_of_the_page_keeps_the_contract(name: str) -> None:
    result = check_part(CHECKS[name], "notary://{dir}/cells")
    assert result.status is Status.PASS, result.text


def test_it_is_checked_like_any_part() -> None:
    context = StorageContext(ports=system_ports())
    assert check("coordinators", "notary", url="notary:///tmp/cells", context=context).problem == ""


def test_the_page_names_every_coordinator_verb_and_control(pages: Any) -> None:
    text = pages.text(PAGE)
    listed = text.partition("Ready-made ones are")[2].partition(". This page")[0]
    own = {item.name for item in installed("coordinators") if item.distribution == "mqcore"}
    assert set(re.findall(r"`(\w+)`", listed)) == own
    for verb in Coordinator.__abstractmethods__ - {"capabilities", "aclose"}:
        assert f"- `{verb}(" in text
    controls = text.partition("as far as it can: ")[2].partition(" of an ensemble")[0]
    optional = {
        name for name in vars(ServerControl) if not name.startswith("_") and name not in ("scheme", "start", "close")
    }
    assert set(re.findall(r"\w+", controls)) - {"and"} == optional
