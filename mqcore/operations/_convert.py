"""From JSON values to the classes of operations and back; what a peer sent is checked here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
)

__all__ = ["from_arguments", "from_result", "to_arguments", "to_json"]

T = TypeVar("T")


def _exactly(kind: type) -> Callable[[Any, Any], Any]:
    def check(value: Any, _: Any) -> Any:
        # By type: a bool is an int to Python, and no number in JSON.
        if type(value) is not kind:
            raise TypeError(f"must be {kind.__name__}, not {value!r}")
        return value

    return check


def _make_converter(*, forbids_others: bool = False, leaves_out: bool = False) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=forbids_others, omit_if_default=leaves_out)
    for kind in (int, str, bool):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook_func(lambda hint: hint == Mapping[str, Any], _exactly(dict))
    converter.register_structure_hook_func(lambda hint: hint == str | int, lambda value, _: value)
    return converter


_strict = _make_converter(forbids_others=True)
_lenient = _make_converter()
_brief = _make_converter(leaves_out=True)


def from_arguments(cls: type[T], arguments: Mapping[str, Any]) -> T:
    """Return the request that ``arguments`` state; ``ValueError`` names the argument that is unknown or wrong."""
    try:
        return _strict.structure(arguments, cls)
    except ClassValidationError as error:
        raise ValueError(_reason(error, cls)) from None


def from_result(cls: type[T], value: Any) -> T:
    """Return the result that ``value`` states; keys that a newer broker adds are left out. ``ValueError`` if wrong."""
    try:
        return _lenient.structure(value, cls)
    except (BaseValidationError, TypeError) as error:
        raise ValueError(f"not a {cls.__name__}: {_reason(error, cls)}") from None


def to_arguments(request: Any) -> dict[str, object]:
    """Return a request as the arguments of a call; those at their defaults are left out.

    An older broker refuses an argument that it does not know: a client that does not use it is not to name it.
    """
    arguments: dict[str, object] = _brief.unstructure(request)
    return arguments


def to_json(value: Any) -> Any:
    """Return a request or a result as JSON values."""
    return _strict.unstructure(value)


def _reason(error: BaseException, cls: type) -> str:
    path = ""
    cause = error
    while isinstance(cause, ClassValidationError | IterableValidationError):
        noted, others = cause.group_exceptions()
        if not noted:
            cause = others[0]
            break
        cause, note = noted[0]
        step = note.name if isinstance(note, AttributeValidationNote) else str(note.index)
        path = f"{path}.{step}" if path else step
    if isinstance(cause, ForbiddenExtraKeysError):
        known = ", ".join(field.name for field in attrs.fields(cls)) or "none"
        return f"unknown argument {sorted(cause.extra_fields)[0]!r}; known: {known}"
    if isinstance(cause, KeyError):
        return f"argument {cause.args[0]!r} is missing"
    return f"argument {path!r} {cause}" if path else f"argument {cause}"  # a validator's text begins with the name
