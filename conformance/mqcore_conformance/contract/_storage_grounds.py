"""Where a storage stands while it is compared with its model: on a model disk, or on the machine's own.

On the model disk a kill and a power cut are calls. On the machine's own disk each life between two kills is a process
of its own, and no power can be cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import attrs
import trio

from mqcore.abc import StorageBackend
from mqcore.ports import Ports, system_ports
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded
from mqcore_conformance.children import run_apart
from mqcore_conformance.contract._checks import CheckFailed
from mqcore_conformance.contract._storage_steps import Kind, Operation

VIRTUAL_SECONDS_MAX = 1_000.0


@attrs.define
class LogModel:
    """Bytes from position 0 on, the start, what is certain to be flushed, and what a flush said to be durable.

    ``proved``: durable end before the last flush; after a crash nothing below it may be in doubt.
    """

    data: bytearray = attrs.field(factory=bytearray)
    start: int = 0
    flushed: int = 0
    told: int = 0
    proved: int = 0


@attrs.define
class LivesSoFar:
    """What one life of the storage hands to the next."""

    models: dict[str, LogModel] = attrs.field(factory=dict)
    lives: int = 0


class Play(Protocol):
    """Does ``steps`` in one life: ``first`` is the number of the first, ``known`` what the life before returned.

    With ``killed`` the storage is left open at the end.
    """

    async def __call__(
        self, ground: Ground, steps: Sequence[Operation], first: int, known: LivesSoFar, /, *, killed: bool = False
    ) -> LivesSoFar:
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
        run_simulation(play, self, steps, 0, LivesSoFar(), seed=self.seed, seconds_max=VIRTUAL_SECONDS_MAX)

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
        known = LivesSoFar()
        begin = 0
        for end in [number for number, step in enumerate(steps) if step.kind == "kill"]:
            life = partial(_live, self, steps[begin:end], begin, known, play)
            outcome = run_apart(life, seconds_max=self.seconds_max, returns=tuple[str, LivesSoFar])
            if outcome.problem:
                raise CheckFailed(outcome.problem)
            assert outcome.value is not None
            wrong, known = outcome.value
            if wrong:
                raise CheckFailed(wrong)
            begin = end + 1
        trio.run(play, self, steps[begin:], begin, known)

    async def restart(self, kind: Kind, backend: StorageBackend) -> None:
        """Close the storage."""
        await backend.aclose()


def _live(
    ground: SystemGround, steps: Sequence[Operation], begin: int, known: LivesSoFar, play: Play
) -> tuple[str, LivesSoFar]:
    try:
        return "", trio.run(partial(play, ground, steps, begin, known, killed=True))
    except CheckFailed as error:
        return str(error), known
