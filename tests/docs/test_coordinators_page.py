"""docs/coordinators.md: what it quotes is what the parts say, and what it tells to configure is what they need."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mqcore.abc import CoordinatorContext
from mqcore.ports import system_ports
from mqcore.registry import create_coordinator, installed

pytestmark = pytest.mark.needs("source-tree")
PAGE = "coordinators.md"


def test_every_quoted_message_is_one_that_a_part_can_give(pages: Any) -> None:
    text = (pages.docs / PAGE).read_text()
    rows = re.findall(r"(?m)^\| `([^`]+)` \|", text.split("## What it says")[1])
    assert len(rows) > 10
    sources = [pages.root / "mqcore" / "ensembles.py"]
    for name in ("etcd", "postgres", "zookeeper"):
        sources += sorted((pages.root / "plugins" / f"mqcore_{name}").glob("*.py"))
    # A message may be broken over several lines of its source.
    said = "".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in sources)
    assert [row for row in rows if row not in said] == []


@pytest.mark.needs("postgres")
def test_the_table_to_make_by_hand_is_the_one_that_the_part_makes(pages: Any) -> None:
    from mqcore_postgres._statements import CREATE

    (block,) = re.findall(r"```sql\n(.*?)```", (pages.docs / PAGE).read_text(), re.DOTALL)
    assert block.strip().encode() == CREATE


@pytest.mark.needs("etcd", "postgres", "zookeeper")
def test_every_coordinator_that_is_installed_is_on_the_page_with_a_url_that_it_takes(pages: Any) -> None:
    text = (pages.docs / PAGE).read_text()
    schemes = {item.name for item in installed("coordinators") if item.distribution == "mqcore"} - {"memory"}
    assert {scheme for scheme in schemes if f"`{scheme}://" not in text} == set()
    for url in re.findall(r'(?m)^url = "(.*)"$', text):
        create_coordinator(url, CoordinatorContext(ports=system_ports()))
