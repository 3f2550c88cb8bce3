"""docs/storage-own-io.md and docs/transport-framed.md: the code is that of the examples, each liar has its row."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mqcore_conformance.saboteurs import PART_SABOTEURS

pytestmark = pytest.mark.needs("source-tree")
PAGES = {"storage-own-io.md": "sqlite_storage.py", "transport-framed.md": "framed_transport.py"}
BLOCK = re.compile(r"<!-- from: (\S+) -->\n```python\n(.*?)\n```\n", re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_on_the_page_is_that_of_the_example(page: str, pages: Any) -> None:
    source = (pages.root / "conformance/mqcore_conformance/examples" / PAGES[page]).read_text()
    blocks = BLOCK.findall(pages.text(page))
    assert len(blocks) >= 4
    assert len(blocks) == pages.text(page).count("```python")
    for file, code in blocks:
        assert file == PAGES[page]
        assert code in source, f"{page}: this is not in {file} any more:\n{code}"


def test_every_liar_stands_on_a_page_with_its_clause_and_where_it_is_red(pages: Any) -> None:
    rows: dict[str, str] = {}
    for page in PAGES:
        rows |= re.findall(r"(?m)^\| ((?:sqlite|framed)-\S+) \|.*\| (.*) \|$", pages.text(page))
    assert set(rows) == {one.name for one in PART_SABOTEURS}
    for one in PART_SABOTEURS:
        assert rows[one.name].startswith(one.clause)
        assert rows[one.name].endswith((one.check or f"T1 {one.family}", "the same"))
