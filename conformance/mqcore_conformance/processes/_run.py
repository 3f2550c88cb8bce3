"""One run of T1: the clients of the simulation against a process, faults by signal, then healing, drain, verdict."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

import attrs
import trio

from mqcore.abc import StorageContext
from mqcore.guarantees import Level
from mqcore.ports import system_ports
from mqcore.registry import create_storage
from mqcore.testing import seeded
from mqcore_conformance.histories import LivenessObserved, Phase, Setting, TopicSetting, Witnessed
from mqcore_conformance.plans import TOPIC, Plan, ProducerPlan, SendPlan
from mqcore_conformance.processes._world import ProcessWorld
from mqcore_conformance.simulation import (
    CallFailed,
    Consumer,
    Producer,
    RunResult,
    SessionLost,
    drain_partition,
)

__all__ = ["T1_FAMILIES", "run_processes"]

T1_FAMILIES = ("none", "kill", "stop", "pause")
SAFETY_S_MAX = 8.0
HEALING_S_MAX = 20.0
SENDS_MAX = 250
LIVENESS_BOUND_US = 5_000_000
"""1 s as in the simulation, and the start of a Python process on a loaded machine."""


def run_processes(plan: Plan, folder: Path | None = None) -> RunResult:
    """Run a plan against processes. Not repeatable bit for bit: time is real; its history is judged all the same."""
    began = time.perf_counter()
    worlds: list[ProcessWorld] = []
    error = ""
    with tempfile.TemporaryDirectory(prefix="mqcore-t1-") as temporary:
        try:
            trio.run(_play, plan, folder or Path(temporary), worlds)
        except Exception as failure:
            cause: BaseException = failure
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            error = f"{type(cause).__name__}: {cause}"
    world = worlds[0]
    return RunResult(
        plan=plan,
        history=world.history,
        notices=[],
        witnesses=Counter(world.witnesses),
        exits=world.exits,
        events=len(world.history),
        calls=0,
        real_seconds=time.perf_counter() - began,
        virtual_seconds=0.0,
        error=error,
    )


async def _play(plan: Plan, folder: Path, worlds: list[ProcessWorld]) -> None:
    plan = attrs.evolve(plan, producers=tuple(_lengthened(producer) for producer in plan.producers))
    world = ProcessWorld(plan, folder)
    worlds.append(world)
    world.record(_setting(plan))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run_broker)
        world.record(Phase(time_us=world.now_us(), name="safety"))
        await world.until(lambda: world.history[-1].__class__.__name__ == "Started")
        async with trio.open_nursery() as clients:
            working = [Producer(world, each, TOPIC) for each in plan.producers]
            for producer in working:
                clients.start_soon(producer.run)
            for consumer in plan.consumers:
                clients.start_soon(Consumer(world, consumer, TOPIC).run)
            clients.start_soon(_inject, world)
            with trio.move_on_after(SAFETY_S_MAX):
                await world.until(lambda: all(producer.done for producer in working))
            world.record(Phase(time_us=world.now_us(), name="healing"))
            await _end_life(world)
            with trio.move_on_after(HEALING_S_MAX):
                await world.until(lambda: all(producer.done for producer in working))
            await _probe(world)
            clients.cancel_scope.cancel()
        await _drain(world)
        world.closing = True
        nursery.cancel_scope.cancel()
    world.record(Witnessed(time_us=world.now_us(), counts=dict(sorted(world.witnesses.items()))))


def _lengthened(producer: ProducerPlan) -> ProducerPlan:
    """Give a producer work for about a second of real time: its sends again and again, with short pauses."""
    sends = [attrs.evolve(send, pause_us=min(send.pause_us, 2_000)) for send in producer.sends]
    return attrs.evolve(producer, sends=tuple((sends * SENDS_MAX)[:SENDS_MAX]))


def _setting(plan: Plan) -> Setting:
    backend = create_storage(plan.storage.replace("{dir}", "/nowhere"), StorageContext(ports=system_ports()))
    capabilities = backend.capabilities
    flush = plan.flush or ("sync" if capabilities.flush_level >= Level.DISK else "none")
    policies = (flush,) if plan.weakest_send is None else (flush, plan.weakest_send)
    topic = TopicSetting(name=TOPIC, partitions=plan.partitions, flush=policies, visible=plan.visible)
    return Setting(
        time_us=0,
        storage=plan.storage,
        transport=plan.transport,
        append_level=capabilities.append_level.label,
        flush_level=capabilities.flush_level.label,
        topics=(topic,),
    )


async def _inject(world: ProcessWorld) -> None:
    """Strike once or twice, at a random acknowledgement or a random moment."""
    rng = seeded(world.plan.seed, "t1")
    if world.plan.family == "none":
        return
    for _ in range(rng.choice((1, 2, 3))):
        await trio.sleep(rng.choice((0.0, rng.random() * 0.05, rng.random() * 0.2)))
        count = len(world.stored) + rng.randint(1, 60)
        with trio.move_on_after(0.5):
            while len(world.stored) < count:  # noqa: ASYNC110 - the moment is to be a random one
                await trio.sleep(0.0005)
        life = world.life
        if world.plan.family == "kill":
            world.kill()
        elif world.plan.family == "stop":
            world.terminate()
        else:
            await world.pause(rng.choice((0.05, 0.4)))
            continue
        with trio.move_on_after(10):
            await world.ended(life)


async def _end_life(world: ProcessWorld) -> None:
    life = world.life
    if world.plan.family == "stop":
        world.terminate()
    elif world.plan.family == "kill":
        world.kill()
    else:
        return
    with trio.move_on_after(10):
        await world.ended(life)


async def _probe(world: ProcessWorld) -> None:
    for partition in range(world.plan.partitions):
        began_us = world.now_us()
        plan = ProducerPlan(
            name=f"probe-{partition}",
            partition=partition,
            idempotent=False,
            window=1,
            retries=True,
            sends=(SendPlan(sizes=(60,)),),
        )
        probe = Producer(world, plan, TOPIC)
        with trio.move_on_after(HEALING_S_MAX):
            await probe.run()
        _observe(world, f"a send to partition {partition}", began_us, probe.done, probe.last_code)


async def _drain(world: ProcessWorld) -> None:
    began_us, drained, why = world.now_us(), False, "could not connect"
    with trio.move_on_after(HEALING_S_MAX):
        while not drained:
            try:
                session = await world.connect()
                try:
                    topic = await session.resolve(TOPIC)
                    for partition, end in enumerate(await session.end_offsets(TOPIC)):
                        await drain_partition(world, session, topic, partition, end)
                    drained = True
                finally:
                    await session.aclose()
            except (SessionLost, CallFailed) as error:
                why = str(error)
                await trio.sleep(0.05)
    _observe(world, "a drain", began_us, drained, why)


def _observe(world: ProcessWorld, what: str, began_us: int, happened: bool, why: str) -> None:
    world.record(
        LivenessObserved(
            time_us=world.now_us(),
            what=what,
            took_us=world.now_us() - began_us if happened else -1,
            bound_us=LIVENESS_BOUND_US,
            reason="" if happened else (world.exits[-1] if world.exits else why),
        )
    )
