"""Mutants of the checkers: each comparison turned, each sign changed, each condition negated, one at a time.

The stories have to tell each mutant from the real checkers. Knows the checkers as source text, and nothing of clauses.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import sys
import types
from collections.abc import Iterator, Sequence

import attrs
from checker_stories import STORIES

from mqcore_conformance.histories import Event

__all__ = ["Mutant", "mutants", "noticed_by"]

REAL = "mqcore_conformance.checkers"
COPY = "mqcore_conformance_mutant"
LEAVES = frozenset({"_consumers", "_content", "_flushes", "_loss", "_observed", "_sets"})
"""Those that only the package imports."""
MODULES = (
    "_drained",
    "_policies",
    "_reigns",
    "_facts",
    "_rotten",
    "_tags",
    "_kept",
    "_consumers",
    "_content",
    "_flushes",
    "_loss",
    "_observed",
    "_replicas",
    "_sets",
    "",
)
"""Modules of the checkers, each after those that it imports."""
PLACE_CHARS_MAX = 80

_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OF_ANNOTATIONS = (ast.AnnAssign, ast.arguments)


@attrs.frozen
class Mutant:
    """A change of one place of one module: the ``number``-th that can be changed, and what it does there."""

    module: str
    number: int
    line: int
    what: str
    place: str = ""
    """Function and source text: what stays when lines move."""

    @property
    def key(self) -> str:
        """What this mutant is called in the list of those that are accepted."""
        return f"{self.module or '__init__'}.{self.place}: {self.what}"

    def __str__(self) -> str:
        return f"{self.module or '__init__'}:{self.line} {self.what}"


class _Changer(ast.NodeTransformer):
    """Visits the places that can be changed in order, notes each, and changes the one with the number ``chosen``."""

    def __init__(self, chosen: int = -1) -> None:
        self.places: list[tuple[int, str, str]] = []
        self._chosen = chosen
        self._function = ""

    def _is_next(self, node: ast.expr | ast.stmt, what: str) -> bool:
        text = ""
        if self._chosen < 0:  # only who lists the places reads them
            text = ast.unparse(node.test if isinstance(node, ast.If) else node)[:PLACE_CHARS_MAX]
        self.places.append((node.lineno, what, f"{self._function} `{text}`"))
        return len(self.places) - 1 == self._chosen

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        for index, operator in enumerate(node.ops):
            turned = _TURNED[type(operator)]
            if self._is_next(node, f"{type(operator).__name__} becomes {turned.__name__}"):
                node.ops[index] = turned()
        return node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        if self._is_next(node, "and becomes or, or the other way round"):
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and self._is_next(node, "not is left out"):
            return node.operand
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Add | ast.Sub) and self._is_next(node, "plus becomes minus, or the other way round"):
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return node

    def visit_Continue(self, node: ast.Continue) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if self._is_next(node, "continue is left out") else node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if self._is_next(node, "the condition is never met"):
            node.test = ast.copy_location(ast.Constant(False), node.test)
        return node

    # what is said or typed, not judged, stays

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        outer, self._function = self._function, node.name
        node.body = [self.visit(statement) for statement in node.body]
        self._function = outer
        return node


def _tree(module: str) -> ast.Module:
    source = inspect.getsource(importlib.import_module(f"{REAL}.{module}" if module else REAL))
    copied = source.replace(f"{REAL}.", f"{COPY}.")
    return ast.parse(copied.replace(f"{COPY}._endings", f"{REAL}._endings"))  # words, which judge nothing


def mutants() -> Iterator[Mutant]:
    """Give every mutant."""
    for module in MODULES:
        changer = _Changer()
        changer.visit(_tree(module))
        for number, (line, what, place) in enumerate(changer.places):
            yield Mutant(module, number, line, what, place)


def _name(module: str) -> str:
    return f"{COPY}.{module}" if module else COPY


@attrs.define
class _Loader:
    """Makes copies of the checkers; keeps the trees, and the compiled modules that are as they were."""

    loaded: dict[str, types.ModuleType] = attrs.field(factory=dict)
    trees: dict[str, ast.Module] = attrs.field(factory=lambda: {module: _tree(module) for module in MODULES})
    code: dict[str, types.CodeType] = attrs.field(factory=dict)

    def load(self, mutant: Mutant | None) -> types.ModuleType:
        """Load a copy, changed by ``mutant``, and return its package."""
        package = sys.modules[COPY] = types.ModuleType(COPY)
        package.__path__ = []
        is_leaf = mutant is not None and mutant.module in LEAVES
        for module in MODULES:
            name = _name(module)
            if is_leaf and module and module in self.loaded and mutant is not None and module != mutant.module:
                sys.modules[name] = self.loaded[module]
                continue
            loaded = package if not module else types.ModuleType(name)
            sys.modules[name] = loaded
            if mutant is not None and mutant.module == module:
                tree = _Changer(mutant.number).visit(copy.deepcopy(self.trees[module]))
                code = compile(ast.fix_missing_locations(tree), name, "exec")
            elif module in self.code:
                code = self.code[module]
            else:
                code = self.code[module] = compile(self.trees[module], name, "exec")
            exec(code, loaded.__dict__)
            if mutant is None:
                self.loaded[module] = loaded
        return package


def noticed_by(chosen: Sequence[Mutant]) -> Iterator[tuple[Mutant, str]]:
    """Give each mutant with the story that it judges otherwise than it is told (empty: none tells it apart)."""
    loader = _Loader()
    loader.load(None)
    told = [(tale.name, tale.events, set(tale.clauses)) for tale in STORIES.values()]
    try:
        for mutant in chosen:
            yield mutant, _first_difference(loader, mutant, told)
    finally:
        for module in MODULES:
            sys.modules.pop(_name(module), None)


def _first_difference(loader: _Loader, mutant: Mutant, told: Sequence[tuple[str, list[Event], set[str]]]) -> str:
    try:
        check = loader.load(mutant).check_history
    except Exception as error:
        return f"it does not even load ({type(error).__name__})"
    for name, events, clauses in told:
        try:
            found = {violation.clause for violation in check(events)}
        except Exception as error:
            return f"{name} ({type(error).__name__})"
        if found != clauses:
            return name
    return ""
