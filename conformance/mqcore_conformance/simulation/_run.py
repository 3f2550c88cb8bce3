"""One run of a plan: safety phase, healing phase, drain, and what it was worth.

The script of a simulation, from top to bottom. Judging is the checkers' business.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import attrs
import trio

from mqcore.abc import Notice, StorageContext
from mqcore.guarantees import Level
from mqcore.registry import create_storage
from mqcore.testing import Call, ModelDisk, model_ports, run_simulation, seeded
from mqcore_conformance.children.tracebacks import remember_tasks
from mqcore_conformance.histories import (
    DRAIN,
    REFUSES_TO_START,
    Drained,
    Event,
    Fetched,
    FetchFailed,
    LivenessObserved,
    Phase,
    Probed,
    Recovered,
    Setting,
    TopicSetting,
    Witnessed,
    history_digest,
)
from mqcore_conformance.plans import TOPIC, Plan, ProducerPlan, SendPlan
from mqcore_conformance.simulation._altering import alter_topic
from mqcore_conformance.simulation._check_progress import watch_consumers
from mqcore_conformance.simulation._check_released import check_given_back
from mqcore_conformance.simulation._churn import churn_topics
from mqcore_conformance.simulation._consumers import Consumer, drain_partition
from mqcore_conformance.simulation._faults import DEATHS, Injector, StepCounter
from mqcore_conformance.simulation._library_consumer import LibraryConsumer
from mqcore_conformance.simulation._library_producer import LibraryProducer
from mqcore_conformance.simulation._producers import Producer
from mqcore_conformance.simulation._session import Backoff, CallFailed, Session, SessionLost
from mqcore_conformance.simulation._waiting import watch_waiting
from mqcore_conformance.simulation._world import DATA, Sabotage, World

__all__ = ["RunResult", "run_plan"]

SECONDS_MAX = 3_600.0
SAFETY_S_MAX = 60.0
PRODUCERS_S_MAX = 60.0
LIVENESS_BOUND_US = 1_000_000
"""lease_ms and replica_lag_ms are 0 on one node; 1 s remains."""
PROBE_S_MAX = 20.0
REFUSAL_S_MAX = 3.0
OPERATOR_S = 0.25
RETRY_S = 0.02
SETTLE_S = 3.6
LAST_SIZES = (3_000, 700, 3_000)
LAST_S_MAX = 1.0


@attrs.frozen(kw_only=True)
class RunResult:
    """What a run left behind. ``error``: why the engine could not finish it; then the history proves nothing."""

    plan: Plan
    history: list[Event]
    notices: list[Notice]
    witnesses: Counter[str]
    exits: list[str]
    events: int
    calls: int
    real_seconds: float
    virtual_seconds: float
    error: str = ""

    @property
    def digest(self) -> str:
        """Checksum of the history."""
        return history_digest(self.history)


def run_plan(
    plan: Plan, sabotage: Sabotage | None = None, *, watch: Callable[[World, Call], None] | None = None
) -> RunResult:
    """Run a plan; the same plan gives the same history, in any process.

    ``watch`` is told of each call of the file system before healing, in a plan whose faults do not come with calls.
    """
    counter = StepCounter()
    worlds: list[World] = []
    began = time.perf_counter()
    error = ""
    try:
        sabotage = sabotage or Sabotage()
        with sabotage.installed(), _silenced("mqcore.client"):
            run_simulation(
                _Script(plan, sabotage, counter, worlds, watch).run,
                seed=plan.seed,
                seconds_max=SECONDS_MAX,
                instruments=[counter],
            )
    except trio.TooSlowError as late:
        error = f"the run was not over after {SECONDS_MAX:.0f} virtual seconds: {late or 'something waits for ever'}"
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
        cause: BaseException = failure
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if cause is not failure:
            error += f" ({type(cause).__name__}: {cause})"
    if not worlds:
        return RunResult(
            plan=plan,
            history=[],
            notices=[],
            witnesses=Counter(),
            exits=[],
            events=0,
            calls=0,
            real_seconds=0.0,
            virtual_seconds=0.0,
            error=error,
        )
    world = worlds[0]
    world.steps = counter.steps
    return RunResult(
        plan=plan,
        history=world.history,
        notices=world.notices,
        witnesses=world.witnesses,
        exits=world.exits,
        events=world.event_count,
        calls=world.disk.call_count,
        real_seconds=time.perf_counter() - began,
        virtual_seconds=world.history[-1].time_us / 1e6 if world.history else 0.0,
        error=error,
    )


class _Script:
    def __init__(
        self,
        plan: Plan,
        sabotage: Sabotage,
        counter: StepCounter,
        worlds: list[World],
        watch: Callable[[World, Call], None] | None,
    ) -> None:
        self.plan = plan
        self._watch = watch
        self._sabotage = sabotage
        self._counter = counter
        self._worlds = worlds
        self._consumers: list[Consumer | LibraryConsumer] = []

    async def run(self) -> None:
        """Play the plan."""
        remember_tasks()
        world = World(self.plan, self._sabotage)
        self._worlds.append(world)
        if self._watch is not None:
            world.disk.on_call = partial(self._watch, world)
        self._record_setting(world)
        with world.network.installed():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.run_broker)
                injector = Injector(world, nursery, self._counter)
                injector.arm()
                world.record(Phase(time_us=world.now_us(), name="safety"))
                async with trio.open_nursery() as clients:
                    producers = await self._safety(world, clients)
                    await self._healing(world, injector, producers)
                    clients.cancel_scope.cancel()
                if not _has_refused(world.history):
                    await self._drain(world)
                    await check_given_back(world)
                if self.plan.recovery_checked and not world.plan.storage.startswith("memory"):
                    await self._check_recovery(world)
                world.closing = True
                nursery.cancel_scope.cancel()
        world.witnesses.update({f"disk-{name}": count for name, count in world.disk.witnesses.items()})
        world.witnesses.update({f"network-{name}": count for name, count in world.network.witnesses.items()})
        world.record(Witnessed(time_us=world.now_us(), counts=dict(sorted(world.witnesses.items()))))

    def _record_setting(self, world: World) -> None:
        """Ask the composed storage for its levels, then state the build."""
        context = StorageContext(ports=model_ports(self.plan.seed, ModelDisk(0)))
        backend = create_storage(self.plan.storage.replace("{dir}", DATA), context)
        capabilities = self._sabotage.wrap_storage(backend).capabilities
        flush = self.plan.flush or ("sync" if capabilities.flush_level >= Level.DISK else "none")
        policies = (flush,) if self.plan.weakest_send is None else (flush, self.plan.weakest_send)
        topic = TopicSetting(name=TOPIC, partitions=self.plan.partitions, flush=policies, visible=self.plan.visible)
        world.record(
            Setting(
                time_us=0,
                storage=self.plan.storage,
                transport=self.plan.transport,
                append_level=capabilities.append_level.label,
                flush_level=capabilities.flush_level.label,
                topics=(topic,),
                total_bytes_max=self.plan.total_bytes_max,
            )
        )

    async def _safety(self, world: World, clients: trio.Nursery) -> list[Producer | LibraryProducer]:
        """Let the clients work until they are done, or time is up."""
        producers: list[Producer | LibraryProducer] = [
            (Producer if plan.library is None else LibraryProducer)(world, plan, TOPIC)
            for plan in self.plan.producers
        ]
        for producer in producers:
            clients.start_soon(producer.run)
        self._consumers = [
            (LibraryConsumer if plan.library else Consumer)(world, plan, TOPIC) for plan in self.plan.consumers
        ]
        for consumer in self._consumers:
            clients.start_soon(consumer.run)
        if self.plan.alters:
            clients.start_soon(alter_topic, world)
        clients.start_soon(_operate, world)
        if self.plan.churn:
            clients.start_soon(churn_topics, world)
        await _until_done(world, producers, SAFETY_S_MAX)
        return producers

    async def _healing(self, world: World, injector: Injector, producers: Sequence[Producer | LibraryProducer]) -> None:
        """End all faults, then the life (as the plan has it), and hold the system to its liveness bound."""
        await injector.heal()
        world.record(Phase(time_us=world.now_us(), name="healing"))
        life = world.life
        ending = self.plan.last_ending
        if ending == "none" and world.broker is not None and _has_stopped(world):
            ending = "stop"
        if ending in DEATHS and world.kill(ending):
            await world.ended(life)
        elif ending == "stop" and world.broker is not None:
            world.stop()
            await world.ended(life)
        if self.plan.family == "rot-identity" and await self._refuses(world):
            return
        await _until_done(world, producers, PRODUCERS_S_MAX)
        await self._probe(world)
        await injector.peers.gone()
        world.settling = True
        if self.plan.consumers:
            await trio.sleep(SETTLE_S)  # so that they meet what the last fault left
            await watch_consumers(world, self._consumers, LIVENESS_BOUND_US)
        life = world.life
        if self.plan.before_drain in DEATHS and world.kill(self.plan.before_drain):
            await world.ended(life)

    async def _refuses(self, world: World) -> bool:
        """Whether the broker refuses, loudly, to start on the damage that was done."""
        with trio.move_on_after(REFUSAL_S_MAX):
            await world.until(lambda: world.is_serving)
            return False
        world.record(
            Probed(
                time_us=world.now_us(),
                clause="G12",
                question=REFUSES_TO_START,
                holds=bool(world.exits) and "CorruptionError" in world.exits[-1],
                observed=world.exits[-1] if world.exits else "it neither starts nor says why",
            )
        )
        return True

    async def _probe(self, world: World) -> None:
        """A send to every partition has to succeed within the bound."""
        began_us = world.now_us()
        for partition in range(self.plan.partitions):
            plan = ProducerPlan(
                name=f"probe-{partition}",
                partition=partition,
                idempotent=False,
                window=1,
                retries=True,
                sends=(SendPlan(sizes=(60,)),),
            )
            probe = Producer(world, plan, TOPIC)
            with trio.move_on_after(PROBE_S_MAX):
                await probe.run()
            took_us = world.now_us() - began_us if probe.acknowledged else -1
            why = probe.last_code or (world.exits[-1] if world.exits else "no reply")
            world.record(
                LivenessObserved(
                    time_us=world.now_us(),
                    what=f"a send to partition {partition} after healing",
                    took_us=took_us,
                    bound_us=LIVENESS_BOUND_US,
                    reason="" if probe.acknowledged else why,
                )
            )
            began_us = world.now_us()

    async def _drain(self, world: World) -> None:
        world.record(Phase(time_us=world.now_us(), name="drain"))
        if world.history[0].flush_level == Level.NONE.label:  # type: ignore[union-attr]
            return
        began_us, why = world.now_us(), "not reached"
        drained, backoff = False, Backoff()
        with world.network.host("drain"), trio.move_on_after(PROBE_S_MAX):
            while not drained:
                try:
                    session = await world.connect()
                    try:
                        await _drain_all(world, session, self.plan.partitions)
                        drained = True
                    finally:
                        await session.aclose()
                except (SessionLost, CallFailed) as error:
                    why = str(error)
                    await backoff.pause()
        world.record(
            LivenessObserved(
                time_us=world.now_us(),
                what="a drain after healing",
                took_us=world.now_us() - began_us if drained else -1,
                bound_us=LIVENESS_BOUND_US,
                reason="" if drained else why,
            )
        )

    # ---- recovery, again and again ---------------------------------------------------------------------------

    async def _check_recovery(self, world: World) -> None:
        """G17: recover the same crashed disk once, twice, and with a crash inside the recovery; compare the logs."""
        rng = seeded(self.plan.seed, "recovery")
        # a power cut inside the recovery from a kill may take what only the page cache had
        power_cut = rng.random() < 0.5
        await self._leave_something_to_tear(world)
        world.closing = True
        if not world.kill("power-cut" if power_cut else "process-kill"):
            return
        base = world.disk.restart()
        for way, crash_at in (("one recovery", None), ("a crash in it, then recovery", rng.randint(1, 60))):
            fork = base.fork()
            if crash_at is not None:
                fork.kill_at(fork.call_count + crash_at, power_cut=power_cut)
            await self._recover(world, fork, way, crash_at)

    async def _leave_something_to_tear(self, world: World) -> None:
        """Send batches of many sectors to every partition. They come after the drain and are not judged."""
        before = len(world.history)
        for partition in range(self.plan.partitions):
            plan = ProducerPlan(
                name=f"last-{partition}",
                partition=partition,
                idempotent=False,
                window=len(LAST_SIZES),
                retries=False,
                sends=tuple(SendPlan(sizes=(size,)) for size in LAST_SIZES),
            )
            with trio.move_on_after(LAST_S_MAX):
                await Producer(world, plan, TOPIC).run()
        del world.history[before:]

    async def _recover(self, world: World, disk: ModelDisk, way: str, crash_at: int | None) -> None:
        plan = attrs.evolve(self.plan, faults=(), network_latency_us=0)
        twin = World(plan, self._sabotage, scheme="observed-again")
        twin.network, twin.disk = world.network, disk
        twin.url = world.url
        before = disk.call_count
        for lives in range(2):
            async with trio.open_nursery() as nursery:
                twin.closing = False
                nursery.start_soon(twin.run_broker)
                with trio.move_on_after(PROBE_S_MAX), world.network.host("drain"):
                    await _drain_when_possible(twin, self.plan.partitions)
                twin.closing = True
                twin.kill("process-kill")
                nursery.cancel_scope.cancel()
            for partition, content in _content_of(twin.history).items():
                world.record(
                    Recovered(
                        time_us=world.now_us(),
                        group="final",
                        way=way if lives == 0 else f"{way}, then once more",
                        partition=partition,
                        content=content,
                    )
                )
            twin.history.clear()
        world.witnesses["recoveries"] += 2
        world.witnesses["recovery-crashed"] += crash_at is not None and disk.call_count - before >= crash_at


@contextlib.contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keep what a logger says from standard error, where it goes if nobody has set anything up."""
    logger, handler = logging.getLogger(name), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


