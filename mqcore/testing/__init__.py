"""A whole broker in one process, on virtual time, from one seed: model disk, threads, clock and network.

Importing this package is cheap: names load their modules when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqcore.testing._broker import run_beside_broker
    from mqcore.testing._choices import AllChoices, Choices, RandomChoices
    from mqcore.testing._clock import ModelClock
    from mqcore.testing._disk import ModelDisk
    from mqcore.testing._files import ModelFile
    from mqcore.testing._machine import Call
    from mqcore.testing._network import ModelNetwork, NetworkEvent
    from mqcore.testing._simulation import model_ports, run_simulation, seeded
    from mqcore.testing._sockets import ModelSocket
    from mqcore.testing._threads import ModelThreads

_MODULES = {
    "AllChoices": "_choices",
    "Call": "_machine",
    "Choices": "_choices",
    "ModelClock": "_clock",
    "ModelDisk": "_disk",
    "ModelFile": "_files",
    "ModelNetwork": "_network",
    "ModelSocket": "_sockets",
    "ModelThreads": "_threads",
    "NetworkEvent": "_network",
    "RandomChoices": "_choices",
    "model_ports": "_simulation",
    "run_beside_broker": "_broker",
    "run_simulation": "_simulation",
    "seeded": "_simulation",
}

__all__ = [
    "AllChoices",
    "Call",
    "Choices",
    "ModelClock",
    "ModelDisk",
    "ModelFile",
    "ModelNetwork",
    "ModelSocket",
    "ModelThreads",
    "NetworkEvent",
    "RandomChoices",
    "model_ports",
    "run_beside_broker",
    "run_simulation",
    "seeded",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
