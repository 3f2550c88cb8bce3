"""The simulated machine: disk, network, clock, the broker's lives on it, and the record of what the storage did.

Knows how a life begins and ends; what is sent, injected and judged is other modules' business.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import ClassVar, Self

import attrs
import trio

from mqcore.abc import Capabilities, Notice, StorageContext
from mqcore.broker import Node, serve_broker
from mqcore.config import BrokerConfig, make_config
from mqcore.nurseries import root_cause
from mqcore.ports import Ports
from mqcore.registry import create_storage, register, unregister
from mqcore.testing import DiskCall, ModelClock, ModelDisk, ModelNetwork, ModelThreads, model_ports, seeded
from mqcore_conformance.histories import (
    FIRST_NODE,
    Appended,
    Completed,
    FaultInjected,
    Flushed,
    Invoked,
    NodeLife,
    Started,
)
from mqcore_conformance.plans import RunPlan
from mqcore_conformance.world import Bounds, World
from mqcore_conformance.worlds._addresses import model_url
from mqcore_conformance.worlds.model._hooks import Sabotage, StepCounter
from mqcore_conformance.worlds.model._recording import observed_class, observed_url

BROKER = "broker"
DATA = "/dev/null/data"
"""On the model disk only: a storage that goes behind the ports can make no such folder, as root either."""
PARENTS = ("/dev", "/dev/null")
ON_THE_NETWORK = ("tcp", "unix")
"""Transports of which it is known that a dead host's streams end by themselves."""
EXITS_MAX = 60
"""Starts that may fail before no other is tried."""
RESTART_AFTER_EXIT_S = 0.2
BOUNDS = Bounds(safety_s=60, healing_s=60, probe_s=20, drain_s=20, liveness_us=1_000_000, settle_s=3.6)
"""``lease_ms`` and ``replica_lag_ms`` are 0 on one node; of G13's bound 1 s remains."""


