"""Measures coordinators on real servers of this machine: ``python -m mqcore_bench.coordinators [NAME...]``.

Of each: a conditional write and a read, how soon a watch hints at a write, how long after a lease has run out another
node holds it, and of an ensemble the longest time without an answered write after its leader was lost. Prints a table
in Markdown. Nothing is asserted. It uses the suite's servers, since it needs to harm them.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import trio

from mqcore.abc import CellPair, CellWrite, Coordinator, CoordinatorContext
from mqcore.broker import Keeper
from mqcore.errors import (
    CoordinatorConflictError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
)
from mqcore.ports import system_ports
from mqcore.registry import create_coordinator
from mqcore.replication import LeaseTerms
from mqcore_conformance.contract import ServerControl
from mqcore_conformance.servers import controls

__all__ = ["main"]

VALUE = bytes(200)
"""About what a lease takes."""
WRITES, HINTS, TAKEOVERS = 500, 100, 5
LEASE_MS = 2_000
GAP_WATCHED_S = 8.0
"""How long writes go on after the loss of a leader."""
COLUMNS = ("write ms", "p99", "read ms", "hint ms", "p99", "take-over ms", "leader killed s", "frozen s")


class Folder(ServerControl):
    """The coordinator that is a folder of this machine, to compare with."""

    scheme = "file"

    def start(self) -> str:
        return f"file://{self.folder}"

    def close(self) -> None:
        pass


SUBJECTS: Mapping[str, type[ServerControl]] = {
    "file": Folder,
    "etcd": controls.EtcdControl,
    "etcd-3": controls.EtcdEnsembleControl,
    "zookeeper": controls.ZookeeperControl,
    "zookeeper-3": controls.ZookeeperEnsembleControl,
    "postgres": controls.PostgresControl,
}


@attrs.define
class Bench:
    """One coordinator: its server, and its clients."""

    control: ServerControl
    url: str
    clients: list[Coordinator] = attrs.field(factory=list)

    def client(self, call_timeout_ms: int = 1_000) -> Coordinator:
        """Return another client."""
        context = CoordinatorContext(ports=system_ports(), call_timeout_ms=call_timeout_ms)
        self.clients.append(create_coordinator(self.url, context))
        return self.clients[-1]

    async def calls(self) -> tuple[list[float], list[float]]:
        """Return the seconds of conditional writes, and of reads."""
        client = self.client()
        pair = await client.read("bench/calls")
        writes, reads = [], []
        for _ in range(WRITES):
            began = trio.current_time()
            pair = await client.write("bench/calls", pair, lease=fresh())
            writes.append(trio.current_time() - began)
        for _ in range(WRITES):
            began = trio.current_time()
            await client.read("bench/calls")
            reads.append(trio.current_time() - began)
        return writes, reads

    async def hints(self) -> list[float]:
        """Return the seconds from the sending of a write to another client's hint."""
        client, watcher = self.client(), self.client()
        pair = await client.read("bench/hints")
        seconds, hint = [], [trio.Event()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.watch, "bench/hints", lambda: hint[0].set())
            await trio.sleep(0.5)
            for _ in range(HINTS):
                hint[0] = trio.Event()
                began = trio.current_time()
                pair = await client.write("bench/hints", pair, lease=fresh())
                with trio.move_on_after(2):
                    await hint[0].wait()
                seconds.append(trio.current_time() - began)
            nursery.cancel_scope.cancel()
        return seconds

    async def takeovers(self) -> list[float]:
        """Return the seconds from the end of a dead holder's lease to the moment when another node holds it."""
        terms = LeaseTerms(lease_ms=LEASE_MS)
        ports, seconds = system_ports(), []
        for number in range(TAKEOVERS):
            name = f"bench/takeover-{number}"
            keepers = [
                Keeper(self.client(terms.call_timeout_ms), name, node_id=node * 16, terms=terms, ports=ports)
                for node in (b"a", b"b")
            ]
            await keepers[0].look()
            holder = await keepers[0].promote(b"epoch 1", keepers[0].pair)
            ended_us = holder.valid_until_us + terms.margin_ms * 1000
            async with trio.open_nursery() as nursery:
                seen = trio.Event()
                nursery.start_soon(keepers[1].follow, lambda _, seen=seen: seen.set())
                await seen.wait()
                vacant_us = keepers[1].observer.vacant_at_us or 0
                await trio.sleep(max(0, vacant_us - ports.clock.boottime_us()) / 1e6)
                await keepers[1].promote(b"epoch 2", keepers[1].pair)
                nursery.cancel_scope.cancel()
            seconds.append((ports.clock.boottime_us() - ended_us) / 1e6)
        return seconds

    async def longest_gap(self, harm: str, mend: str) -> float:
        """Return the longest time, in seconds, without an answered write after ``harm`` struck the leader."""
        client = self.client()
        pair = await written(client, await client.read("bench/gap"))
        leader = await self._leader()
        await trio.to_thread.run_sync(getattr(self.control, harm), leader)
        struck = answered = trio.current_time()
        longest = 0.0
        while answered < struck + GAP_WATCHED_S:
            pair = await written(client, pair)
            longest, answered = max(longest, trio.current_time() - answered), trio.current_time()
        await trio.to_thread.run_sync(getattr(self.control, mend), leader)
        await self._leader()
        return longest

    async def _leader(self) -> int:
        return await trio.to_thread.run_sync(self.control.leader)


