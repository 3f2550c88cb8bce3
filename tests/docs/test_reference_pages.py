"""docs/reference/ says what the docstrings say, and every public name says something."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.needs("source-tree")


@pytest.fixture(scope="module")
def maker(pages: Any) -> ModuleType:
    """docs/make_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("make_reference", pages.docs / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_a_docstring(maker: ModuleType) -> None:
    assert maker.missing_docstrings() == []


def test_the_pages_are_those_that_the_docstrings_make(maker: ModuleType, pages: Any) -> None:
    made = maker.reference_pages()
    for name, text in made.items():
        pages.compare(f"reference/{name}", text)
    assert {path.name for path in (pages.docs / "reference").iterdir()} == set(made)


@pytest.mark.parametrize("module", ["mqcore.client", "mqcore.aio", "mqcore.sync"])
def test_what_a_public_class_has_of_one_that_is_not_is_on_its_page(maker: ModuleType, module: str) -> None:
    page = maker.reference_pages()[f"{module}.md"]
    assert "### `Producer.epoch`" in page
    assert "ProducerFacts" not in page
    assert page.count("### `Consumer.next_batch`") == 1


def test_every_public_module_exports_what_its_page_names(maker: ModuleType) -> None:
    for module in maker.MODULES:
        found = importlib.import_module(module)
        for name in maker.exported(module):
            assert hasattr(found, name), f"{module}.{name}"


def test_a_name_that_says_nothing_is_found(maker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    speaking = maker.public_names()["mqcore.errors"][0]
    mute = {"mqcore.errors": [speaking._replace(docstring="")]}
    monkeypatch.setattr(maker, "public_names", lambda: mute)
    with pytest.raises(ValueError, match=rf"without a docstring: mqcore\.errors\.{speaking.name}$"):
        maker.reference_pages()
