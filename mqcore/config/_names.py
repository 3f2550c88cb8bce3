"""Rules of names, in one place: what a topic may be called. Must not know where the name came from."""

from __future__ import annotations

import re

from mqcore.errors import ConfigurationError
from mqcore.limits import Limits

__all__ = ["check_topic_name"]

_TOPIC = re.compile(r"[A-Za-z0-9._-]+\Z")
_SHOWN_MAX = 60
_DEFAULTS = Limits()


def check_topic_name(name: str, limits: Limits = _DEFAULTS) -> str:
    """Return ``name`` if a topic may be called so: characters ``A-Z a-z 0-9 . _ -``, not ``.`` or ``..``.

    Length: 1 to ``limits.topic_name_bytes_max``.
    Raises ``ConfigurationError`` naming it (cut to 60 characters, control characters escaped) and the rule.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"topic name {name!r} is not text")
    shown = ascii(name if len(name) <= _SHOWN_MAX else name[:_SHOWN_MAX] + "...")
    if not name:
        raise ConfigurationError("a topic's name cannot be empty")
    if len(name.encode("utf-8", "surrogatepass")) > limits.topic_name_bytes_max:
        raise ConfigurationError(f"topic name {shown} is longer than {limits.topic_name_bytes_max} bytes")
    if name in (".", ".."):
        raise ConfigurationError(f"topic name {shown} is not allowed: '.' and '..' mean directories")
    if not _TOPIC.match(name):
        raise ConfigurationError(f"topic name {shown} is not allowed: use letters A-Z a-z, digits, '.', '_' and '-'")
    return name