def fresh() -> CellWrite:
    """Return a write with an id of its own."""
    return CellWrite(VALUE, os.urandom(16))


async def written(client: Coordinator, pair: CellPair) -> CellPair:
    """Write until it is known that it was written."""
    ids = set()
    while True:
        write = fresh()
        ids.add(write.write_id)
        try:
            return await client.write("bench/gap", pair, lease=write)
        except CoordinatorConflictError:
            return await _read(client)
        except (CoordinatorUnreachableError, CoordinatorOutcomeUnknownError):
            await trio.sleep(0.02)


async def _read(client: Coordinator) -> CellPair:
    while True:
        try:
            return await client.read("bench/gap")
        except CoordinatorUnreachableError:
            await trio.sleep(0.02)


async def measure(name: str, folder: Path) -> list[str]:
    """Return the cells of one row."""
    control = SUBJECTS[name](folder)
    url = await trio.to_thread.run_sync(control.start)
    bench = Bench(control, url)
    try:
        writes, reads = await bench.calls()
        hints = await bench.hints()
        takeovers = await bench.takeovers()
        gaps = ["", ""]
        if name.endswith("-3"):
            gaps = [f"{await bench.longest_gap(*how):.1f}" for how in (("kill", "restart"), ("freeze", "thaw"))]
        return [
            *(f"{seconds * 1000:.1f}" for seconds in (*_spread(writes), statistics.median(reads), *_spread(hints))),
            f"{min(takeovers) * 1000:.0f} to {max(takeovers) * 1000:.0f}",
            *gaps,
        ]
    finally:
        for client in bench.clients:
            await client.aclose()
        await trio.to_thread.run_sync(control.close)


def _spread(seconds: list[float]) -> tuple[float, float]:
    return statistics.median(seconds), sorted(seconds)[int(len(seconds) * 0.99)]


def main(names: Sequence[str]) -> None:
    """Print the table of ``names``, all of them when there are none."""
    unknown = sorted(set(names) - SUBJECTS.keys())
    if unknown:
        sys.exit(f"no coordinator {', '.join(unknown)} to measure; one of {', '.join(SUBJECTS)}")
    print(f"| coordinator | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}", flush=True)
    for name in names or SUBJECTS:
        with tempfile.TemporaryDirectory(prefix="mqcore-bench-") as folder:
            print(f"| {name} | {' | '.join(trio.run(measure, name, Path(folder)))} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
