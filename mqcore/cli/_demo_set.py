"""The demonstration's second half: a replica set that loses its primary, synchronously and asynchronously replicated.

The nodes are those of ``mqcore serve --cluster-here``; everything is seen from the side of one client, which is told of
all of them and does nothing when one is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from mqcore.cli._cluster_here import ClusterHere, ClusterPlan, describe_primary
from mqcore.cli._demo_read import counts, read_all, verdict
from mqcore.cli._ledger import Ledger
from mqcore.client import Client, Producer, connect
from mqcore.units import grouped

__all__ = ["demonstrate_set"]

LEASE_MS = 1_000
MAX_DELAY_MS = 200
PARTITIONS = 4
SECONDS_BEFORE_KILL = 1.5
SECONDS_AFTER_RECOVERY = 0.5
SAMPLE_SECONDS = 0.01
SECONDS_OF_LATE_ANSWERS = 0.2
"""How long answers may still come that the primary gave before it was killed."""
SYNC = "sync(copies=2, level=disk)"
ASYNC = f"async(max_delay={MAX_DELAY_MS} ms, on_exceeded=throttle)"

Say = Callable[..., None]
Posts = Sequence[Sequence[bytes]]


class _Nodes:
    """The set while it runs: where it is, and the process of each node."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.pids: dict[str, int] = {}
        self.killed: list[str] = []
        self.is_ready = trio.Event()

    def take(self, _: str, event: Mapping[str, object]) -> None:
        """Note what the set says of itself."""
        if event.get("event") == "node":
            self.pids[str(event["node"])] = int(str(event["pid"]))
        elif event.get("event") == "ready":
            urls = event["urls"]
            assert isinstance(urls, list)
            self.urls = urls
            self.is_ready.set()


async def demonstrate_set(folder: Path, posts: Posts, say: Say) -> bool:
    """Run three nodes below ``folder``, kill a primary twice, and return whether what was promised was kept."""
    keys = (f"cluster.lease_ms={LEASE_MS}",)
    options: dict[str, Any] = {"flush": "sync", "survive": (), "limit": (), "keys": keys, "replication": SYNC}
    nodes, good = _Nodes(), False
    plan = ClusterPlan.of(3, folder, options)
    here = ClusterHere(plan, nodes.take)
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            if await here.run():
                raise KeyboardInterrupt

        nursery.start_soon(run)
        await nodes.is_ready.wait()
        say(f"\na set of three brokers: {', '.join(nodes.urls)}", "set", urls=nodes.urls)
        async with connect(*nodes.urls, retry_ms_max=100) as client:
            good = await _lose_nothing(client, nodes, posts, say)
            async with _started_again(plan, nodes.killed[0]):
                await _until_all_in_sync(nodes.urls)
                say(f"{nodes.killed[0]} was started again and is a replica in sync", "set-whole")
                good = await _lose_what_was_said(client, nodes, posts, say) and good
        nursery.cancel_scope.cancel()
    return good


async def _lose_nothing(client: Client, nodes: _Nodes, posts: Posts, say: Say) -> bool:
    """Kill the primary under synchronous replication; everything acknowledged is read back."""
    ledger = Ledger()
    await client.admin.create_topic("copied", PARTITIONS, {"replication": SYNC})
    async with client.producer("copied") as producer:
        await _kill_in_mid_stream(producer, nodes, ledger, posts, SYNC, say)
    seconds, comparison = await read_all(client, "copied", ledger)
    say(
        f"read {grouped(comparison.read)} messages back; {grouped(ledger.acknowledged)} were acknowledged on two disks "
        f"before and after: {verdict(comparison)}",
        "set-compared", replication=SYNC, acknowledged=ledger.acknowledged, seconds=seconds, **counts(comparison),
    )  # fmt: skip
    return comparison.is_good


async def _lose_what_was_said(client: Client, nodes: _Nodes, posts: Posts, say: Say) -> bool:
    """Kill the primary under asynchronous replication; what is lost is reported, and within the bound."""
    ledger = Ledger()
    await client.admin.create_topic("trailing", PARTITIONS, {"replication": ASYNC})
    async with client.producer("trailing") as producer:
        within_bound = await _kill_in_mid_stream(producer, nodes, ledger, posts, ASYNC, say)
        lost = sum(loss.messages for loss in producer.losses)
    good = lost <= within_bound
    say(
        f"{grouped(lost)} acknowledged messages were lost, each reported to the producer; promised: no more than what "
        f"was acknowledged within {MAX_DELAY_MS} ms, {grouped(within_bound)} before the kill",
        "set-lost", replication=ASYNC, lost=lost, bound=within_bound, good=good,
    )  # fmt: skip
    return good


async def _kill_in_mid_stream(
    producer: Producer, nodes: _Nodes, ledger: Ledger, posts: Posts, policy: str, say: Say
) -> int:
    """Stream, kill the primary, stream on; return how much was acknowledged in the last moments before the kill."""
    enough, name = trio.Event(), await _primary_of(nodes.urls)
    samples: deque[tuple[float, int]] = deque()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stream, producer, ledger, posts, enough)
        end = trio.current_time() + SECONDS_BEFORE_KILL
        while trio.current_time() < end:
            samples.append((trio.current_time(), ledger.settle()))
            await trio.sleep(SAMPLE_SECONDS)
        acknowledged = ledger.settle()
        os.kill(nodes.pids[name], signal.SIGKILL)
        nodes.killed.append(name)
        killed_at = trio.current_time()
        say(
            f"{policy}: SIGKILL of {name}, the primary, in mid-stream: {grouped(acknowledged)} messages acknowledged",
            "set-killed", node=name, replication=policy, acknowledged=acknowledged,
        )  # fmt: skip
        await trio.sleep(SECONDS_OF_LATE_ANSWERS)
        await ledger.wait_for_next()
        seconds = trio.current_time() - killed_at
        successor = await _primary_of(nodes.urls, name)
        say(
            f"{successor} took over: the stream goes on {seconds:.2f} s after the kill, by itself",
            "set-failover", node=successor, seconds=seconds,
        )  # fmt: skip
        await trio.sleep(SECONDS_AFTER_RECOVERY)
        enough.set()
    before = [count for at, count in samples if at <= killed_at - MAX_DELAY_MS / 1000]
    return acknowledged - (before[-1] if before else 0)


@asynccontextmanager
async def _started_again(plan: ClusterPlan, name: str) -> AsyncIterator[None]:
    """Run a node that was killed for the length of the block."""
    storage = next(each for node, _, each in plan.nodes if node == name)
    command = [sys.executable, "-m", "mqcore", *plan.command(name, storage)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


async def _until_all_in_sync(urls: Sequence[str]) -> None:
    while True:
        found = await describe_primary(urls)
        if found is not None and all(member.in_sync for member in found.members):
            return
        await trio.sleep(SAMPLE_SECONDS)


async def _primary_of(urls: Sequence[str], before: str = "") -> str:
    """Name of the primary after ``before``."""
    while True:
        found = await describe_primary(urls)
        if found is not None and found.name != before:
            return found.name
        await trio.sleep(SAMPLE_SECONDS)


async def _stream(producer: Producer, ledger: Ledger, posts: Posts, enough: trio.Event) -> None:
    while not enough.is_set():
        for values in posts:
            await producer.wait_for_room(sum(map(len, values)))
            ledger.add(values, producer.post_many(values))
            await trio.lowlevel.checkpoint()
            if enough.is_set():
                break
    await ledger.wait()
