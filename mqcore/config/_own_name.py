"""``{name}`` in a configuration that serves several nodes: in what is a node's own, it stands for the node's name.

By hand, not as a format: a URL may have other braces. Must not know which tables those are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import attrs

__all__ = ["OWN_NAME", "with_own_name"]

T = TypeVar("T")
OWN_NAME = "{name}"


def with_own_name(value: T, name: str) -> T:
    """Return ``value`` with ``name`` in place of ``{name}``, in every text of a table, list or mapping in it too."""
    found: Any = _replaced(value, name)
    return found  # type: ignore[no-any-return]  # of the class that it was


def _replaced(value: Any, name: str) -> Any:
    if isinstance(value, str):
        return value.replace(OWN_NAME, name)
    if isinstance(value, Mapping):
        return {key: _replaced(each, name) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_replaced(each, name) for each in value)
    if attrs.has(type(value)):
        fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        changed = {key: new for key, old in fields.items() if (new := _replaced(old, name)) != old}
        return attrs.evolve(value, **changed) if changed else value
    return value
