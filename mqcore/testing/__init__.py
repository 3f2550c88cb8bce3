"""A whole broker in one process, on virtual time, from one seed: model disk, threads, clock and network.

Importing this package is cheap: names load their modules when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqcore.testing._choices import AllChoices, Choices, RandomChoices
    from mqcore.testing._disk import ModelDisk
    from mqcore.testing._machine import Call

_MODULES = {
    "AllChoices": "_choices",
    "Call": "_machine",
    "Choices": "_choices",
    "ModelDisk": "_disk",
    "RandomChoices": "_choices",
}

__all__ = ["AllChoices", "Call", "Choices", "ModelDisk", "RandomChoices"]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
