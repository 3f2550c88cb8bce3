"""Writes docs/reference/: the public names of mqcore with their docstrings, one page per module.

``python docs/make_reference.py`` writes the pages; a test compares them. Sources are read as syntax trees and nothing
is imported, so that every Python version writes the same pages. A public name without a docstring is an error.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["MODULES", "missing_docstrings", "reference_pages"]

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"

MODULES = (
    "mqcore",
    "mqcore.client",
    "mqcore.aio",
    "mqcore.sync",
    "mqcore.operations",
    "mqcore.config",
    "mqcore.errors",
    "mqcore.limits",
    "mqcore.guarantees",
    "mqcore.abc",
    "mqcore.ports",
    "mqcore.links",
    "mqcore.followed",
    "mqcore.sockets",
    "mqcore.volatile",
    "mqcore.ensembles",
    "mqcore.registry",
    "mqcore.batch",
    "mqcore.protocol",
    "mqcore.testing",
)
"""The public modules, in the order of the index."""

SIGNATURE_WIDTH_MAX = 110

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Name(NamedTuple):
    """One public name: the ``module`` that a user imports it from, and the statement that defines it."""

    module: str
    name: str
    node: ast.stmt
    docstring: str
    home: str
    """The module whose page describes it."""


# reading


@cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text("utf-8"), str(path))


def _statements(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, ast.stmt | None]]:
    """Statements with what follows each; those under ``if TYPE_CHECKING`` too."""
    for index, node in enumerate(body):
        if isinstance(node, ast.If):
            yield from _statements(node.body)
        yield node, body[index + 1] if index + 1 < len(body) else None


def exported(module: str) -> list[str]:
    """The names in ``__all__``."""
    for node, _ in _statements(tree_of(module).body):
        if isinstance(node, ast.Assign) and _targets(node) == ["__all__"]:
            return sorted(ast.literal_eval(node.value), key=lambda name: (name.upper() == name, name))
    raise LookupError(f"{module} has no __all__")


def _targets(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.AnnAssign):
        return [ast.unparse(node.target)]
    return [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []


def definition(module: str, name: str) -> tuple[str, ast.stmt, str]:
    """Module, statement and docstring that define ``name``, wherever ``module`` imports it from."""
    for node, following in _statements(tree_of(module).body):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mqcore"):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return definition(node.module, alias.name)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            return module, node, ast.get_docstring(node) or ""
        if name in _targets(node):
            return module, node, _docstring_after(following)
    raise LookupError(f"{module} exports {name} and does not define it")


def _docstring_after(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return inspect.cleandoc(node.value.value)
    return ""


@cache
def public_names() -> dict[str, list[Name]]:
    """The public names of each module. A name that several modules export is described by the lowest of them."""
    homes: dict[tuple[str, str], str] = {}
    for module in reversed(MODULES):
        for name in exported(module):
            defined_in, node, _ = definition(module, name)
            homes.setdefault((defined_in, _name_of(node, name)), module)
    found: dict[str, list[Name]] = {}
    for module in MODULES:
        for name in exported(module):
            defined_in, node, docstring = definition(module, name)
            home = homes[defined_in, _name_of(node, name)]
            found.setdefault(module, []).append(Name(module, name, node, docstring, home))
    return found


def _name_of(node: ast.stmt, name: str) -> str:
    return getattr(node, "name", name)


def _members(node: ast.ClassDef) -> Iterator[_Function]:
    """Public methods and properties that a class defines itself."""
    for member in node.body:
        if not isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)) or member.name.startswith("_"):
            continue
        if not any(ast.unparse(each).endswith((".setter", ".deleter")) for each in member.decorator_list):
            yield member


def _bases(module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef]]:
    for base in node.bases:
        try:
            found, statement, _ = definition(module, ast.unparse(base))
        except LookupError:
            continue
        if isinstance(statement, ast.ClassDef):
            yield found, statement


@cache
def _is_public(node: ast.ClassDef) -> bool:
    return any(item.node is node for names in public_names().values() for item in names)


def _inherited(module: str, node: ast.ClassDef, seen: frozenset[str] = frozenset()) -> Iterator[_Function]:
    """Public members of bases that are not public themselves: whoever reads of the class finds them nowhere else."""
    seen |= {member.name for member in _members(node)}
    for found, base in _bases(module, node):
        if not _is_public(base):
            own = [member for member in _members(base) if member.name not in seen]
            yield from own
            yield from _inherited(found, base, seen)
            seen |= {member.name for member in own}


def _inherits_docstring(module: str, node: ast.ClassDef, name: str) -> bool:
    return any(
        any(member.name == name and ast.get_docstring(member) for member in _members(base))
        or _inherits_docstring(found, base, name)
        for found, base in _bases(module, node)
    )


def missing_docstrings() -> list[str]:
    """Public names, methods and properties that say nothing of themselves."""
    missing = []
    for module, names in public_names().items():
        for item in names:
            if item.home != module:
                continue
            if not item.docstring:
                missing.append(f"{module}.{item.name}")
            if isinstance(item.node, ast.ClassDef):
                defined_in, _, _ = definition(module, item.name)
                missing += [
                    f"{module}.{item.name}.{member.name}"
                    for member in _members(item.node)
                    if not ast.get_docstring(member) and not _inherits_docstring(defined_in, item.node, member.name)
                ]
    return missing


# writing


def reference_pages() -> dict[str, str]:
    """The pages by file name. Raises ``ValueError`` naming every public name without a docstring."""
    missing = missing_docstrings()
    if missing:
        raise ValueError(f"public names without a docstring: {', '.join(missing)}")
    pages = {f"{module}.md": _page(module) for module in MODULES}
    pages["README.md"] = _index()
    return pages


def _index() -> str:
    lines = ["# Reference", "", "The public names, from their docstrings. What is not here may change at any time.", ""]
    lines += ["| module | what it is |", "|---|---|"]
    lines += [f"| [`{module}`]({module}.md) | {_first(_docstring_of(module))} |" for module in MODULES]
    return "\n".join(lines) + "\n"


def _docstring_of(module: str) -> str:
    docstring = ast.get_docstring(tree_of(module))
    assert docstring, f"{module} has no docstring"
    return docstring


def _page(module: str) -> str:
    names = public_names()[module]
    parts = [f"# `{module}`", _text(_docstring_of(module)), _contents(names)]
    parts += [_entry(item) for item in names if item.home == module]
    return "\n\n".join(parts) + "\n"


def _contents(names: list[Name]) -> str:
    rows = ["| name | |", "|---|---|"]
    for item in names:
        page = "" if item.home == item.module else f"{item.home}.md"
        rows.append(f"| [`{item.name}`]({page}#{item.name.lower()}) | {_first(item.docstring)} |")
    return "\n".join(rows)


def _entry(item: Name) -> str:
    node = item.node
    if isinstance(node, ast.ClassDef):
        return _class(item, node)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return "\n\n".join([f"## `{item.name}`", _code(_signature(node)), _text(item.docstring)])
    return "\n\n".join([f"## `{item.name}`", _code(ast.unparse(node)), _text(item.docstring)])


def _class(item: Name, node: ast.ClassDef) -> str:
    defined_in, _, _ = definition(item.module, item.name)
    hidden = {base.name for _, base in _bases(defined_in, node) if not _is_public(base)}
    bases = [base for base in map(ast.unparse, node.bases) if base not in hidden]
    head = f"class {node.name}" + (f"({', '.join(bases)})" if bases else "")
    functions = [each for each in node.body if isinstance(each, ast.FunctionDef)]
    constructor = next((each for each in functions if each.name == "__init__"), None)
    code = head if constructor is None else f"{head}\n\n{_signature(constructor)}"
    parts = [f"## `{item.name}`", _code(code), _text(item.docstring)]
    table = _fields(node)
    if table:
        parts.append(table)
    for member in [*_members(node), *_inherited(defined_in, node)]:
        parts.append(f"### `{item.name}.{member.name}`")
        parts.append(_code(_signature(member)))
        docstring = ast.get_docstring(member)
        parts.append(_text(docstring) if docstring else "As the class that it derives from says.")
    return "\n\n".join(parts)


def _fields(node: ast.ClassDef) -> str:
    """The annotated attributes of a class, or the members of an enumeration, as a table."""
    rows = []
    for member, following in _statements(node.body):
        for target in _targets(member):
            if target.startswith("_"):
                continue
            kind = ast.unparse(member.annotation) if isinstance(member, ast.AnnAssign) else ""
            value, meaning = _value_and_meaning(getattr(member, "value", None))
            rows.append((target, kind, value, _docstring_after(following) or meaning))
    if not rows:
        return ""
    cells = [("attribute", "type", "default or value", "meaning"), *rows]
    used = [0, *(column for column in (1, 2, 3) if any(row[column] for row in rows))]
    lines = ["| " + " | ".join(cells[0][column] for column in used) + " |", "|---" * len(used) + "|"]
    for row in rows:
        texts = [f"`{row[column]}`" if column < 3 and row[column] else _inline(row[column]) for column in used]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
    return "\n".join(lines)


def _value_and_meaning(value: ast.expr | None) -> tuple[str, str]:
    """Default and help text of a field, also where a function such as ``attrs.field`` makes it."""
    if not isinstance(value, ast.Call):
        return (ast.unparse(value) if value is not None else "", "")
    given = {keyword.arg: keyword.value for keyword in value.keywords}
    texts = [each.value for each in ast.walk(value) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    helps = (
        [given["help"]]
        if "help" in given
        else [
            pair[1]
            for keyword in value.keywords
            if isinstance(keyword.value, ast.Dict)
            for pair in zip(keyword.value.keys, keyword.value.values, strict=True)
            if isinstance(pair[0], ast.Constant) and pair[0].value == "help"
        ]
    )
    meaning = next((each.value for each in helps if isinstance(each, ast.Constant)), None)
    function = ast.unparse(value.func)
    if meaning is None and function.startswith("_") and texts:
        meaning = max(texts, key=len)
    if "factory" in given:
        return f"{ast.unparse(given['factory'])}()", str(meaning or "")
    if "default" in given:
        return ast.unparse(given["default"]), str(meaning or "")
    if function.startswith("_") and value.args and ast.unparse(value.args[0]) != repr(meaning):
        return ast.unparse(value.args[0]), str(meaning or "")
    return ("" if function.startswith(("attrs.", "_")) else ast.unparse(value)), str(meaning or "")


def _signature(node: _Function) -> str:
    lines = [f"@{ast.unparse(each)}" for each in node.decorator_list if "overload" not in ast.unparse(each)]
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    arguments = list(_arguments(node.args))
    line = f"{word} {node.name}({', '.join(arguments)}){result}"
    if len(line) > SIGNATURE_WIDTH_MAX:
        inner = "".join(f"    {argument},\n" for argument in arguments)
        line = f"{word} {node.name}(\n{inner}){result}"
    return "\n".join([*lines, line])


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    for index, (argument, default) in enumerate(zip(positional, [*defaults, *arguments.defaults], strict=True), 1):
        yield _argument(argument, default)
        if index == len(arguments.posonlyargs):
            yield "/"
    if arguments.vararg is not None:
        yield f"*{_argument(arguments.vararg, None)}"
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _argument(argument, default)
    if arguments.kwarg is not None:
        yield f"**{_argument(arguments.kwarg, None)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    if argument.annotation is None:
        return argument.arg if default is None else f"{argument.arg}={ast.unparse(default)}"
    text = f"{argument.arg}: {ast.unparse(argument.annotation)}"
    return text if default is None else f"{text} = {ast.unparse(default)}"


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _inline(docstring: str) -> str:
    return " ".join(_text(docstring).split())


def _text(docstring: str) -> str:
    """A docstring as Markdown: double backticks become single ones, indented blocks after ``::`` stay blocks."""
    return re.sub(r"``(.+?)``", r"`\1`", docstring).replace("::\n", ":\n")


def _first(docstring: str) -> str:
    """The first sentence."""
    paragraph = _inline(docstring.split("\n\n")[0])
    sentence = re.match(r"(.*?[.])(?=\s|$)(?!\s*[a-z])", paragraph)
    return (sentence[1] if sentence else paragraph).replace("|", "\\|")


def main() -> None:
    """Write the pages, and remove those that are no longer made."""
    try:
        pages = reference_pages()
    except ValueError as error:
        sys.exit(str(error))
    REFERENCE.mkdir(exist_ok=True)
    for path in REFERENCE.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (REFERENCE / name).write_text(text, "utf-8")
    print(f"wrote {len(pages)} pages into {REFERENCE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
