"""Names of users and of tokens."""

from __future__ import annotations

import re

__all__ = ["check_user_name"]

_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")


def check_user_name(name: str) -> None:
    """Raise ``ValueError`` for a name that cannot stand in a file of names, or in a rule."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-' and '@'")
