"""Array, replicas or both: what each costs on this machine. ``mqcore bench raid``.

Every build acknowledges after a flush, on brokers in processes of their own. All directories are on one disk here: an
array writes every byte twice to it, and replicas share the processors; on machines of their own they cost a round trip
instead. Nothing is asserted.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from mqcore.client import Client, connect
from mqcore.config import cluster_example
from mqcore.guarantees import Level, SyncReplication
from mqcore.testing import reserve_ports
from mqcore_bench._children import ChildFailed
from mqcore_bench.replication import latency_us, throughput

__all__ = ["BUILDS", "BuildCost", "compare_builds"]

START_S = 60.0
STOP_S = 20.0
LEASE_MS = 3_000
NAMES = ("a", "b")
CONFIG = "cluster.toml"


@attrs.frozen
class _Build:
    summary: str
    nodes: int
    storage: str


ONE = "mmap://{folder}/{node}"
ARRAY = "raid://{folder}/{node}-1,{folder}/{node}-2?level=1"
BUILDS: Mapping[str, _Build] = {
    "one directory": _Build("no copy: what the others are compared with", 1, ONE),
    "array only": _Build("a mirror of two directories", 1, ARRAY),
    "replicas only": _Build("two nodes, sync(copies=2, level=disk)", 2, ONE),
    "array plus one replica": _Build("two nodes with a mirror each, sync(copies=2, level=disk)", 2, ARRAY),
}


@attrs.frozen(kw_only=True)
class BuildCost:
    """What a build costs: messages of 100 bytes a second in batches, the median time of one, copies of each byte."""

    build: str
    summary: str
    messages_per_second: float
    latency_us: float
    copies: int


def compare_builds(folder: str, seconds: float, rounds: int, report: Callable[[str], None]) -> list[BuildCost]:
    """Measure each of ``BUILDS`` for ``seconds`` below ``folder``, in ``rounds`` turns; medians count.

    Raises ``ChildFailed``: a node did not start.
    """
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in BUILDS}
    for number in range(rounds):
        for name, build in BUILDS.items():  # in turn, so that a noisy minute hits them alike
            report(f"{name}, {number + 1} of {rounds}")
            place = Path(folder) / f"{name.replace(' ', '-')}-{number}"
            place.mkdir()
            urls = [f"tcp://127.0.0.1:{port}" for port in reserve_ports(build.nodes)]
            _write_config(build, place, urls)
            measured[name].append(trio.run(_measure, build, place, urls, seconds))
            shutil.rmtree(place)
    return [
        BuildCost(
            build=name,
            summary=BUILDS[name].summary,
            messages_per_second=statistics.median(rate for rate, _ in values),
            latency_us=statistics.median(once for _, once in values),
            copies=BUILDS[name].nodes * BUILDS[name].storage.count("{node}"),
        )
        for name, values in measured.items()
    ]


def _write_config(build: _Build, folder: Path, urls: Sequence[str]) -> None:
    text = cluster_example(
        {"bench": list(zip(NAMES[: build.nodes], urls, strict=True))},
        coordinator=f"file://{folder}/coordinator",
        replication=SyncReplication(copies=2, level=Level.DISK),
    )
    (folder / CONFIG).write_text(text)


async def _measure(build: _Build, folder: Path, urls: Sequence[str], seconds: float) -> tuple[float, float]:
    async with _running(build, folder, urls) as client:
        await client.admin.create_topic("t")
        return await throughput(client, "t", seconds), await latency_us(client, "t")


@asynccontextmanager
async def _running(build: _Build, folder: Path, urls: Sequence[str]) -> AsyncIterator[Client]:
    """Run the nodes of a build, and give a client of it."""
    processes: list[trio.Process] = []
    try:
        for name, url in zip(NAMES, urls, strict=False):
            storage = build.storage.format(folder=folder, node=name)
            command = [sys.executable, "-m", "mqcore", "--output", "json", "serve", "--flush", "sync"]
            command += ["--storage", storage]
            if build.nodes > 1:
                command += ["--config", f"{folder}/{CONFIG}", "--name", name, "--set", f"cluster.lease_ms={LEASE_MS}"]
            else:
                command += ["--listen", url]
            processes.append(
                await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            )
        with trio.fail_after(START_S):
            for process in processes:
                await _until_ready(process)
            if build.nodes > 1:
                async with connect(urls[0]) as client:
                    await client.sets.init()
                    await _until_in_sync(client)
        async with connect(*urls) as client:
            yield client
    finally:
        with trio.CancelScope(shield=True):
            for process in processes:
                process.terminate()
            with trio.move_on_after(STOP_S):
                for process in processes:
                    await process.wait()
            for process in processes:
                process.kill()
                await process.wait()


async def _until_ready(process: trio.Process) -> None:
    assert process.stdout is not None
    rest = b""
    async for block in process.stdout:
        *lines, rest = (rest + block).split(b"\n")
        if any(json.loads(line).get("event") == "ready" for line in lines):
            return
    raise ChildFailed(f"a node of the build ended with status {await process.wait()}")


async def _until_in_sync(client: Client) -> None:
    while True:
        found = await client.sets.describe()
        if found.primary is not None and found.members and all(member.in_sync for member in found.members):
            return
        await trio.sleep(0.1)
