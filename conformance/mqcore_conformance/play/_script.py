"""The script of a run, from top to bottom: safety phase, healing phase, probes, drain, checks of what is left.

The same for every world. Judging is the checkers' business.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from mqcore.guarantees import Level
from mqcore_conformance.clients import (
    GroupReader,
    LibraryConsumer,
    LibraryProducer,
    NamedProgram,
    PlannedConsumer,
    WireConsumer,
    WireProducer,
    alter_topic,
    churn_topics,
    describe_groups,
    drain_when_possible,
    send_once,
    watch_consumers,
)
from mqcore_conformance.histories import REFUSES_TO_START, Phase, Setting, TopicSetting, Witnessed
from mqcore_conformance.plans import TOPIC
from mqcore_conformance.world import World

REFUSAL_S_MAX = 3.0
Consumers = Sequence[PlannedConsumer]


async def play(world: World) -> None:
    """Play the plan of ``world``; its history, exits and witnesses are the result."""
    plan = world.plan
    keeps_nothing = _record_setting(world)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run_broker)
        await world.inject(nursery)
        world.note(Phase, name="safety")
        async with trio.open_nursery() as clients:
            consumers = await _be_safe(world, clients)
            refused = await _heal(world)
            if not refused:
                await _probe(world, consumers)
            clients.cancel_scope.cancel()
        if not refused:
            world.note(Phase, name="drain")
            if not keeps_nothing:
                await _drain(world)
            await world.check_released()
        if plan.recovery_checked:
            await world.check_recovery()
        world.closing = True
        nursery.cancel_scope.cancel()
    world.witnesses.update(world.counted_below())
    world.note(Witnessed, counts=dict(sorted(world.witnesses.items())))


def _record_setting(world: World) -> bool:
    """Ask the composed storage for its levels, then state the build. True when it keeps nothing at all."""
    plan, capabilities = world.plan, world.capabilities()
    flush = plan.flush or ("sync" if capabilities.flush_level >= Level.DISK else "none")
    policies = (flush,) if plan.weakest_send is None else (flush, plan.weakest_send)
    topic = TopicSetting(
        name=TOPIC,
        partitions=plan.partitions,
        flush=policies,
        visible=plan.visible,
        replication=plan.replication,
        retention=plan.retention_bytes > 0,
    )
    world.history.append(
        Setting(
            time_us=0,
            storage=plan.storage,
            transport=plan.transport,
            append_level=capabilities.append_level.label,
            flush_level=capabilities.flush_level.label,
            topics=(topic,),
            total_bytes_max=plan.total_bytes_max,
            lease_ms=world.lease_ms,
        )
    )
    return capabilities.flush_level is Level.NONE


async def _be_safe(world: World, clients: trio.Nursery) -> Consumers:
    """Let clients work and faults strike until all is done, or time is up; return the consumers, which read on."""
    plan = world.plan
    producers = [(WireProducer if each.library is None else LibraryProducer)(world, each) for each in plan.producers]
    consumers = [(LibraryConsumer if each.library else WireConsumer)(world, each) for each in plan.consumers]
    programs = [NamedProgram(world, each) for each in plan.names]
    groups = [GroupReader(world, each) for each in plan.groups]
    world.is_idle = lambda: all(client.done for client in (*producers, *programs))
    for client in (*producers, *programs, *consumers, *groups):
        clients.start_soon(client.run)
    if plan.alters:
        clients.start_soon(alter_topic, world)
    clients.start_soon(world.operate)
    if plan.churn:
        clients.start_soon(churn_topics, world)
    with trio.move_on_after(world.bounds.safety_s):
        await world.until(lambda: (world.is_idle() and world.is_struck) or world.given_up)
    return consumers


async def _heal(world: World) -> bool:
    """End all faults, then the life, as the plan has it. True when the broker refuses to start on what is left."""
    await world.heal()
    world.note(Phase, name="healing")
    ending = world.plan.last_ending
    await world.end_life("stop" if ending == "none" and world.has_stopped_log() else ending)
    return world.plan.family == "rot-identity" and await _refuses(world)


async def _refuses(world: World) -> bool:
    """Whether the broker refuses, loudly, to start on the damage that was done."""
    with trio.move_on_after(REFUSAL_S_MAX):
        await world.until(lambda: world.is_serving)
        return False
    observed = world.exits[-1] if world.exits else "it neither starts nor says why"
    world.probe("G12", REFUSES_TO_START, "CorruptionError" in observed, observed)
    return True


async def _probe(world: World, consumers: Consumers) -> None:
    """What was begun is finished, a send to every partition succeeds, consumers read on: within the bound."""
    bounds = world.bounds
    with trio.move_on_after(bounds.healing_s):
        await world.until(lambda: world.is_idle() or world.given_up)
    for partition in range(world.plan.partitions):
        began_us = world.now_us()
        probe = await send_once(world, f"probe-{partition}", partition, bounds.probe_s)
        why_not = probe.last_code or (world.exits[-1] if world.exits else "no reply")
        world.measure(f"a send to partition {partition} after healing", began_us, probe.acknowledged > 0, why_not)
        if not probe.acknowledged:
            break  # the others would each take as long
    await world.check_peers()
    world.settling = True
    if consumers and bounds.settle_s:
        await trio.sleep(bounds.settle_s)
        await watch_consumers(world, consumers)
    await world.end_life(world.plan.before_drain)


async def _drain(world: World) -> None:
    began_us = since_us = world.now_us()
    why_not, drained = "not reached", False

    def retry(why: str) -> bool:
        nonlocal why_not, since_us
        if why != why_not:
            why_not, since_us = why, world.now_us()
        return not world.given_up and world.now_us() - since_us <= world.bounds.refused_s * 1e6

    with trio.move_on_after(world.bounds.drain_s):
        drained = await drain_when_possible(world, retry)
        if drained:
            await describe_groups(world, retry)
    world.measure("a drain after healing", began_us, drained, why_not)
