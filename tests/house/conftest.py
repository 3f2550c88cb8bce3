"""Reads the sources of the house as syntax trees, once per run: modules, their imports, their names."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("transports", "storage_backends", "plugins", "conformance", "benchmarks")
SKIPPED = {".venv", ".git", "dist", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".hypothesis"}


@attrs.frozen
class Import:
    """One imported name, dotted in full (``mqcore.abc.Log``), and where it stands.

    ``for_types``: under ``if TYPE_CHECKING``. ``at_load``: runs when the module is loaded (not inside a function).
    """

    name: str
    line: int
    for_types: bool
    at_load: bool

    @property
    def top(self) -> str:
        """First part of the name: a library, or one of our packages."""
        return self.name.split(".")[0]

    def module_among(self, known: set[str]) -> str | None:
        """Name of the module that the import loads, if it is one of ``known``."""
        return next((name for name in (self.name, self.name.rpartition(".")[0]) if name in known), None)


@attrs.frozen
class Module:
    """One source file: dotted ``name``, ``path`` from the root, its syntax ``tree``."""

    name: str
    path: str
    tree: ast.Module

    @property
    def package(self) -> str:
        """The import package that it belongs to, such as ``mqcore_mmap``."""
        return self.name.split(".")[0]

    @property
    def room(self) -> str | None:
        """``mqcore.log._index`` is in room ``log``; None for the root package and for plug-ins."""
        parts = self.name.split(".")
        return parts[1] if parts[0] == "mqcore" and len(parts) > 1 else None

    @property
    def home(self) -> str:
        """The package in which the file lies, dotted."""
        return self.name if self.path.endswith("__init__.py") else self.name.rpartition(".")[0]

    @functools.cached_property
    def imports(self) -> list[Import]:
        """Every import, wherever it stands."""
        return list(self._imports(self.tree, for_types=False, at_load=True))

    def _imports(self, node: ast.AST, *, for_types: bool, at_load: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, for_types, at_load)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    above = self.home.split(".")[: len(self.home.split(".")) - child.level + 1]
                    base = ".".join([*above, base] if base else above)
                for alias in child.names:
                    yield Import(f"{base}.{alias.name}", child.lineno, for_types, at_load)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                body = ast.Module(body=child.body, type_ignores=[])
                yield from self._imports(body, for_types=True, at_load=at_load)
                other = ast.Module(body=child.orelse, type_ignores=[])
                yield from self._imports(other, for_types=for_types, at_load=at_load)
            else:
                inside = at_load and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from self._imports(child, for_types=for_types, at_load=inside)

    @functools.cached_property
    def classes(self) -> set[str]:
        """Names of the public classes defined in it."""
        return {
            node.name
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        }

    @functools.cached_property
    def exports(self) -> set[str]:
        """The names in its ``__all__``."""
        return {
            name
            for node in self.tree.body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for name in ast.literal_eval(node.value)
        }

    @functools.cached_property
    def texts(self) -> list[tuple[int, str]]:
        """String constants that are not docstrings, with their lines."""
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(self.tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        return [
            (node.lineno, node.value)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        ]


@attrs.frozen
class House:
    """All of it: ``root``, the ``folders`` of plug-ins, the ``modules`` of core and plug-ins, the tracked ``files``."""

    root: Path
    folders: tuple[str, ...]
    modules: list[Module]
    files: list[Path]

    @property
    def core(self) -> list[Module]:
        """Modules of ``mqcore`` itself."""
        return [module for module in self.modules if module.package == "mqcore"]

    @property
    def plugins(self) -> set[str]:
        """Import names of the packages in the folders."""
        return {module.package for module in self.modules} - {"mqcore"}


def _read(path: Path, base: Path) -> Module:
    parts = list(path.relative_to(base).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return Module(".".join(parts), str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8"), str(path)))


def _sources() -> Iterator[Module]:
    for path in sorted((ROOT / "mqcore").rglob("*.py")):
        yield _read(path, ROOT)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield _read(path, ROOT / folder)


def _tracked() -> list[Path]:
    """Files that belong to the project: what git tracks, or all of a source archive."""
    if (ROOT / ".git").exists():
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    return [path for path in ROOT.rglob("*") if path.is_file() and not SKIPPED & set(path.relative_to(ROOT).parts)]


@pytest.fixture(scope="session")
def house() -> House:
    """The sources, read once."""
    return House(ROOT, FOLDERS, list(_sources()), _tracked())
