"""docs/offset-store.md: its store keeps the contract, and what it lists is the contract's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from mqcore.abc import OffsetStore, StorageContext
from mqcore.ports import system_ports
from mqcore.registry import check, installed, register, unregister
from mqcore_conformance.contract import CHECKS, check_part, checks_of
from mqcore_conformance.verdicts import Status

PAGE = "offset-store.md"
pytestmark = pytest.mark.needs("source-tree")
NEEDS_SERVER = "mqcore_conformance.contract._offset_store_servers"


@pytest.fixture(autouse=True)
def _tally(pages: Any) -> Iterator[None]:
    part: type[OffsetStore] = pages.module(PAGE, "tally_offset_store").TallyOffsetStore
    register("offset_stores", "tally", part)
    yield
    unregister("offset_stores", "tally")


@pytest.mark.parametrize(
    "name", [one.name for one in checks_of("offset_store") if one.function.__module__ != NEEDS_SERVER]
)
def test_the_offset_store_of_the_page_keeps_the_contract(name: str) -> None:
    result = check_part(CHECKS[name], "tally://{dir}/cursors")
    assert result.status is Status.PASS, result.text


def test_the_offset_store_is_checked_like_any_part() -> None:
    context = StorageContext(ports=system_ports())
    assert check("offset_stores", "tally", url="tally:///tmp/cursors", context=context).problem == ""


def test_the_page_names_every_offset_store_and_verb(pages: Any) -> None:
    text = pages.text(PAGE)
    listed = text.partition("Ready-made ones are")[2].partition(". This page")[0]
    own = {item.name for item in installed("offset_stores") if item.distribution == "mqcore"}
    assert set(re.findall(r"`(\w+)`", listed)) == own
    assert {line.partition(":")[0] for line in re.findall(r"^\| `(\w+:)//", text, re.M)} == own
    for verb in OffsetStore.__abstractmethods__ - {"capabilities", "aclose"}:
        assert f"- `{verb}(" in text
