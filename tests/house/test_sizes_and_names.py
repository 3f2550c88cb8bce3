"""A reader finds a thing where its name says: no file or function is too long, no class name stands for two things.

The limits hold everywhere; what would need an exception is split or renamed.
"""

from __future__ import annotations

import ast
from collections import defaultdict

import pytest

pytestmark = pytest.mark.needs("source-tree")

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 60


def test_no_file_is_too_long(house):
    long = {
        module.path
        for module in house.modules
        if len((house.root / module.path).read_text().splitlines()) > FILE_LINES_MAX
    }
    assert not long


def test_no_function_is_too_long(house):
    long = {
        f"{module.path}:{node.name}"
        for module in house.modules
        for node in ast.walk(module.tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert not long


SHELLS = ("mqcore/aio/", "mqcore/sync/")
"""The same client for other kinds of programs, with the same names on purpose."""


def test_no_public_class_name_is_used_twice(house):
    places = defaultdict(set)
    for module in house.modules:
        if module.path.startswith(SHELLS):
            continue
        for name in module.classes:
            places[name].add(module.path)
    twice = {name: sorted(paths) for name, paths in places.items() if len(paths) > 1}
    assert not twice
