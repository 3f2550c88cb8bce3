"""Looks a part up by group and name: entry points of installed distributions, and what this process registered.

Entry points are asked for by name, only when somebody asks for that name. Must not know what a part's options are.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import attrs

from mqcore.abc import (
    Assignor,
    Authenticator,
    Authorizer,
    Codec,
    Command,
    Coordinator,
    Filter,
    Gateway,
    OffsetStore,
    StorageBackend,
    Transport,
)
from mqcore.errors import ConfigurationError, PluginInvalidError, PluginNotFoundError

__all__ = ["GROUPS", "Installed", "check_known", "extra_hint", "find", "installed", "register", "unregister"]

GROUPS: Mapping[str, type[Any]] = MappingProxyType(
    {
        "storage": StorageBackend,
        "transports": Transport,
        "coordinators": Coordinator,
        "offset_stores": OffsetStore,
        "authenticators": Authenticator,
        "authorizers": Authorizer,
        "codecs": Codec,
        "assignors": Assignor,
        "filters": Filter,
        "gateways": Gateway,
        "commands": Command,
    }
)
"""Groups and their contracts; the entry-point group is ``mqcore.`` and this name."""

_WORDS = {
    "storage": "storage backend",
    "transports": "transport",
    "coordinators": "coordinator",
    "offset_stores": "offset store",
    "authenticators": "authenticator",
    "authorizers": "authorizer",
    "codecs": "codec",
    "assignors": "assignor",
    "filters": "filter",
    "gateways": "gateway",
    "commands": "command",
}
_EXTRAS = {
    ("codecs", "zstandard"): "zstandard",
    ("codecs", "lz4"): "lz4",
    ("gateways", "http"): "http",
    ("coordinators", "etcd"): "etcd",
    ("authenticators", "scram-sha-256"): "scram",
    ("coordinators", "postgres"): "postgres",
    ("coordinators", "zookeeper"): "zookeeper",
    ("offset_stores", "postgres"): "postgres",
    ("offset_stores", "zookeeper"): "zookeeper",
}
_PREFIX = "mqcore."

_registered: dict[tuple[str, str], type[Any]] = {}
_read: tuple[object, dict[str, list[Installed]]] = ((), {})
"""What the metadata of all distributions said, by group, and the state of the search path when they were read."""


@attrs.frozen
class Installed:
    """One part that can be asked for: where it comes from, before it is loaded.

    ``distribution`` and ``version`` are empty for a part that this process registered; ``target`` is ``module:Class``.
    """

    group: str
    name: str
    target: str
    distribution: str = ""
    version: str = ""
    entry_point: importlib.metadata.EntryPoint | None = attrs.field(default=None, eq=False, repr=False)
    part: type[Any] | None = attrs.field(default=None, eq=False, repr=False)

    @property
    def origin(self) -> str:
        """Where the part comes from, for people: a distribution, or this process."""
        return (
            f"{self.distribution} {self.version} ({self.target})"
            if self.distribution
            else f"this process ({self.target})"
        )


def register(group: str, name: str, part: type[Any]) -> None:
    """Make ``part`` known as ``name`` in ``group`` within this process, beside the installed ones.

    Registering the same class again changes nothing. Raises ``PluginInvalidError`` when the name is taken by another
    class of this process (a clash with an installed part is found by ``find``), ``ConfigurationError`` for an unknown
    group.
    """
    key = (_group(group), name)
    taken = _registered.setdefault(key, part)
    if taken is not part:
        raise PluginInvalidError(
            f"two {_WORDS[key[0]]}s are called {name!r}: {_target(taken)} and {_target(part)}, both of this process; "
            "register one of them under another name"
        )


def unregister(group: str, name: str) -> None:
    """Forget what ``register`` was told. No error when there is nothing."""
    _registered.pop((_group(group), name), None)


def installed(group: str, name: str | None = None) -> list[Installed]:
    """Return what is installed or registered in ``group`` (only ``name`` when given), by name; nothing is imported."""
    group = _group(group)
    found = [item for item in _from_metadata(group) if name in (None, item.name)]
    found += [
        Installed(group, own_name, _target(part), part=part)
        for (own_group, own_name), part in _registered.items()
        if own_group == group and name in (None, own_name)
    ]
    return sorted(found, key=lambda item: (item.name, item.distribution))


def _from_metadata(group: str) -> Sequence[Installed]:
    """Return the parts of installed distributions; read again when the search path has changed.

    Reading all metadata takes milliseconds, and every connect asks for its transport.
    """
    global _read
    state = _search_path_state()
    if _read[0] != state:
        _read = (state, {})
    items = _read[1].get(group)
    if items is None:
        items = _read[1][group] = [
            Installed(
                group,
                point.name,
                point.value,
                point.dist.name if point.dist else "an unnamed distribution",
                point.dist.version if point.dist else "",
                entry_point=point,
            )
            for point in importlib.metadata.entry_points(group=_PREFIX + group)
        ]
    return items


def _search_path_state() -> tuple[tuple[str, int, int], ...]:
    """Return what changes when a distribution is installed or removed: each folder of the path, and its last change."""
    state = []
    for folder in sys.path:
        try:
            facts = os.stat(folder or ".")
        except OSError:
            continue
        state.append((folder, facts.st_ino, facts.st_mtime_ns))
    return tuple(state)


def find(group: str, name: str) -> type[Any]:
    """Return the class called ``name`` in ``group``, one of ``GROUPS``.

    Raises ``PluginNotFoundError`` (lists what is installed, names the extra that brings a part of the project's own),
    ``PluginInvalidError`` (two parts of one name, an import that fails, a class that misses methods of its contract).
    """
    group = _group(group)
    check_known(group, name)
    candidates = installed(group, name)
    if len(candidates) > 1:
        origins = " and ".join(item.origin for item in candidates)
        raise PluginInvalidError(
            f"two {_WORDS[group]}s are called {name!r}: {origins}; uninstall or rename one of them"
        )
    return load(candidates[0])


def check_known(group: str, name: str, *, also: Sequence[str] = ()) -> None:
    """Raise ``PluginNotFoundError`` for a part that is not installed in ``group``; nothing is imported.

    ``also``: names that the caller takes besides.
    """
    group = _group(group)
    if installed(group, name):
        return
    known = sorted({*(item.name for item in installed(group)), *also})
    close = difflib.get_close_matches(name, known, 1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    text = f"no {_WORDS[group]} is called {name!r}{guess}; installed: {', '.join(known) or 'none'}"
    raise PluginNotFoundError(text + extra_hint(group, name))


def load(item: Installed) -> type[Any]:
    """Return the class of one installed part, imported and held against its contract. Raises as ``find``."""
    part: Any = item.part
    if item.entry_point is not None:
        try:
            part = item.entry_point.load()
        except Exception as error:
            hint = extra_hint(item.group, item.name) if isinstance(error, ImportError) else ""
            raise PluginInvalidError(
                f"{_WORDS[item.group]} {item.name!r} of {item.origin} cannot be imported: {one_line(error)}{hint}"
            ) from error
    _check_class(item, part)
    return part  # type: ignore[no-any-return]


def extra_hint(group: str, name: str) -> str:
    """Return the words that name the extra which brings a part of the project's own, or nothing."""
    extra = _EXTRAS.get((group, name))
    return f"; it comes with the extra: pip install 'mqcore[{extra}]'" if extra else ""


def one_line(error: BaseException) -> str:
    """Return ``error`` as one line: its class and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def word_of(group: str) -> str:
    """Return what a part of ``group`` is called in messages."""
    return _WORDS[group]


def _group(group: str) -> str:
    short = group.removeprefix(_PREFIX)
    if short not in GROUPS:
        raise ConfigurationError(f"unknown plug-in group {group!r}; one of {', '.join(GROUPS)}")
    return short


def _target(part: type[Any]) -> str:
    return f"{getattr(part, '__module__', '?')}:{getattr(part, '__qualname__', repr(part))}"


def _check_class(item: Installed, part: object) -> None:
    contract = GROUPS[item.group]
    who = f"{_WORDS[item.group]} {item.name!r} of {item.origin}"
    if not isinstance(part, type) or not issubclass(part, contract):
        raise PluginInvalidError(f"{who} is no class derived from mqcore.abc.{contract.__name__}")
    missing = sorted(getattr(part, "__abstractmethods__", ()))
    if missing:
        raise PluginInvalidError(f"{who} does not define {', '.join(missing)}, which its contract asks for")
    for attribute in contract.__annotations__:
        if attribute in ("options_class", "name", "tag") and not hasattr(part, attribute):
            raise PluginInvalidError(
                f"{who} does not define the class attribute {attribute}, which its contract asks for"
            )
    options = getattr(part, "options_class", None)
    if options is not None and not attrs.has(options):
        raise PluginInvalidError(f"{who}: options_class must be an attrs class, not {options!r}")