class ModelMachine(World):
    """See the module. Made and used inside one Trio run. ``scheme``: of its storage, for another machine beside it.

    The scheme stands in error texts, and so in the history: it must not depend on what ran before. ``node``: what it is
    called in the history; ``host``: on the network.
    """

    client_options: ClassVar[Mapping[str, int]] = MappingProxyType({"request_timeout_ms": 1_000})

    def __init__(
        self,
        plan: RunPlan,
        sabotage: Sabotage,
        steps: StepCounter,
        *,
        scheme: str = "observed",
        node: str = FIRST_NODE,
        host: str = BROKER,
    ) -> None:
        super().__init__(plan, model_url(plan.transport), BOUNDS)
        self.node_name, self.host_name = node, host
        # what a transport under test does to a reader is not to be blamed on the log
        self.drain_url = f"inproc://drain-{scheme}"
        self.sabotage = sabotage
        self.steps = steps
        self.disk = ModelDisk(seeded(plan.seed, "disk"), folders=PARENTS)
        self.disk.latency_us.update(plan.disk_latency_us)
        self.model_clock = ModelClock()
        self.clock = self.model_clock
        self.network = ModelNetwork(
            seeded(plan.seed, "network"),
            buffer_bytes=plan.network_buffer_bytes,
            latency_s=plan.network_latency_us / 1e6,
            jitter_s=plan.network_jitter_us / 1e6,
            pieces=plan.network_pieces,
        )
        self.random = seeded(plan.seed, "world")
        self.notices_before_life = 0
        self.ports_called = "ports" if host == BROKER else f"ports/{host}"
        """What their generator is drawn for: two nodes would choose the same id from one."""
        self.away_us = 0
        """How much later than planned the next life begins."""
        self.between_lives: list[Callable[[ModelDisk], object]] = []
        """What is done to the disk before the next life begins."""
        self.broker: Node | None = None
        self.scheme = scheme
        self._dead: set[int] = set()
        self._reigns: dict[tuple[str, int], NodeLife] = {}
        self._scope: trio.CancelScope | None = None
        self._observed = observed_class(self, sabotage.wrap_storage)

    def twin(self, disk: ModelDisk) -> Self:
        """Return a machine without faults, on the same network, that starts from ``disk``."""
        plan = attrs.evolve(self.plan, faults=(), network_latency_us=0)
        twin = type(self)(plan, self.sabotage, self.steps, scheme=f"{self.scheme}-again")
        twin.network, twin.disk, twin.url = self.network, disk, self.url
        return twin

    # ---- the record ------------------------------------------------------------------------------------------

    def now_us(self) -> int:
        """Virtual microseconds since the start."""
        return round(trio.current_time() * 1e6)

    def appended(
        self, topic_id: str, index: int, start: int, end: int, base_offset: int, next_offset: int, epoch: int
    ) -> None:
        """See ``Observer``. A process that is dead appends nothing, although its last step may go on in memory."""
        if self.life not in self._dead:
            self.note(
                Appended,
                by=self.present,
                partition=f"{self.name_topic(topic_id)}/{index}",
                position=start,
                end_position=end,
                base_offset=base_offset,
                next_offset=next_offset,
                epoch=epoch,
            )

    def flushed(
        self, ends: Sequence[tuple[str, int, int]], failed: bool, absent: Sequence[tuple[str, int, int]], level: str
    ) -> None:
        """See ``Observer``. A flush that fails because its process is dead is no failure."""
        if not (failed and self.life in self._dead):
            named, lacking = self._named(ends), self._named(absent)
            self.note(Flushed, by=self.present, ends=named, level=level, failed=failed, absent=lacking)

    def _named(self, positions: Sequence[tuple[str, int, int]]) -> tuple[tuple[str, int], ...]:
        return tuple((f"{self.name_topic(topic_id)}/{index}", at) for topic_id, index, at in positions)

    def is_absent(self, data: bytes) -> bool:
        """See ``Observer``. Looks once the device has failed a flush, because it costs a walk over the disk.

        What is not in the page cache in this form either is stored in another form: then nothing is known.
        """
        disk = self.disk
        if not disk.witnesses["flush-error"]:
            return False
        paths = disk.paths()
        if any(data in disk.content(path, durable=True) for path in paths):
            return False
        return any(data in disk.content(path) for path in paths)

    # ---- the broker's lives ----------------------------------------------------------------------------------

    @functools.cached_property
    def config(self) -> BrokerConfig:
        """The configuration of the broker under test."""
        storage = observed_url(self.scheme, self.plan.storage.replace("{dir}", DATA))
        return make_config(**self.config_keys(storage))

    async def run_broker(self) -> None:
        """Run one life after the other until ``closing``, or until too many starts have failed."""
        while not self.closing and len(self.exits) <= EXITS_MAX:
            await self._run_life()
            if not self.closing:
                failed = bool(self.exits) and self.exits[-1].startswith(f"life {self.life}:")
                away_us, self.away_us = max(self.plan.restart_after_us, self.away_us), 0
                await trio.sleep(max(away_us / 1e6, RESTART_AFTER_EXIT_S if failed else 0))
        self.given_up = not self.closing
        self.changed()

    async def _run_life(self) -> None:
        if self.life:
            self.disk = self.disk.restart()
        while self.between_lives:
            self.between_lives.pop(0)(self.disk)
        self.life += 1
        self.notices_before_life = len(self.notices)
        self.changed()
        life = self.life
        files = self.sabotage.wrap_files(self.disk)
        ports = Ports(
            files=files,
            threads=ModelThreads(self.disk),
            clock=self.clock,
            random=seeded(self.plan.seed, f"{self.ports_called}/{life}"),
        )
        register("storage", self.scheme, self._observed)
        try:
            with trio.CancelScope() as self._scope, self.network.host(self.host_name):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve, ports)
        except Exception as error:
            if life not in self._dead:
                self._exited(error)
        finally:
            unregister("storage", self.scheme)
            self.broker = None
        if life not in self._dead:
            self._dead.add(life)
            self.network.kill_host(self.host_name)
            kind = "exit" if self.exits and self.exits[-1].startswith(f"life {life}:") else "stop"
            self.note(FaultInjected, by=self.present, kind=kind)

    def _exited(self, error: Exception) -> None:
        cause = root_cause(error)
        self.exits.append(f"life {self.life}: {type(cause).__name__}: {cause}")
        self.witnesses["exit"] += 1

    async def _serve(self, ports: Ports) -> None:
        async with trio.open_nursery() as nursery:
            serve = functools.partial(serve_broker, self.config, ports=ports, report=self.noticed)
            broker: Node = await nursery.start(serve)
            if self.life in self._dead:
                return
            self.broker = broker
            identity = broker.store.node_id.hex()[:8]
            self.nodes[identity] = self.node_name
            self._has_started(identity, broker.store.epoch)
            self.changed()

    def noticed(self, notice: Notice) -> None:
        """Take what the broker reports to its operator."""
        self.notices.append(notice)

    def _has_started(self, identity: str, epoch: int) -> None:
        """Record that a broker serves, which alone reigns as soon as it does."""
        self._reigns[identity, epoch] = self.present
        self.note(Started, by=self.present, identity=identity, epoch=epoch)

    def kill(self, kind: str, call: DiskCall | None = None) -> bool:
        """End the broker's process now: ``process-kill`` or ``power-cut``. False when there is none to end.

        ``call``: the call of the file system that is about to happen; it may be done in part.
        """
        if self._scope is None or self.life in self._dead or not self.disk.alive:
            return False
        power_cut = kind == "power-cut"
        if self.sabotage.stays_alive():
            return False
        if power_cut:
            self.sabotage.before_power_cut(self.disk)
        hit = self.disk.unflushed_sectors() + self.disk.unflushed_entries()
        self._dead.add(self.life)
        detail = f"{call.operation} {call.path}" if call is not None else ""
        self.note(FaultInjected, by=self.present, kind=kind, detail=detail, hit=hit if power_cut else 1)
        self.witnesses[kind] += 1
        self._witness("power-cut" if power_cut else "kill", hit)
        self.network.kill_host(self.host_name, silent=power_cut)
        if call is not None:
            self.disk.kill_at(call.number, power_cut=power_cut)
        elif power_cut:
            self.disk.power_cut()
        else:
            self.disk.process_kill()
        self._scope.cancel()
        return True

    def stop(self) -> None:
        """Ask the broker to stop in order."""
        if self.broker is not None:
            self.witnesses["stop"] += 1
            self._witness("stop", self.disk.unflushed_sectors() + self.disk.unflushed_entries())
            self.broker.stop()

    def _witness(self, ending: str, unflushed: int) -> None:
        """Count what an ending finds: what is not flushed, and sends that wait for their outcome."""
        waiting = {
            (event.send, event.attempt) for event in self.history if isinstance(event, Invoked) and not event.one_way
        }
        waiting -= {(event.send, event.attempt) for event in self.history if isinstance(event, Completed)}
        self.witnesses[f"unflushed-at-{ending}"] += unflushed
        self.witnesses[f"in-flight-at-{ending}"] += len(waiting)

    # ---- what clients need -----------------------------------------------------------------------------------

    @property
    def present(self) -> NodeLife:
        return NodeLife(self.node_name, self.life)

    @property
    def is_serving(self) -> bool:
        """Whether a broker serves."""
        return self.broker is not None and self.life not in self._dead

    def reign_of(self, identity: str, epoch: int) -> NodeLife:
        return self._reigns.get((identity, epoch), self.present)

    def ports_of(self, client: str) -> Ports:
        random = seeded(self.plan.seed, f"client/{client}")
        return Ports(files=self.disk, threads=ModelThreads(self.disk), clock=self.clock, random=random)

    def host(self, name: str) -> AbstractContextManager[object]:
        return self.network.host(name)

    def swallows(self, by: NodeLife) -> bool:
        """See ``World``. A network's streams end by themselves."""
        return self.plan.transport not in ON_THE_NETWORK and by.life in self._dead

    def capabilities(self) -> Capabilities:
        context = StorageContext(ports=model_ports(self.plan.seed, ModelDisk(0)))
        backend = create_storage(self.plan.storage.replace("{dir}", DATA), context)
        return self.sabotage.wrap_storage(backend).capabilities

    @property
    def event_count(self) -> int:
        """Steps of tasks, calls of the file system, operations on sockets."""
        return self.steps.count + self.disk.call_count + sum(self.network.counts.values())

    def counted_below(self) -> dict[str, int]:
        parts = {"disk": self.disk.witnesses, "network": self.network.witnesses}
        return {f"{part}-{name}": count for part, counts in parts.items() for name, count in counts.items()}
