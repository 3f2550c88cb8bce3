"""What real nodes of a set do in the simulation is allowed by the model of section 6, event by event."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from traceback import format_exception
from typing import Any

import pytest
import trio
from set_of_brokers import BrokerTracer
from set_traces import SetTrace, TraceRefused
from sets import SetOfNodes, set_of_nodes

from mqcore.broker._fed_log import FedLog
from mqcore.client import Client
from mqcore.errors import MqcoreError
from mqcore.log import LogPoint
from mqcore.protocol import LogPositions
from mqcore.testing import ModelDisk, model_ports, run_simulation, seeded

SEND_EVERY_S = 0.02
SEEDS_MAX, ROUNDS = 40, 20
SYNC = {"flush": "sync", "replication": "sync(copies=2, level=disk)"}


async def play(monkeypatch: pytest.MonkeyPatch, seed: int, rounds: int, is_manual: bool) -> SetTrace:
    """Three nodes on one model disk; sends go on while nodes are ended, started, promoted, removed, handed over."""
    rng, disk = random.Random(seed), ModelDisk(seeded(seed, "disk"))
    disk.make_directory("/sets")
    numbers = iter(range(1_000_000))

    async with set_of_nodes(
        Path("/sets"),
        "abc",
        prefix=f"seed{seed}",
        ports=lambda: model_ports(seed * 1_000 + next(numbers), disk),
        cluster=None if is_manual else {"coordinator": "memory://sets"},
        **SYNC,
    ) as nodes:
        tracer = BrokerTracer(nodes, monkeypatch, is_manual=is_manual)
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client, trio.open_nursery() as nursery:
            await client.admin.create_topic("orders", partitions=1)
            nursery.start_soon(send_on, client)
            for _ in range(rounds):
                # When a send is made too, and some steps into it.
                await trio.sleep(SEND_EVERY_S * rng.randrange(50))
                for _ in range(rng.randrange(60)):
                    await trio.lowlevel.checkpoint()
                await one_event(nodes, tracer, rng)
            nursery.cancel_scope.cancel()
    if tracer.trace.refusal is not None:
        raise tracer.trace.refusal
    return tracer.trace


def runs(monkeypatch: pytest.MonkeyPatch, *, is_manual: bool) -> Iterator[SetTrace]:
    """Run after run, each traced to its end."""
    for seed in range(SEEDS_MAX):
        with monkeypatch.context() as patches:
            yield run_simulation(play, patches, seed, ROUNDS, is_manual, seed=seed)


async def send_on(client: Client) -> None:
    async with client.producer("orders") as producer, trio.open_nursery() as nursery:

        async def send(number: int) -> None:
            try:
                await producer.send(b"%d" % number)
            except MqcoreError:
                return  # its outcome is unknown, and there is more to send

        for number in range(100_000):
            nursery.start_soon(send, number)
            await trio.sleep(SEND_EVERY_S)


async def one_event(nodes: SetOfNodes, tracer: BrokerTracer, rng: random.Random) -> None:
    name = rng.choice(nodes.names)
    try:
        if name not in nodes.runs:
            # Not at once: a primary that is alone appends what nobody else has, and others may be promoted.
            if rng.random() < 0.5 or not nodes.runs:
                await tracer.restart(name)
        elif rng.random() < 0.5:
            await nodes.cut_off(name)
        elif nodes.node(name).reign is not None:
            if rng.random() < 0.5:
                await nodes.call(name, "set.switchover")
            else:
                other = rng.choice([each for each in nodes.names if each != name])
                await nodes.call(name, rng.choice(("replica.remove", "replica.add")), name=other)
        else:
            await nodes.call(name, "set.promote", old_primary_is_stopped=True)
    except MqcoreError:
        return  # refused, which is right where a node is behind, or was not admitted


@pytest.mark.slow
@pytest.mark.parametrize("is_manual", [True, False], ids=["by-hand", "coordinated"])
def test_what_the_nodes_of_a_set_do_is_allowed_by_the_model(monkeypatch: pytest.MonkeyPatch, is_manual: bool) -> None:
    words: Counter[str] = Counter()
    wanted = ("append", "receive", "report", "commit", "elect", "kill", "settle", "cut")
    for trace in runs(monkeypatch, is_manual=is_manual):
        words.update(step.word for step in trace.steps)
        if all(words[word] for word in wanted):
            return  # reigns have parted too: a primary appended alone, was ended, and another was promoted
    raise AssertionError(f"something never happens: {words}")


@pytest.mark.slow
def test_r4_nodes_that_believe_every_report_are_refused_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = FedLog.judge

    async def believe(fed: FedLog, report: LogPositions) -> Any:
        if report.end > fed.partition.log.end_position:
            return await judge(fed, report)
        await trio.lowlevel.checkpoint()
        fed.position = report.end
        fed._sent.append(LogPoint(report.end, fed.partition.log.start_offset))
        return None

    monkeypatch.setattr(FedLog, "judge", believe)
    with pytest.raises((TraceRefused, ExceptionGroup)) as refused:
        list(runs(monkeypatch, is_manual=False))
    assert "R4: its last batch is not in the primary's history" in "".join(format_exception(refused.value))
