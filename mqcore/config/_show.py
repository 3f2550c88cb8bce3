"""A configuration as flat keys and values, as TOML holds them: to be shown, compared, and read again.

Passwords in URLs are not shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from mqcore.config._model import BrokerConfig
from mqcore.registry import format_value

__all__ = ["HIDDEN", "changed_keys", "flat_keys", "keys_as_toml"]

HIDDEN = "***"
_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^@/\s]+@")
_SECRET_OPTION = re.compile(r"(?i)([?&][a-z_]*(?:password|secret|token)=)[^&\s]+")
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")


def flat_keys(config: BrokerConfig, *, all_keys: bool = True) -> dict[str, object]:
    """Return every key that has a value, by its dotted path; a list of tables is one value.

    ``all_keys`` False: only those that differ from their defaults.
    """
    found: dict[str, object] = {}
    _flatten(format_value("", config), "", found)
    if all_keys:
        return found
    plain: dict[str, object] = {}
    _flatten(format_value("", BrokerConfig(storage=config.storage)), "", plain)
    return {key: value for key, value in found.items() if key.startswith("storage.") or plain.get(key) != value}


def changed_keys(old: BrokerConfig, new: BrokerConfig) -> dict[str, tuple[object, object]]:
    """Return the keys of which the values differ, and both; None for one that is not set."""
    before, after = flat_keys(old), flat_keys(new)
    return {
        key: (before.get(key), after.get(key)) for key in sorted({*before, *after}) if before.get(key) != after.get(key)
    }


def keys_as_toml(keys: Mapping[str, object]) -> str:
    """Return ``keys`` as a TOML document of dotted keys, one a line."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items())


def _flatten(value: Any, path: str, found: dict[str, object]) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            # The options of a part stand beside its own keys, as they are written.
            inner = path if key == "options" and path else f"{path}.{_key(str(key))}" if path else _key(str(key))
            _flatten(item, inner, found)
    elif value is not None:
        found[path] = _plain(value)


def _plain(value: Any) -> Any:
    if attrs.has(type(value)):
        value = attrs.asdict(value)
    if isinstance(value, Mapping):
        table = {key: _plain(item) for key, item in value.items() if item is not None and key != "options"}
        return table | {key: _plain(item) for key, item in (value.get("options") or {}).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return _SECRET_OPTION.sub(rf"\1{HIDDEN}", _PASSWORD.sub(rf"\1{HIDDEN}@", value))
    return value


def _key(text: str) -> str:
    return text if _BARE.match(text) else _toml(text)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(key))} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    text = "".join(
        {"\\": "\\\\", '"': '\\"'}.get(each, each if ord(each) >= 32 and each != "\x7f" else f"\\u{ord(each):04x}")
        for each in str(value)
    )
    return f'"{text}"'
