"""Options: one attrs class filled from a URL's query, a table, flags and environment alike, through cattrs.

A field's unit is read from its name (``_bytes``, ``_ms``, ``_us``), text is accepted wherever it can be read, an
unknown key is an error that lists the keys. Must not know which part or file the options belong to.
"""

from __future__ import annotations

import difflib
import enum
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import attrs
import cattrs

from mqcore.abc import Secret
from mqcore.errors import ConfigurationError, RefusedError
from mqcore.guarantees.levels import Level
from mqcore.guarantees.policies import (
    AsyncFlush,
    AsyncReplication,
    FlushPolicy,
    NoFlush,
    NoReplication,
    ReplicationPolicy,
    SyncFlush,
    SyncReplication,
)
from mqcore.guarantees.policy_text import (
    FLUSH_FORMS,
    REPLICATION_FORMS,
    parse_flush,
    parse_replication,
)
from mqcore.registry._option_text import unit_of
from mqcore.units import (
    parse_bytes,
    parse_count,
    parse_duration_ms,
    parse_duration_us,
)

__all__ = [
    "OptionField",
    "Source",
    "canonical_keys",
    "merge_options",
    "option_fields",
    "structure_options",
]

T = TypeVar("T")
Source = tuple[str, Mapping[str, object]]
"""Where options come from, for messages ("broker.toml: storage"), and the options."""

_FLUSH_POLICIES = {"sync": SyncFlush, "async": AsyncFlush, "none": NoFlush}
_REPLICATION_POLICIES = {"sync": SyncReplication, "async": AsyncReplication, "none": NoReplication}
_TIME_SUFFIXES = ("_ms", "_us")


class _Problem(Exception):
    """What is wrong at ``path`` of the value being structured (dotted, may be empty)."""

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.path = path

    def below(self, name: str) -> _Problem:
        """Return the problem as seen from the mapping that holds ``name``."""
        joint = "" if not self.path or self.path.startswith("[") else "."
        return _Problem(self.text, f"{name}{joint}{self.path}")


@attrs.frozen(kw_only=True)
class OptionField:
    """One option, for tables in the documentation and for the commented example.

    ``none_writable``: the word "none" unsets it (a number that may be left out).
    """

    name: str
    default: object
    required: bool
    allowed: str
    help: str
    none_writable: bool = False


def structure_options(cls: type[T], mapping: Mapping[str, object], where: str | Callable[[str], str]) -> T:
    """Return ``cls`` (an attrs class) filled from ``mapping``.

    ``where`` names the source in errors, or is asked with the dotted path of the key at fault. Raises
    ``ConfigurationError`` naming the source, the key, the value and what is allowed.
    """
    try:
        result: T = _structure_class(mapping, cls)
    except _Problem as problem:
        raise _error(where if isinstance(where, str) else where(problem.path), problem) from None
    return result


def merge_options(cls: type[T], sources: Sequence[Source]) -> T:
    """Return ``cls`` filled from several sources of equal rank.

    An option that two sources give with different values is an error that names both. Raises as ``structure_options``.
    """
    values: dict[str, object] = {}
    givers: dict[str, tuple[str, object]] = {}
    for where, mapping in sources:
        try:
            structured = _structure_fields(cls, mapping)
        except _Problem as problem:
            raise _error(where, problem) from None
        for key, (name, value) in structured.items():
            if name in values and values[name] != value:
                other, raw = givers[name]
                raise ConfigurationError(
                    f"{key} is given twice: {raw!r} by {other}, {mapping[key]!r} by {where}; keep one of them"
                )
            values[name] = value
            givers.setdefault(name, (where, mapping[key]))
    try:
        result: T = _construct(cls, values)
    except _Problem as problem:
        raise _error(" and ".join(source for source, _ in sources), problem) from None
    return result


