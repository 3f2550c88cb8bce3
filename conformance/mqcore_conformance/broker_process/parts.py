"""Parts that no distribution brings: what one process registered, handed to another as data.

Only what can be imported there by its name can be handed over. Must not know which parts there are.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

from mqcore.registry import installed, register

__all__ = ["register_parts", "registered_parts"]

GROUPS = ("storage", "transports", "codecs")


def registered_parts() -> list[list[str]]:
    """Return group, name, module and class of each part that this process registered by a name of its module."""
    found = []
    for group in GROUPS:
        for item in installed(group):
            module, _, name = item.target.partition(":")
            if item.part is not None and getattr(sys.modules.get(module), name, None) is item.part:
                found.append([group, item.name, module, name])
    return found


def register_parts(parts: Sequence[Sequence[str]]) -> None:
    """Register what ``registered_parts`` returned in another process."""
    for group, name, module, class_name in parts:
        part: type[Any] = getattr(importlib.import_module(module), class_name)
        register(group, name, part)
