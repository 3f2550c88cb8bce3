"""What the tests of the pages share: where pages are, the code that stands on them, blocks that are generated."""

from __future__ import annotations

import os
import re
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UPDATE_VARIABLE = "MQCORE_TEST_UPDATE"


class Pages:
    """The folder ``docs``."""

    root = ROOT
    docs = ROOT / "docs"
    updating = UPDATE_VARIABLE in os.environ

    def text(self, page: str) -> str:
        return (self.docs / page).read_text()

    def code(self, page: str, file: str) -> str:
        """The blocks that the page marks as parts of ``file``, one after the other."""
        parts = re.findall(rf"<!-- file: {re.escape(file)} -->\n```\w*\n(.*?)```\n", self.text(page), re.DOTALL)
        assert parts, f"{page} has no code of {file}"
        return "\n\n".join(parts)

    def module(self, page: str, name: str) -> types.ModuleType:
        """The code of ``name``.py on the page, run as a module."""
        module = types.ModuleType(name)
        exec(compile(self.code(page, f"{name}.py"), f"{page}:{name}.py", "exec"), module.__dict__)
        return module

    def compare(self, page: str, expected: str) -> None:
        """Hold a generated page against what it is made from; with MQCORE_TEST_UPDATE it is written instead."""
        path = self.docs / page
        if self.updating:
            path.parent.mkdir(exist_ok=True)
            path.write_text(expected)
        assert path.exists(), f"docs/{page} is missing: {UPDATE_VARIABLE}=1 pytest tests/docs writes it"
        assert path.read_text() == expected, f"write docs/{page} anew: {UPDATE_VARIABLE}=1 pytest tests/docs"

    def compare_block(self, page: str, name: str, expected: str) -> None:
        """The same for one block of a page, between its markers."""
        text = self.text(page)
        pattern = rf"(<!-- generated: {re.escape(name)} -->\n\n)(.*?)(\n\n<!-- end -->)"
        match = re.search(pattern, text, re.DOTALL)
        assert match, f"{page} has no block {name}"
        if self.updating:
            (self.docs / page).write_text(text[: match.start(2)] + expected + text[match.end(2) :])
        else:
            assert match[2] == expected, f"write docs/{page} anew: {UPDATE_VARIABLE}=1 pytest tests/docs"


@pytest.fixture(scope="session")
def pages() -> Pages:
    """The pages."""
    return Pages()