def option_fields(cls: Any) -> list[OptionField]:
    """Return the options of an attrs class in order; ``help`` comes from the fields' metadata."""
    hints = _hints_of(cls)
    fields: list[OptionField] = []
    for field in attrs.fields(cls):
        if not field.init:
            continue
        default: Any = field.default
        if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            default = None if default.takes_self else default.factory()
        fields.append(
            OptionField(
                name=field.name,
                default=None if default is attrs.NOTHING else default,
                required=field.default is attrs.NOTHING,
                allowed=_allowed(field.name, hints[field.name]),
                help=str(field.metadata.get("help", "")),
                none_writable=_is_optional_number(hints[field.name]),
            )
        )
    return fields


def canonical_keys(cls: type[Any], mapping: Mapping[str, object]) -> dict[str, object]:
    """Return ``mapping`` with keys that leave out their unit under the field's own name, where the value states it."""
    keys = _key_names(cls)
    result: dict[str, object] = {}
    for key, raw in mapping.items():
        field, bare_allowed = keys.get(key, (None, True))
        states_unit = isinstance(raw, str) and raw.strip()[-1:].isalpha()
        name = field.name if field is not None and not bare_allowed and states_unit else key
        if name in result:
            raise ConfigurationError(f"{name} is given twice, with and without its unit in the key")
        result[name] = raw
    return result


def _error(where: str, problem: _Problem) -> ConfigurationError:
    at = f"{where}: {problem.path}" if problem.path else where
    return ConfigurationError(f"{at}: {problem.text}")


def _key_names(cls: type[Any]) -> dict[str, tuple[attrs.Attribute[Any], bool]]:
    """Return the accepted keys: each field, and one in ms or us without its unit (its value must then state one)."""
    fields = [field for field in attrs.fields(cls) if field.init]
    keys = {field.name: (field, True) for field in fields}
    for field in fields:
        for suffix in _TIME_SUFFIXES:
            if field.name.endswith(suffix):
                keys.setdefault(field.name.removesuffix(suffix), (field, False))
    return keys


_hints_of = functools.lru_cache(maxsize=256)(typing.get_type_hints)


def _structure_fields(cls: type[Any], mapping: object) -> dict[str, tuple[str, object]]:
    """Return key -> (field, structured value) for what ``mapping`` gives."""
    if not isinstance(mapping, Mapping):
        raise _Problem(f"{mapping!r} is not a table of options")
    keys = _key_names(cls)
    hints = _hints_of(cls)  # type: ignore[arg-type]
    result: dict[str, tuple[str, object]] = {}
    for key, raw in mapping.items():
        if key not in keys:
            raise _unknown_key(str(key), [field.name for field in attrs.fields(cls) if field.init])
        field, bare_allowed = keys[key]
        if any(field.name == name for name, _ in result.values()):
            raise _Problem(f"given twice, as {field.name} and {field.name.rpartition('_')[0]}", key)
        try:
            if not bare_allowed and not (isinstance(raw, str) and raw.strip()[-1:].isalpha()):
                raise _Problem(f'{raw!r} needs its unit, as in "500 ms", or the key {field.name}')
            result[key] = (field.name, _structure_field(field, hints[field.name], raw))
        except _Problem as problem:
            raise problem.below(key) from None
    return result


