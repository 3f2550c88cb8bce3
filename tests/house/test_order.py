"""Order in the house: names used once, folders that are no packages, public docstrings, no paths of one machine."""

from __future__ import annotations

import ast
import re
from collections import Counter

import pytest

pytestmark = pytest.mark.needs("source-tree")

MACHINE = re.compile(
    "|".join(
        [
            r"/(?:ro" r"ot|wo" r"rk)/",
            r"/ho" r"me/[a-z]",
            r"index-" r"url",
            r"https?://[^ ]*/simp" r"le/",
        ]
    )
)
"""Paths and hosts of one machine (the patterns are split, so that this file does not match itself)."""
TEXT = {".py", ".md", ".toml", ".txt", ".cfg", ".yml", ".yaml", ".json", ".sh", ""}


def test_import_names_are_used_once_over_all_folders(house):
    names = Counter(
        entry.name.removesuffix(".py")
        for folder in house.folders
        for entry in (house.root / folder).glob("*")
        if (entry / "__init__.py").exists() or entry.suffix == ".py"
    )
    names["mqcore"] += 1
    assert [name for name, count in names.items() if count > 1] == []


def test_folders_of_plugins_are_not_packages(house):
    assert [folder for folder in house.folders if (house.root / folder / "__init__.py").exists()] == []


def test_test_files_have_names_of_their_own(house):
    names = Counter(path.name for path in house.files if path.name.startswith("test_") and path.suffix == ".py")
    assert [name for name, count in names.items() if count > 1] == []


def test_every_module_says_what_it_is_for(house):
    assert [module.path for module in house.modules if not ast.get_docstring(module.tree)] == []


def _undescribed(body, prefix):
    for node in body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
            continue
        decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
        inherited = decorators & {"override", "typing.override"} or any(name.endswith(".setter") for name in decorators)
        if not ast.get_docstring(node) and not inherited and "overload" not in decorators:
            yield node.lineno, prefix + node.name
        if isinstance(node, ast.ClassDef):
            overriding = bool(node.bases)
            for number, name in _undescribed(node.body, f"{node.name}."):
                if not overriding:
                    yield number, name


def test_everything_public_has_a_docstring(house):
    """A method that a base class describes need not be described again."""
    wrong = [
        f"{module.path}:{number} {name}"
        for module in house.modules
        if not module.name.rpartition(".")[2].startswith("__")
        for number, name in _undescribed(module.tree.body, "")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_speaks_of_one_machine(house):
    wrong = []
    for path in house.files:
        if path.suffix not in TEXT:
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            if MACHINE.search(line):
                wrong.append(f"{path.relative_to(house.root)}:{number}: {line.strip()[:120]}")
    assert not wrong, "\n".join(wrong)