async def _until_done(world: World, producers: Sequence[Producer | LibraryProducer], seconds_max: float) -> None:
    with trio.move_on_after(seconds_max):
        await world.until(lambda: all(producer.done for producer in producers))


def _has_refused(history: list[Event]) -> bool:
    return any(isinstance(event, Probed) and event.question == REFUSES_TO_START for event in history[-3:])


async def _operate(world: World) -> None:
    """Be the operator who restarts a broker of which a log has stopped, in order or not."""
    while True:
        await trio.sleep(OPERATOR_S)
        if _has_stopped(world):
            life = world.life
            await watch_waiting(world, LIVENESS_BOUND_US)
            if world.life != life:
                continue
            if world.random.random() < 0.5:
                world.stop()
            else:
                world.kill("process-kill")
            await world.ended(life)


def _has_stopped(world: World) -> bool:
    """Whether a log of the broker takes no more appends, or cannot be opened, so that an operator would restart it."""
    broker = world.broker
    if broker is None:
        return False
    told = any(notice.kind == "log-not-opened" for notice in world.notices[world.notices_before_life :])
    return told or any(each.failure is not None for each in broker.partitions.values())


async def _drain_all(world: World, session: Session, partitions: int) -> None:
    topic = await session.resolve(TOPIC)
    ends = await session.end_offsets(TOPIC)
    for partition in range(partitions):
        await drain_partition(world, session, topic, partition, ends[partition])


