"""What a power cut leaves of a storage, read by another process: one that has the disk and nothing else.

A simulated broker lives all its lives in one process; what a module or a class keeps there survives cuts that no real
machine's memory survives.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mqcore.abc import StorageBackend, StorageContext
from mqcore.guarantees import Level
from mqcore.registry import create_storage
from mqcore.testing import ModelDisk, model_ports, run_simulation
from mqcore_conformance.children import Outcome, run_apart
from mqcore_conformance.contract._checks import CheckFailed, NotApplicable, check, expect
from mqcore_conformance.contract._storage import APPENDED, FLUSHED, StorageHarness, read_whole, write_probe
from mqcore_conformance.contract._storage_grounds import VIRTUAL_SECONDS_MAX, ModelGround
from mqcore_conformance.plans import with_small_files

CUTS = 5
"""Power cuts at the same moment, each taking another part of what was not flushed."""


@check("storage", "G01")
def what_was_flushed_is_on_the_disk_and_not_in_the_process(harness: StorageHarness) -> None:
    """After a power cut, what was flushed is there for a process that has the disk and nothing else."""
    harness.needs_bytes()
    capabilities = harness.create().capabilities
    if not capabilities.simulable:
        raise NotApplicable(
            "it does not claim simulable: its power is cut by what_a_flush_returned_is_on_the_disk_at_once"
        )
    if capabilities.flush_level < Level.DISK:
        raise NotApplicable(f"a flush reaches {capabilities.flush_level.label}: a power cut may take everything")
    wanted = FLUSHED + (APPENDED if capabilities.append_level >= Level.DISK else b"")
    ground = ModelGround(with_small_files(harness.template), harness.folder, seed=0)
    disks = harness.folder / "disks"
    _done(run_apart(partial(_write_and_cut, ground, disks), seconds_max=harness.limit_s, returns=list[bytes]))
    found = _done(
        run_apart(partial(_read_elsewhere, ground.url, disks), seconds_max=harness.limit_s, returns=list[bytes])
    )
    for data in found:
        expect(
            data.startswith(wanted),
            f"{len(wanted)} bytes were to survive a power cut; a process that has nothing but the disk finds "
            f"{len(data)} bytes{'' if wanted.startswith(data) else ', and other ones'}",
        )


def _done(outcome: Outcome[list[bytes]]) -> list[bytes]:
    if outcome.problem:
        raise CheckFailed(outcome.problem)
    return outcome.value or []


def _write_and_cut(ground: ModelGround, disks: Path) -> list[bytes]:
    """Append, flush, append, cut the power in several ways; write the disks that are left to a file."""
    backend = create_storage(ground.url, StorageContext(ports=ground.ports()))

    async def live() -> Sequence[ModelDisk]:
        await write_probe(backend)
        left = []
        for seed in range(CUTS):
            disk = ground.disk.fork()
            disk.power_cut(random.Random(seed))
            left.append(disk.restart())
        await backend.aclose()
        return left

    disks.write_bytes(pickle.dumps(run_simulation(live, seconds_max=VIRTUAL_SECONDS_MAX)))
    return []


def _read_elsewhere(url: str, disks: Path) -> list[bytes]:
    """Return what is read from each disk; only this process, in which the part runs too, believes the file."""
    left: Sequence[ModelDisk] = pickle.loads(disks.read_bytes())
    return [run_simulation(_found, url, disk, seconds_max=VIRTUAL_SECONDS_MAX) for disk in left]


async def _found(url: str, disk: ModelDisk) -> bytes:
    backend: StorageBackend = create_storage(url, StorageContext(ports=model_ports(0, disk)))
    await backend.open()
    try:
        return await read_whole(await backend.open_log("probe"))
    finally:
        await backend.aclose()
