"""Guarantees, section 5: every node of a set loses its power at once, with copies that were not flushed."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trio
from sets import SetOfNodes, set_of_nodes

from mqcore.client import Producer
from mqcore.errors import MqcoreError
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

PAGE_CACHE = {"flush": "none", "replication": "sync(copies=2, level=page-cache)"}


class Machines:
    """The disks of the nodes, all in one room."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.runs = 0
        self.disk = ModelDisk(seeded(seed, "disk"))
        self.disk.make_directory("/sets")
        self.disk.flush_directory("/")

    def ports(self) -> object:
        self.runs += 1
        return model_ports(self.seed * 1_000 + self.runs, self.disk)

    def lose_power(self) -> None:
        self.disk.power_cut(seeded(self.seed, "cut"))
        self.disk = self.disk.restart()


def whys(nodes: SetOfNodes) -> list[str]:
    return [getattr(run.node.roles.role, "why", "") for run in nodes.runs.values() if run.node.roles is not None]


async def cut_and_start(seed: int, failover: str) -> None:
    machines = Machines(seed)
    async with set_of_nodes(
        Path("/sets"),
        "abc",
        prefix=f"cut{seed}",
        ports=machines.ports,
        cluster={"coordinator": "memory://cut", "failover": failover},
        **PAGE_CACHE,
    ) as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            await client.admin.create_topic("orders", partitions=2)
            async with client.producer("orders") as producer:
                for number in range(40):
                    await producer.send(b"%d" % number)
        # As it is now, before the nodes are ended: what they would flush on their way out is not there.
        disk = machines.disk.fork()
        for name in "abc":
            await nodes.cut_off(name)
        disk.power_cut(seeded(seed, "cut"))
        machines.disk = disk.restart()

        await nodes.start("a", "b")
        await trio.sleep(10)
        assert [run.node.store.incarnation for run in nodes.runs.values()] == [2, 2]
        if failover == "automatic":
            assert all("waiting for c, which may hold what nobody else does" in why for why in whys(nodes))
        else:
            with pytest.raises(MqcoreError, match="waiting for c, which may hold what nobody else does"):
                await nodes.call("b", "set.promote")
        await nodes.start("c")
        if failover == "manual":
            await nodes.call("b", "set.promote")
        await nodes.until(lambda: any(run.node.reign is not None for run in nodes.runs.values()))
        async with nodes.client() as client:
            async with client.producer("orders") as producer:
                await producer.send(b"goes on")
            await nodes.until(lambda: not any(whys(nodes)))
            primary = next(name for name, run in nodes.runs.items() if run.node.reign is not None)
            await nodes.until(lambda: len(nodes.node(primary).reign.set.record.members) == 3)  # type: ignore[union-attr]
            logs = [await nodes.logs(name) for name in "abc"]
        assert logs[0] == logs[1] == logs[2]


async def cut_while_busy(seed: int, policies: dict[str, str], incarnation: int) -> None:
    """Every node loses its power while messages are on their way; then all start again, and nobody does anything."""
    machines = Machines(seed)
    acknowledged: list[bytes] = []
    async with set_of_nodes(
        Path("/sets"),
        "abc",
        prefix=f"busy{seed}",
        ports=machines.ports,
        cluster={"coordinator": "memory://busy", "failover": "automatic"},
        flush="sync",
    ) as nodes:

        async def send(producer: Producer, number: int) -> None:
            with contextlib.suppress(MqcoreError):
                await producer.send(b"%d" % number)
                acknowledged.append(b"%d" % number)

        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            for topic, replication in policies.items():
                await client.admin.create_topic(topic, config={"replication": replication})
            await nodes.until(
                lambda: {run.node.store.flushed_only for run in nodes.runs.values()} == {incarnation == 1}
            )
            async with trio.open_nursery() as nursery, client.producer("orders") as producer:
                for number in range(400):
                    nursery.start_soon(send, producer, number)
                await nodes.until(lambda: len(acknowledged) >= 100)
                # As it is in the middle of that: what the nodes still write on their way out is not there.
                machines.disk, known = machines.disk.fork(), list(acknowledged)
                nursery.cancel_scope.cancel()
        disk = machines.disk
        for name in "abc":
            await nodes.cut_off(name)
        disk.power_cut(seeded(seed, "cut"))
        machines.disk = disk.restart()

        await nodes.start()
        assert [run.node.store.incarnation for run in nodes.runs.values()] == [incarnation] * 3
        await nodes.until(lambda: any(run.node.reign is not None for run in nodes.runs.values()))
        async with nodes.client() as client:
            async with client.producer("orders") as producer:
                await producer.send(b"goes on")
            read: set[bytes] = set()
            async with client.consumer("orders", start="start") as consumer:
                while b"goes on" not in read:
                    read.add(bytes((await anext(consumer)).value))
        assert set(known) <= read


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_r2_b_where_only_flushed_positions_are_reported_every_node_is_itself_after_a_power_cut(seed: int) -> None:
    run_simulation(cut_while_busy, seed, {"orders": "sync(copies=2, level=disk)"}, 1, seed=seed)


@pytest.mark.slow
def test_r2_b_one_topic_that_counts_the_page_cache_raises_every_incarnation() -> None:
    policies = {"orders": "sync(copies=2, level=disk)", "quick": "sync(copies=2, level=page-cache)"}
    run_simulation(cut_while_busy, 2, policies, 2, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "failover"), [(1, "automatic"), (6, "automatic"), (1, "manual")])
def test_after_a_power_cut_of_all_nodes_the_set_waits_for_each_and_goes_on(seed: int, failover: str) -> None:
    run_simulation(cut_and_start, seed, failover, seed=seed)
