"""A replica set of broker processes for measurements: ``mqcore serve --cluster-here``, its nodes started again.

Must not know what is measured.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import attrs
import trio

from mqcore.client import connect
from mqcore.errors import MqcoreError

__all__ = ["LEASE_MS", "RunningSet", "bytes_sent", "running_set", "seconds_and_switches"]

LEASE_MS = 1_000
START_S = 120.0


@attrs.define
class RunningSet:
    """A running set: its URLs, and the processes of its nodes by name. A node in ``held`` is not started again yet."""

    folder: str
    urls: list[str] = attrs.field(factory=list)
    pids: dict[str, int] = attrs.field(factory=dict)
    held: dict[str, trio.Event] = attrs.field(factory=dict)

    def url_of(self, name: str) -> str:
        """Where the node listens."""
        return self.urls[sorted(self.pids).index(name)]

    async def primary(self) -> str:
        """Return the name of the node that reigns, once one does."""
        while True:
            for url in self.urls:
                with suppress(MqcoreError):
                    async with connect(url, connect_timeout_ms=500, request_timeout_ms=3000) as client:
                        found = await client.sets.describe()
                        if found.role == "primary":
                            return found.name
            await trio.sleep(0.02)

    async def until_in_sync(self) -> None:
        """Wait until every node is in sync, as the primary sees it."""
        while True:
            url = self.url_of(await self.primary())
            with suppress(MqcoreError):
                async with connect(url, connect_timeout_ms=500, request_timeout_ms=3000) as client:
                    if all(member.in_sync for member in await client.sets.replicas()):
                        return
            await trio.sleep(0.1)

    def kill(self, name: str) -> None:
        """SIGKILL; the node is started again at once unless it is held."""
        os.kill(self.pids[name], signal.SIGKILL)


@asynccontextmanager
async def running_set(
    nodes: int, folder: str, storage: str = "", lease_ms: int = LEASE_MS
) -> AsyncIterator[RunningSet]:
    """Run a set of ``nodes`` for the length of the block. ``storage``: a URL; empty: segments below ``folder``."""
    command = [
        sys.executable, "-m", "mqcore", "--output", "json", "serve", "--cluster-here", str(nodes),
        "--storage", storage or f"mmap://{folder}", "--set", f"cluster.lease_ms={lease_ms}",
    ]  # fmt: skip
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder)
    running, rest = RunningSet(folder), b""
    try:
        assert process.stdout is not None
        with trio.fail_after(START_S):
            while not running.urls:
                *lines, rest = (rest + await process.stdout.receive_some()).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    if event.get("event") == "node":
                        running.pids[event["node"]] = event["pid"]
                    elif event.get("event") == "ready":
                        running.urls = event["urls"]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_start_again, process.stdout, rest, running)
            yield running
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.terminate()
            await process.wait()


async def _start_again(events: trio.abc.ReceiveStream, rest: bytes, running: RunningSet) -> None:
    """Start each node again that has ended, with the command that the set names for it, until cancelled."""
    async with trio.open_nursery() as nursery:
        async for block in events:
            *lines, rest = (rest + block).split(b"\n")
            for event in map(json.loads, lines):
                if event.get("event") == "ended":
                    nursery.start_soon(_run_node, event["node"], event["again"], running)


async def _run_node(name: str, again: str, running: RunningSet) -> None:
    command = [sys.executable, "-m", *shlex.split(again)]
    while True:
        if name in running.held:
            await running.held[name].wait()
        process = await trio.lowlevel.open_process(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=running.folder
        )
        running.pids[name] = process.pid
        try:
            await process.wait()
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.terminate()
                    await process.wait()


async def bytes_sent(running: RunningSet) -> int:
    """Return how many bytes the nodes have sent in all on the TCP connections that they have open now."""
    found = await trio.run_process(["ss", "--no-header", "-tnpi"], capture_stdout=True)
    total, is_own = 0, False
    for line in found.stdout.decode().splitlines():
        if not line[:1].isspace():
            is_own = any(f"pid={pid}," in line for pid in running.pids.values())
        elif is_own:
            total += sum(map(int, re.findall(r"bytes_sent:(\d+)", line)))
    return total


def seconds_and_switches(running: RunningSet) -> tuple[float, int]:
    """Return the processor time of all nodes, and how often one of their event loops slept and was woken."""
    ticks = switches = 0
    for pid in running.pids.values():
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        with open(f"/proc/{pid}/task/{pid}/status") as file:
            switches += int(next(line for line in file if line.startswith("voluntary_ctxt")).split()[1])
    return ticks / os.sysconf("SC_CLK_TCK"), switches
