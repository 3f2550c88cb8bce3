"""A whole broker in one process, on virtual time, from one seed: model disk, threads, clock and network.

- ``run_simulation(async_function, *args, seed=...)`` runs on virtual time; the same seed gives the same run anywhere.
- ``model_ports(seed, disk)`` gives ``Ports`` on a ``ModelDisk``, with ``ModelThreads`` and a ``ModelClock``.
- ``ModelNetwork.installed()`` puts model sockets under Trio's, and so under every transport that asks Trio for its own.
- ``PassThroughStorage``, ``PassThroughFileSystem`` and ``PassThroughCoordinator`` change nothing: faulty ones derive
  from them. ``FaultyCoordinator`` is one: it loses answers, delays writes and cuts one client off.
- ``check_authenticator`` and ``check_authorizer`` hold such a part to its contract.
- ``reserve_ports(count)`` finds ports for servers in processes of their own, and keeps others off them;
  ``release_ports(ports)`` gives them back.
- ``run_beside_broker(test, seed=...)`` opens a broker on all of these and runs ``await test(broker)`` beside it.

The pytest plug-in (``mqcore_pytest``, loaded by itself) has two fixtures. ``mqcore_run`` is ``run_simulation``.
``mqcore_broker`` is an open broker on memory storage, on virtual time and without a port, for tests that are
``async def``; ``broker.urls[0]`` is what a client connects to::

    async def test_mine(mqcore_broker):
        async with mqcore.connect(mqcore_broker.urls[0]) as client:
            ...

    @pytest.mark.mqcore_broker(seed=7, flush="none")        # seed, and arguments of mqcore.open_broker
    async def test_other(mqcore_broker): ...

Importing this package is cheap: names load their modules when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mqcore.testing._access import check_authenticator, check_authorizer
    from mqcore.testing._broker import run_beside_broker
    from mqcore.testing._choices import AllChoices, Choices, RandomChoices
    from mqcore.testing._clock import ModelClock
    from mqcore.testing._coordinators import FaultyCoordinator, PassThroughCoordinator, WriteFault
    from mqcore.testing._datagrams import DatagramWay, ModelDatagramSocket
    from mqcore.testing._disk import ModelDisk
    from mqcore.testing._files import ModelFile
    from mqcore.testing._machine import DiskCall
    from mqcore.testing._network import ModelNetwork, NetworkEvent
    from mqcore.testing._pass_through_files import PassThroughFile, PassThroughFileSystem
    from mqcore.testing._pass_through_storage import PassThroughLog, PassThroughStorage
    from mqcore.testing._ports import release_ports, reserve_ports
    from mqcore.testing._simulation import model_ports, run_simulation, seeded
    from mqcore.testing._sockets import ModelSocket
    from mqcore.testing._threads import ModelThreads

_MODULES = {
    "AllChoices": "_choices",
    "DatagramWay": "_datagrams",
    "DiskCall": "_machine",
    "Choices": "_choices",
    "FaultyCoordinator": "_coordinators",
    "ModelClock": "_clock",
    "ModelDatagramSocket": "_datagrams",
    "ModelDisk": "_disk",
    "ModelFile": "_files",
    "ModelNetwork": "_network",
    "ModelSocket": "_sockets",
    "ModelThreads": "_threads",
    "NetworkEvent": "_network",
    "PassThroughCoordinator": "_coordinators",
    "PassThroughFile": "_pass_through_files",
    "PassThroughFileSystem": "_pass_through_files",
    "PassThroughLog": "_pass_through_storage",
    "PassThroughStorage": "_pass_through_storage",
    "RandomChoices": "_choices",
    "WriteFault": "_coordinators",
    "check_authenticator": "_access",
    "check_authorizer": "_access",
    "model_ports": "_simulation",
    "release_ports": "_ports",
    "reserve_ports": "_ports",
    "run_beside_broker": "_broker",
    "run_simulation": "_simulation",
    "seeded": "_simulation",
}

__all__ = [
    "AllChoices",
    "DatagramWay",
    "DiskCall",
    "Choices",
    "FaultyCoordinator",
    "ModelClock",
    "ModelDatagramSocket",
    "ModelDisk",
    "ModelFile",
    "ModelNetwork",
    "ModelSocket",
    "ModelThreads",
    "NetworkEvent",
    "PassThroughCoordinator",
    "PassThroughFile",
    "PassThroughFileSystem",
    "PassThroughLog",
    "PassThroughStorage",
    "RandomChoices",
    "WriteFault",
    "check_authenticator",
    "check_authorizer",
    "model_ports",
    "release_ports",
    "reserve_ports",
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
