"""Values as JSON text, handed from a process in which a part ran to one that believes no part.

Plain values and containers, enumerations and attrs classes of mqcore and its suite; nothing in the text names anything
that is called but these, and nothing is imported for it. Knows nothing of pipes and processes.
"""

from __future__ import annotations

import base64
import enum
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import attrs

__all__ = ["HandoverError", "from_json", "to_json"]

PACKAGES = ("mqcore", "mqcore_conformance")
_PLAIN = (str, int, float, bool, type(None))


class HandoverError(ValueError):
    """A value cannot be handed over, or a text was not made by ``to_json``."""


def to_json(value: object) -> bytes:
    """Return ``value`` as one JSON text; ``HandoverError`` for what cannot be handed over."""
    try:
        return json.dumps(_encoded(value)).encode()
    except RecursionError:
        raise HandoverError("a value is nested too deeply") from None


def from_json(data: bytes | bytearray) -> Any:
    """Return the value of a text of ``to_json``; ``HandoverError`` for any other."""
    try:
        return _decoded(json.loads(data))
    except HandoverError:
        raise
    except Exception as error:  # hostile until checked: whatever it holds, it is refused
        raise HandoverError(f"no text of to_json: {type(error).__name__}") from None


def _encoded(value: object) -> Any:
    """Return JSON data: plain values and lists as they are, all else as an object of one key, its kind."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_encoded(one) for one in value]  # type: ignore[attr-defined]
    if kind in _WRITERS:
        return {kind.__name__: _WRITERS[kind](value)}
    name = f"{kind.__module__}:{kind.__qualname__}"
    if _class_named(name) is not kind:
        raise HandoverError(f"a value of {name} cannot be handed over")
    if isinstance(value, enum.Enum):
        return {"enum": [name, value.name]}
    known: Sequence[attrs.Attribute[Any]] = attrs.fields(cast(Any, kind))
    fields = {field.alias: _encoded(getattr(value, field.name)) for field in known if field.init}
    return {"attrs": [name, fields]}


def _items(value: Mapping[Any, Any]) -> list[list[Any]]:
    return [[_encoded(key), _encoded(one)] for key, one in value.items()]


def _text_of_bytes(value: bytes | bytearray) -> str:
    return base64.b64encode(value).decode()


_WRITERS: Mapping[type, Callable[[Any], Any]] = {
    tuple: lambda value: [_encoded(one) for one in value],
    set: lambda value: [_encoded(one) for one in value],
    frozenset: lambda value: [_encoded(one) for one in value],
    bytes: _text_of_bytes,
    bytearray: _text_of_bytes,
    dict: _items,
    Counter: _items,
}


def _decoded(data: Any) -> Any:
    if isinstance(data, list):
        return [_decoded(one) for one in data]
    if not isinstance(data, dict):
        return data
    ((kind, content),) = data.items()
    return _READERS[kind](content)


def _enum(content: Any) -> enum.Enum:
    name, member = content
    cls = _class_named(name)
    if cls is None or not issubclass(cls, enum.Enum):
        raise HandoverError("a value of a class that cannot be handed over")
    return cls[member]


def _attrs(content: Any) -> object:
    name, fields = content
    cls = _class_named(name)
    if cls is None or not attrs.has(cls):
        raise HandoverError("a value of a class that cannot be handed over")
    return cls(**{field: _decoded(one) for field, one in fields.items()})


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "tuple": lambda content: tuple(map(_decoded, content)),
    "set": lambda content: set(map(_decoded, content)),
    "frozenset": lambda content: frozenset(map(_decoded, content)),
    "bytes": base64.b64decode,
    "bytearray": lambda content: bytearray(base64.b64decode(content)),
    "dict": lambda content: {_decoded(key): _decoded(one) for key, one in content},
    "Counter": lambda content: Counter({_decoded(key): _decoded(one) for key, one in content}),
    "enum": _enum,
    "attrs": _attrs,
}


def _class_named(name: str) -> type | None:
    """Return the enumeration or attrs class ``module:name`` of one of the packages, when its module is loaded."""
    module, _, qualified = name.partition(":")
    if module.partition(".")[0] not in PACKAGES or "." in qualified:
        return None
    found = vars(sys.modules[module]).get(qualified) if module in sys.modules else None
    if not isinstance(found, type) or found.__module__ != module:
        return None
    return found if issubclass(found, enum.Enum) or attrs.has(found) else None