def _unknown_key(key: str, allowed: Sequence[str]) -> _Problem:
    close = difflib.get_close_matches(key, allowed, 1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    return _Problem(f"unknown key{guess}; allowed: {', '.join(allowed) or 'none'}", key)


def _structure_field(field: attrs.Attribute[Any], hint: Any, raw: object) -> object:
    bare = _without_none(hint)
    if bare is int:
        if _is_optional_number(hint) and (raw is None or (isinstance(raw, str) and raw.strip() == "none")):
            return None
        read: Callable[[Any], int] = {"bytes": parse_bytes, "ms": parse_duration_ms, "us": parse_duration_us}.get(
            unit_of(field.name) or "", parse_count
        )
        return _reading(read, raw)
    if bare is str and "\0" in str(raw):
        raise _Problem(f"{raw!r} has a NUL byte in it, which no path, name or address can have: leave it out")
    return _structure(hint, raw)


def _structure(hint: Any, raw: object) -> object:
    if _without_none(hint) is Secret:
        if raw is None or isinstance(raw, Secret):
            return raw
        raise _Problem("it has to be an mqcore.abc.Secret, which nothing shows")  # and so not what was given
    try:
        return _converter.structure(raw, hint)
    except _Problem:
        raise
    except (ValueError, TypeError, cattrs.BaseValidationError) as error:
        raise _Problem(f"{raw!r} cannot be used: {error}") from None


def _reading(read: Callable[[Any], T], raw: object) -> T:
    try:
        return read(raw)
    except ValueError as error:
        raise _Problem(str(error)) from None


def _construct(cls: Any, values: Mapping[str, object]) -> Any:
    missing = [f.name for f in attrs.fields(cls) if f.init and f.default is attrs.NOTHING and f.name not in values]
    if missing:
        raise _Problem(f"{', '.join(missing)} must be given")
    try:
        return cls(**{_argument_of(cls, name): value for name, value in values.items()})
    except RefusedError:
        raise
    except (ConfigurationError, ValueError, TypeError) as error:
        raise _Problem(str(error.args[0]) if error.args else str(error)) from None


def _argument_of(cls: type[Any], name: str) -> str:
    alias = getattr(attrs.fields_dict(cls)[name], "alias", None)
    return alias or name


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        if len(rest) == 1:
            return rest[0]
    return hint


def _is_optional_number(hint: Any) -> bool:
    bare = _without_none(hint)
    return bare is int and bare is not hint


def _arms(hint: Any) -> set[Any]:
    return {arm for arm in typing.get_args(hint) if arm is not type(None)}


def _is_union_of(policy: Any) -> Callable[[Any], bool]:
    wanted = _arms(policy)
    return lambda hint: typing.get_origin(hint) in (typing.Union, types.UnionType) and _arms(hint) == wanted


def _structure_class(raw: object, cls: Any) -> Any:
    if isinstance(raw, cls):
        return raw
    return _construct(cls, dict(_structure_fields(cls, raw).values()))


def _structure_policy(
    parse: Callable[[str], Any], classes: Mapping[str, type[Any]], forms: str
) -> Callable[..., object]:
    def structure(raw: object, hint: Any) -> object:
        if raw is None and type(None) in typing.get_args(hint):
            return None
        if isinstance(raw, tuple(classes.values())):
            return raw
        if isinstance(raw, str):
            return _reading(parse, raw)
        if not isinstance(raw, Mapping):
            raise _Problem(f"{raw!r} is no policy; one of {forms}")
        name = raw.get("policy")
        if name not in classes:
            raise _Problem(f"{name!r} is no policy; one of {', '.join(classes)}", "policy")
        return _structure_class({key: value for key, value in raw.items() if key != "policy"}, classes[str(name)])

    return structure


def _structure_bool(raw: object, _: Any) -> bool:
    if isinstance(raw, bool):
        return raw
    if raw in ("true", "false"):
        return raw == "true"
    raise _Problem(f"{raw!r} is neither true nor false")


def _structure_float(raw: object, _: Any) -> float:
    try:
        number = float(raw) if isinstance(raw, str | int | float) and not isinstance(raw, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _Problem(f"{raw!r} is not a number")
    return number


def _structure_str(raw: object, _: Any) -> str:
    if not isinstance(raw, str):
        raise _Problem(f"{raw!r} is not text")
    return raw


def _structure_choice(raw: object, hint: Any) -> object:
    choices = typing.get_args(hint)
    for choice in choices:
        if raw == choice or (isinstance(raw, str) and raw == str(choice)):
            return choice
    raise _Problem(f"{raw!r} is not allowed; one of {', '.join(map(str, choices))}")


def _structure_enum(raw: object, cls: type[enum.Enum]) -> enum.Enum:
    if isinstance(raw, cls):
        return raw
    try:
        return cls(raw)
    except ValueError:
        allowed = ", ".join(str(member.value) for member in cls)
        raise _Problem(f"{raw!r} is not allowed; one of {allowed}") from None


def _structure_level(raw: object, _: Any) -> Level:
    return raw if isinstance(raw, Level) else _reading(Level.parse, _structure_str(raw, str))


def _items(raw: object) -> list[object]:
    if isinstance(raw, str):
        return [item.strip() for item in raw.split(",") if item.strip()]
    if isinstance(raw, Iterable) and not isinstance(raw, Mapping):
        return list(raw)
    raise _Problem(f"{raw!r} is not a list")


def _structure_tuple(raw: object, hint: Any) -> object:
    arguments = [argument for argument in typing.get_args(hint) if argument is not Ellipsis]
    result = []
    for index, item in enumerate(_items(raw)):
        try:
            result.append(_structure(arguments[0], item))
        except _Problem as problem:
            raise problem.below(f"[{index}]") from None
    return (typing.get_origin(hint) or tuple)(result)


def _structure_mapping(raw: object, hint: Any) -> dict[str, object]:
    if not isinstance(raw, Mapping):
        raise _Problem(f"{raw!r} is not a table")
    value_hint = typing.get_args(hint)[1]
    result = {}
    for key, item in raw.items():
        try:
            result[str(key)] = _structure(value_hint, item)
        except _Problem as problem:
            raise problem.below(str(key)) from None
    return result


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False)

    def origin_in(*origins: Any) -> Callable[[Any], bool]:
        return lambda hint: typing.get_origin(hint) in origins

    converter.register_structure_hook_func(attrs.has, _structure_class)
    converter.register_structure_hook_func(
        _is_union_of(FlushPolicy), _structure_policy(parse_flush, _FLUSH_POLICIES, FLUSH_FORMS)
    )
    converter.register_structure_hook_func(
        _is_union_of(ReplicationPolicy),
        _structure_policy(parse_replication, _REPLICATION_POLICIES, REPLICATION_FORMS),
    )
    converter.register_structure_hook_func(origin_in(tuple, list, frozenset), _structure_tuple)
    converter.register_structure_hook_func(origin_in(dict, Mapping), _structure_mapping)
    converter.register_structure_hook_func(origin_in(Literal), _structure_choice)
    converter.register_structure_hook_func(
        lambda hint: isinstance(hint, type) and issubclass(hint, enum.Enum) and hint is not Level, _structure_enum
    )
    converter.register_structure_hook(Level, _structure_level)
    converter.register_structure_hook(bool, _structure_bool)
    converter.register_structure_hook(int, lambda raw, _: _reading(parse_count, raw))
    converter.register_structure_hook(float, _structure_float)
    converter.register_structure_hook(str, _structure_str)
    # options of a part travel through a configuration as they were written
    converter.register_structure_hook_func(lambda hint: hint is object, lambda raw, _: raw)
    return converter


def _allowed(name: str, hint: Any) -> str:
    """Return in words what an option accepts."""
    bare = _without_none(hint)
    words = {bool: "true, false", str: "text", float: "a number", int: "a whole number"}.get(bare)
    unit = unit_of(name)
    if bare is int and unit:
        words = {"bytes": 'bytes, as in "2 MB"', "ms": 'a time, as in "500 ms"', "us": 'a time, as in "200 us"'}[unit]
    elif _is_union_of(FlushPolicy)(hint):
        words = FLUSH_FORMS
    elif _is_union_of(ReplicationPolicy)(hint):
        words = REPLICATION_FORMS
    elif typing.get_origin(bare) is Literal:
        words = ", ".join(map(str, typing.get_args(bare)))
    elif bare is Level:
        words = ", ".join(level.label for level in Level)
    elif isinstance(bare, type) and issubclass(bare, enum.Enum):
        words = ", ".join(str(member.value) for member in bare)
    elif typing.get_origin(bare) in (tuple, list, frozenset):
        words = f"a list: {_allowed('', typing.get_args(bare)[0])}"
    elif attrs.has(bare) or typing.get_origin(bare) in (dict, Mapping):
        words = "a table"
    return f"{words or 'text'}{', none' if _is_optional_number(hint) else ''}"


_converter = _make_converter()
