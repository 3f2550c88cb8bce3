"""Values of options as a person writes them: the unit of a field from its name, and the text of a value.

The way back, from text to value, is ``_options``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs

from mqcore.guarantees.levels import Level
from mqcore.guarantees.policies import (
    AsyncFlush,
    AsyncReplication,
    NoFlush,
    NoReplication,
    SyncFlush,
    SyncReplication,
)
from mqcore.guarantees.policy_text import format_flush, format_replication
from mqcore.units import format_bytes, format_duration_ms, format_duration_us

__all__ = ["format_value", "unit_of"]


def format_value(name: str, value: object) -> object:
    """Return ``value`` of the option ``name`` as TOML holds it: text in human units, numbers, lists, tables."""
    if isinstance(value, SyncFlush | AsyncFlush | NoFlush):
        return format_flush(value)
    if isinstance(value, NoReplication | AsyncReplication | SyncReplication):
        return format_replication(value)
    if isinstance(value, Level):
        return value.label
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, int) and not isinstance(value, bool):
        write = {"bytes": format_bytes, "ms": format_duration_ms, "us": format_duration_us}.get(unit_of(name) or "")
        return write(value) if write else value
    if isinstance(value, list | tuple | set | frozenset):
        return [format_value("", item) for item in value]
    if isinstance(value, Mapping):
        return {key: format_value(str(key), item) for key, item in value.items()}
    if attrs.has(type(value)):
        cls: Any = type(value)
        return {field.name: format_value(field.name, getattr(value, field.name)) for field in attrs.fields(cls)}
    return value


def unit_of(name: str) -> str | None:
    """Return ``bytes``, ``ms`` or ``us``, as the words of an option's name say; None for a number without a unit."""
    words = name.split("_")
    return next((unit for unit in ("bytes", "ms", "us") if unit in words), None)
