"""Where a storage stands while it is compared with its model: on a model disk, or on the machine's own.

On the model disk a kill and a power cut are calls. On the machine's own disk each life between two kills is a process
of its own, and a power cut is nobody's to give.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from mqcore.abc import StorageBackend
from mqcore.ports import Ports, system_ports
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
from mqcore_conformance.children import run_apart
from mqcore_conformance.contract._checks import CheckFailed
from mqcore_conformance.contract._storage_steps import Kind, Operation

__all__ = ["Ground", "ModelGround", "SystemGround"]

VIRTUAL_SECONDS_MAX = 1_000.0


class Play(Protocol):
    """Does ``steps`` in one life: ``first`` is the number of the first, ``state`` what the life before returned.

    With ``killed`` the storage is left open at the end.
    """

    async def __call__(
        self, ground: Ground, steps: Sequence[Operation], first: int, state: object, /, *, killed: bool = False
    ) -> object:
        """Return what the next life has to know."""
        ...


class Ground(Protocol):
    """A place for one comparison."""

    url: str
    power_cuts: bool

    def ports(self) -> Ports:
        """Return ports for the next life of the storage."""
        ...

    def play(self, steps: Sequence[Operation], play: Play) -> None:
        """Play ``steps``, one life or several."""
        ...

    async def restart(self, kind: Kind, backend: StorageBackend) -> None:
        """End the storage in the way of ``kind`` and make the ground ready for its next life."""
        ...


class ModelGround:
    """A model disk on virtual time.

    ``folder`` is there on the model disk and on the machine's: who goes behind the ports does it in that folder.
    """

    power_cuts = True

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.url = url.replace("{dir}", str(folder / "data"))
        self.seed = seed
        places = [str(place) for place in (*reversed(folder.parents), folder)][1:]
        self.disk = ModelDisk(seeded(seed, "disk"), folders=places)

    def ports(self) -> Ports:
        """Return ports on the disk."""
        return model_ports(self.seed, self.disk)

    def play(self, steps: Sequence[Operation], play: Play) -> None:
        """Play them all in one simulation: a kill is a call."""
        run_simulation(play, self, steps, 0, None, seed=self.seed, seconds_max=VIRTUAL_SECONDS_MAX)

    async def restart(self, kind: Kind, backend: StorageBackend) -> None:
        """Close the storage, kill it or cut the power."""
        if kind == "reopen":
            await backend.aclose()
        else:
            if kind == "power-cut":
                self.disk.power_cut()
            else:
                self.disk.process_kill()
            with trio.CancelScope(shield=True), contextlib.suppress(Exception):  # its process is dead
                await backend.aclose()
        self.disk = self.disk.restart()


class SystemGround:
    """A folder on the machine's own disk, in real time."""

    power_cuts = False

    def __init__(self, url: str, folder: Path, seconds_max: float) -> None:
        self.url = url.replace("{dir}", str(folder / "data"))
        self.seconds_max = seconds_max

    def ports(self) -> Ports:
        """Return the machine's ports."""
        return system_ports()

    def play(self, steps: Sequence[Operation], play: Play) -> None:
        """Play each life in a process that is killed at its end, the last one here."""
        state: object = None
        begin = 0
        for end in [number for number, step in enumerate(steps) if step.kind == "kill"]:
            outcome = run_apart(
                partial(_live, self, steps[begin:end], begin, state, play), seconds_max=self.seconds_max
            )
            if outcome.problem:
                raise CheckFailed(outcome.problem)
            assert outcome.value is not None
            wrong, state = outcome.value
            if wrong:
                raise CheckFailed(wrong)
            begin = end + 1
        trio.run(play, self, steps[begin:], begin, state)

    async def restart(self, kind: Kind, backend: StorageBackend) -> None:
        """Close the storage."""
        await backend.aclose()


def _live(
    ground: SystemGround, steps: Sequence[Operation], begin: int, state: object, play: Play
) -> tuple[str, object]:
    try:
        return "", trio.run(partial(play, ground, steps, begin, state, killed=True))
    except CheckFailed as error:
        return str(error), None