async def _drain_when_possible(world: World, partitions: int) -> None:
    backoff = Backoff()
    while True:
        try:
            session = await world.connect()
            try:
                await _drain_all(world, session, partitions)
                return
            finally:
                await session.aclose()
        except (SessionLost, CallFailed):
            world.history.clear()
            await backoff.pause()


def _content_of(history: list[Event]) -> dict[str, str]:
    """What a drain found, by partition: messages, ends, and what was reported or served damaged."""
    hashers: dict[str, tuple[list[int], Any]] = {}
    ends: dict[str, str] = {}
    bad = 0
    for event in history:
        if isinstance(event, Fetched) and event.process == DRAIN:
            count, hasher = hashers.setdefault(event.partition, ([0], hashlib.blake2b(digest_size=8)))
            for batch in event.batches:
                count[0] += len(batch.messages)
                hasher.update(repr((batch.base_offset, batch.epoch, batch.messages)).encode())
        elif isinstance(event, FetchFailed):
            _, hasher = hashers.setdefault(event.partition, ([0], hashlib.blake2b(digest_size=8)))
            hasher.update(repr((event.code, event.point, event.until)).encode())
        elif isinstance(event, Drained):
            ends[event.partition] = f"offsets {event.start_offset} to {event.end_offset}"
        bad += isinstance(event, Probed) and not event.holds
    served = f", {bad} batches served damaged" if bad else ""
    return {
        name: f"{ends.get(name, 'no end')}, {count[0]} messages ({hasher.hexdigest()}){served}"
        for name, (count, hasher) in hashers.items()
    }
