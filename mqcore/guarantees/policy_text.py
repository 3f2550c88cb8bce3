"""Policies as text, in both directions: ``sync``, ``none``, ``async(max_bytes=1 MB, max_interval=200 ms)``.

The same words are keys of the tables ``[flush]`` and ``[replication]``. Must not know where the text comes from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

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
from mqcore.units import (
    format_bytes,
    format_duration_ms,
    parse_bytes,
    parse_count,
    parse_duration_ms,
)

__all__ = [
    "FLUSH_FORMS",
    "REPLICATION_FORMS",
    "format_flush",
    "format_replication",
    "parse_flush",
    "parse_replication",
]

FLUSH_FORMS = "sync, none, async, async(max_messages=1000, max_bytes=1 MB, max_interval=200 ms)"
REPLICATION_FORMS = (
    "none, async(max_delay=500 ms, on_exceeded=report|throttle, on_missing=block|reject), "
    "sync(copies=2, level=memory|page-cache|disk|mirror, on_missing=block|reject)"
)

P = TypeVar("P")

_FORM = re.compile(r"\s*([a-z-]+)\s*(?:\((.*)\))?\s*\Z", re.DOTALL)
_TEXT_MAX = 512

_Readers = Mapping[str, tuple[str, Callable[[str], object]]]
_ASYNC_FLUSH: _Readers = {
    "max_messages": ("max_messages", parse_count),
    "max_bytes": ("max_bytes", parse_bytes),
    "max_interval": ("max_interval_ms", parse_duration_ms),
}
_ASYNC_REPLICATION: _Readers = {
    "max_delay": ("max_delay_ms", parse_duration_ms),
    "on_exceeded": ("on_exceeded", str),
    "on_missing": ("on_missing", str),
}
_SYNC_REPLICATION: _Readers = {
    "copies": ("copies", parse_count),
    "level": ("level", Level.parse),
    "on_missing": ("on_missing", str),
}
_FLUSH: Mapping[str, tuple[type[FlushPolicy], _Readers]] = {
    "sync": (SyncFlush, {}),
    "none": (NoFlush, {}),
    "async": (AsyncFlush, _ASYNC_FLUSH),
}
_REPLICATION: Mapping[str, tuple[type[ReplicationPolicy], _Readers]] = {
    "none": (NoReplication, {}),
    "async": (AsyncReplication, _ASYNC_REPLICATION),
    "sync": (SyncReplication, _SYNC_REPLICATION),
}


def parse_flush(text: str) -> FlushPolicy:
    """Return the flush policy that ``text`` writes; ``ValueError`` names the value and the forms.

    ``async`` alone has the default bounds; where a bound is given, those left out are unbounded.
    """
    policy, arguments = _read(text, _FLUSH, FLUSH_FORMS, "flush policy")
    return _make(policy, arguments, text, FLUSH_FORMS)


def parse_replication(text: str) -> ReplicationPolicy:
    """Return the replication policy that ``text`` writes; ``ValueError`` names the value and the forms."""
    policy, arguments = _read(text, _REPLICATION, REPLICATION_FORMS, "replication policy")
    return _make(policy, arguments, text, REPLICATION_FORMS)


def format_flush(policy: FlushPolicy) -> str:
    """Return ``policy`` as text that ``parse_flush`` reads back."""
    if isinstance(policy, SyncFlush):
        return "sync"
    if isinstance(policy, NoFlush):
        return "none"
    bounds = []
    if policy.max_messages is not None:
        bounds.append(f"max_messages={policy.max_messages}")
    if policy.max_bytes is not None:
        bounds.append(f"max_bytes={format_bytes(policy.max_bytes)}")
    if policy.max_interval_ms is not None:
        bounds.append(f"max_interval={format_duration_ms(policy.max_interval_ms)}")
    return f"async({', '.join(bounds)})"


def format_replication(policy: ReplicationPolicy) -> str:
    """Return ``policy`` as text that ``parse_replication`` reads back."""
    if isinstance(policy, NoReplication):
        return "none"
    if isinstance(policy, AsyncReplication):
        missing = f", on_missing={policy.on_missing}" if policy.on_exceeded == "throttle" else ""
        return f"async(max_delay={format_duration_ms(policy.max_delay_ms)}, on_exceeded={policy.on_exceeded}{missing})"
    return f"sync(copies={policy.copies}, level={policy.level.label}, on_missing={policy.on_missing})"


def _read(
    text: str, policies: Mapping[str, tuple[type[P], _Readers]], forms: str, what: str
) -> tuple[type[P], dict[str, object]]:
    match = _FORM.match(text) if len(text) <= _TEXT_MAX else None
    if match is None or match[1] not in policies:
        raise ValueError(f"unknown {what} {text[:_TEXT_MAX]!r}; one of {forms}")
    policy, readers = policies[match[1]]
    arguments: dict[str, object] = {}
    for item in (match[2] or "").split(",") if (match[2] or "").strip() else ():
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not value or name not in readers:
            known = ", ".join(readers) or "no arguments"
            raise ValueError(f"{text!r}: {item.strip()!r} is not understood; {match[1]} takes {known}")
        field, reader = readers[name]
        if field in arguments:
            raise ValueError(f"{text!r}: {name} is given twice")
        try:
            arguments[field] = reader(value)
        except ValueError as error:
            raise ValueError(f"{text!r}: {name}: {error}") from None
    return policy, arguments


def _make(policy: type[P], arguments: Mapping[str, object], text: str, forms: str) -> P:
    try:
        return policy(**arguments)
    except ValueError as error:
        reason = str(error.args[0]) if error.args else str(error)
        raise ValueError(f"{text!r}: {reason}; the forms are {forms}") from None
