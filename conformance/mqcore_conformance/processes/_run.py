"""One run of T1: a recorder against broker processes, faults, healing, drain. The script, from top to bottom.

Judging is the checkers' business.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import trio

from mqcore.abc import Capabilities, StorageContext
from mqcore.guarantees import Level
from mqcore.ports import system_ports
from mqcore.registry import create_storage
from mqcore.testing import seeded
from mqcore_conformance.disk_space import why_no_room
from mqcore_conformance.histories import Event, LivenessObserved, Phase, Setting, TopicSetting, Witnessed
from mqcore_conformance.plans import TOPIC, Plan, ProducerPlan, SendPlan, plan_to_json
from mqcore_conformance.processes._addresses import address
from mqcore_conformance.processes._eatmydata import eatmydata_environment
from mqcore_conformance.processes._families import PROXY_FAMILIES
from mqcore_conformance.processes._injector import Injector
from mqcore_conformance.processes._printed import tell_end
from mqcore_conformance.processes._proxy import Proxy
from mqcore_conformance.processes._recordings import Recording, merged
from mqcore_conformance.processes._world import LIVENESS_BOUND_US, ProcessWorld
from mqcore_conformance.simulation import (
    CallFailed,
    Producer,
    RunResult,
    SessionLost,
    drain_partition,
)

__all__ = ["run_processes"]

SAFETY_S_MAX = 25.0
HEALING_S_MAX = 60.0
REFUSED_S_MAX = 8.0
"""A broker that serves and gives the same answer to every drain for so long will not change its mind."""
RECORDER_END_S_MAX = 10.0
FOLLOW_S = 0.004
DRAIN_PAUSE_S = 0.05


@attrs.define
class _Running:
    """What a run has, and what is left of it when it breaks down."""

    world: ProcessWorld | None = None
    recording: Recording | None = None
    events: list[Event] = attrs.field(factory=list)


def run_processes(
    plan: Plan, folder: Path | None = None, *, eat_my_data: bool = False
) -> RunResult:
    """Run a plan against processes. Not repeatable bit for bit: time is real; its history is judged all the same.

    ``eat_my_data``: the brokers' flushes do nothing (see ``why_no_eatmydata``).
    """
    began = time.perf_counter()
    running = _Running()
    environment = eatmydata_environment() if eat_my_data else None
    error = ""
    with tempfile.TemporaryDirectory(prefix="mqcore-t1-") as temporary:
        try:
            trio.run(_play, plan, folder or Path(temporary), environment, running)
        except Exception as failure:
            cause: BaseException = failure
            while isinstance(cause, BaseExceptionGroup):
                cause = cause.exceptions[0]
            error = f"{type(cause).__name__}: {cause}"
    world = running.world
    return RunResult(
        plan=plan,
        history=running.events,
        notices=[],
        witnesses=Counter(world.witnesses if world is not None else {}),
        exits=world.exits if world is not None else [],
        events=len(running.events),
        calls=0,
        real_seconds=time.perf_counter() - began,
        virtual_seconds=0.0,
        error=error,
    )


async def _play(plan: Plan, folder: Path, environment: dict[str, str] | None, running: _Running) -> None:
    capabilities = _capabilities(plan)
    volatile = max(capabilities.append_level, capabilities.flush_level) < Level.PAGE_CACHE
    world = running.world = ProcessWorld(plan, folder, volatile=volatile, environment=environment)
    recording = running.recording = Recording(folder / "recorded.jsonl")
    world.record(_setting(plan, capabilities))
    world.record(Phase(time_us=world.now_us(), name="safety"))
    async with trio.open_nursery() as nursery:
        proxy = None
        if plan.family in PROXY_FAMILIES:
            proxy = Proxy(address(plan.transport, folder, "proxy"), world.url, seeded(plan.seed, "proxy"), _hit(world))
            await nursery.start(proxy.run)
        injector = Injector(world, recording, proxy)
        nursery.start_soon(world.run_broker)
        nursery.start_soon(_follow, world, recording)
        async with trio.open_nursery() as recording_nursery:
            finish = trio.Event()
            url = proxy.url if proxy is not None else world.url
            recording_nursery.start_soon(_run_recorder, world, url, finish)
            await _safety_and_healing(world, recording, injector)
            finish.set()
        recording.read()
        await _drain(world)
        world.closing = True
        nursery.cancel_scope.cancel()
    history = merged(world.history, recording, world.lives)
    running.events[:] = [*history, Witnessed(time_us=world.now_us(), counts=dict(sorted(world.witnesses.items())))]


async def _safety_and_healing(world: ProcessWorld, recording: Recording, injector: Injector) -> None:
    await world.until(lambda: bool(recording.events) or world.life > 1 or world.given_up)
    with trio.move_on_after(SAFETY_S_MAX):
        await injector.run()
        await world.until(lambda: recording.done or world.given_up)
    world.record(Phase(time_us=world.now_us(), name="healing"))
    await injector.heal()
    with trio.move_on_after(HEALING_S_MAX) as scope:
        await world.until(lambda: recording.done or world.given_up)
        await _probe(world)
    if scope.cancelled_caught:
        _observe(world, "what was begun, and a send to each partition", world.now_us(), False, "it took too long")


def _hit(world: ProcessWorld) -> Callable[[str, str], None]:
    def hit(kind: str, target: str) -> None:
        world.witnesses[kind] += 1
        world.witnesses[f"{kind}:{target}"] += 1

    return hit


async def _run_recorder(world: ProcessWorld, url: str, finish: trio.Event) -> None:
    """Run the recorder until ``finish``; it ends when its standard input does."""
    place = world.folder / "plan.json"
    place.write_text(plan_to_json(world.plan), encoding="utf-8")
    asked = {
        "plan": str(place),
        "to": str(world.folder / "recorded.jsonl"),
        "url": url,
        "began_us": world.began_us,
    }
    printed = world.folder / "recorder.txt"
    with printed.open("w", encoding="utf-8") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "mqcore_conformance.processes._recorder", json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    assert process.stdin is not None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch_recorder, process, printed, finish)
            await finish.wait()
            await process.stdin.aclose()
            with trio.move_on_after(RECORDER_END_S_MAX):
                await process.wait()
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            await process.stdin.aclose()


async def _watch_recorder(process: trio.Process, printed: Path, finish: trio.Event) -> None:
    """A recorder that dies by itself is the engine's failure, not the broker's."""
    status = await process.wait()
    if not finish.is_set():
        no_room = why_no_room(printed.parent)
        raise RuntimeError(f"the recorder ended by itself: {tell_end(status, printed)}{no_room and f'; {no_room}'}")


async def _follow(world: ProcessWorld, recording: Recording) -> None:
    """Read what the recorder writes, a little later."""
    while True:
        before = len(recording.events), recording.done
        recording.read()
        if before != (len(recording.events), recording.done):
            world.changed()
        await trio.sleep(FOLLOW_S)


def _capabilities(plan: Plan) -> Capabilities:
    url = plan.storage.replace("{dir}", "/nowhere")
    return create_storage(url, StorageContext(ports=system_ports())).capabilities


def _setting(plan: Plan, capabilities: Capabilities) -> Setting:
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


async def _probe(world: ProcessWorld) -> None:
    """One send to each partition, which has to succeed now."""
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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe.run)
            await world.until(partial(_is_over, world, probe))
            nursery.cancel_scope.cancel()
        _observe(world, f"a send to partition {partition} after healing", began_us, probe.done, probe.last_code)


def _is_over(world: ProcessWorld, producer: Producer) -> bool:
    return producer.done or world.given_up


async def _drain(world: ProcessWorld) -> None:
    began_us, drained, why, refused_us = world.now_us(), False, "could not connect", 0
    with trio.move_on_after(LIVENESS_BOUND_US / 1e6):
        while not (drained or world.given_up):
            try:
                await _drain_all(world)
                drained = True
            except (SessionLost, CallFailed) as error:
                if str(error) != why:
                    why, refused_us = str(error), world.now_us()
                elif world.now_us() - refused_us > REFUSED_S_MAX * 1e6:
                    break
                await trio.sleep(DRAIN_PAUSE_S)
    _observe(world, "a drain after healing", began_us, drained, why)


async def _drain_all(world: ProcessWorld) -> None:
    session = await world.connect()
    try:
        topic = await session.resolve(TOPIC)
        for partition, end in enumerate(await session.end_offsets(TOPIC)):
            await drain_partition(world, session, topic, partition, end)
    finally:
        await session.aclose()


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
