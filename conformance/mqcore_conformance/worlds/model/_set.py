"""The world of T0 for a replica set: each node on a machine of its own, one network, a coordinator in memory, one seed.

What clients, script and checkers know of it is what they know of T1's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import trio

from mqcore.abc import Capabilities
from mqcore.errors import StorageError
from mqcore.ports import Ports
from mqcore.registry import register, unregister
from mqcore.testing import ModelClock, ModelDisk, ModelNetwork, ModelThreads, seeded
from mqcore_conformance.clients import CallFailedError, SessionLostError, WireSession, connect
from mqcore_conformance.histories import FIRST_NODE, FaultInjected, LogHeld, NodeLife, SideFileHeld, Started
from mqcore_conformance.plans import RunPlan
from mqcore_conformance.world import Bounds, World
from mqcore_conformance.worlds._addresses import model_url
from mqcore_conformance.worlds._set_keys import LEASE_MS
from mqcore_conformance.worlds.model._hooks import Sabotage, StepCounter
from mqcore_conformance.worlds.model._set_content import content_of, kept_aside
from mqcore_conformance.worlds.model._set_disks import empty_disk
from mqcore_conformance.worlds.model._set_faults import SetInjector
from mqcore_conformance.worlds.model._set_machine import WAYS, SetMachine, way_class

BOUNDS = Bounds(
    safety_s=90, healing_s=60, probe_s=30, drain_s=30, liveness_us=2 * LEASE_MS * 1_000 + 3_000_000, settle_s=2.0
)
ASK_AGAIN_S = 0.05
IN_SYNC_S_MAX = 10.0
SAME_S_MAX = 15.0
"""Longer than a node waits before it asks again for what no other one had when it asked."""
OPERATOR_S = 0.4
END_S_MAX = 30.0


class ModelSetWorld(World):
    """See the module. ``machines``: the node on each, by name."""

    takes_sets: ClassVar[bool] = True
    lease_ms: ClassVar[int] = LEASE_MS

    def __init__(self, plan: RunPlan, sabotage: Sabotage, steps: StepCounter) -> None:
        names = [f"{FIRST_NODE[:-1]}{number}" for number in range(1, plan.nodes + 1)]
        self.node_urls = {name: model_url(plan.transport, number, name) for number, name in enumerate(names)}
        super().__init__(plan, self.node_urls[FIRST_NODE], BOUNDS)
        self.drain_url = ""
        self.clock = ModelClock()
        self.sabotage, self.steps = sabotage, steps
        self.random = seeded(plan.seed, "set")
        self.network = ModelNetwork(
            seeded(plan.seed, "network"),
            buffer_bytes=plan.network_buffer_bytes,
            latency_s=plan.network_latency_us / 1e6,
            jitter_s=plan.network_jitter_us / 1e6,
            pieces=plan.network_pieces,
        )
        self.primary = FIRST_NODE
        self.has_begun = False
        self._reigns: dict[tuple[NodeLife, int], None] = {}
        self._client_disk = ModelDisk(0)
        self.machines: dict[str, SetMachine] = {}
        for name in names:
            machine = SetMachine(self, plan, sabotage, steps, name=name, urls=self.node_urls, reigned=self._has_reigned)
            machine.network = self.network
            self.machines[name] = machine
        self.injector = SetInjector(self, self.machines, self.network, steps)

    def _has_reigned(self, machine: SetMachine, identity: str, epoch: int) -> None:
        if (machine.present, epoch) not in self._reigns:
            self.witnesses["reigns"] += 1
            self.witnesses["failovers"] += bool(self._reigns)
            self._reigns[machine.present, epoch] = None
            self.has_begun = True
            self.note(Started, by=machine.present, identity=identity, epoch=epoch)

    # ---- what clients need -----------------------------------------------------------------------------------

    def now_us(self) -> int:
        return round(trio.current_time() * 1e6)

    @property
    def urls(self) -> Sequence[str]:
        others = [url for name, url in self.node_urls.items() if name != self.primary]
        return [self.node_urls[self.primary], *others]

    @property
    def present(self) -> NodeLife:
        return self.machines[self.primary].present

    @property
    def is_serving(self) -> bool:
        return self.has_begun and any(each.is_serving for each in self.machines.values())

    def reign_of(self, identity: str, epoch: int) -> NodeLife:
        """See ``World``. Asked for what greeted as primary."""
        machine = self.machines.get(self.nodes.get(identity, ""), self.machines[self.primary])
        self.primary = machine.node_name
        self._has_reigned(machine, identity, epoch)
        return machine.present

    def life_of(self, identity: str) -> NodeLife:
        machine = self.machines.get(self.nodes.get(identity, ""))
        return self.present if machine is None else machine.present

    def ports_of(self, client: str) -> Ports:
        random = seeded(self.plan.seed, f"client/{client}")
        return Ports(files=self._client_disk, threads=ModelThreads(self._client_disk), clock=self.clock, random=random)

    def host(self, name: str) -> contextlib.AbstractContextManager[object]:
        return self.network.host(name)

    def swallows(self, by: NodeLife) -> bool:
        machine = self.machines.get(by.node)
        return machine is not None and machine.swallows(by)

    def capabilities(self) -> Capabilities:
        return self.machines[FIRST_NODE].capabilities()

    # ---- the nodes -------------------------------------------------------------------------------------------

    async def run_broker(self) -> None:
        """Run every node, and begin the set once all of them serve."""
        register("coordinators", WAYS, way_class(self.machines))
        try:
            async with trio.open_nursery() as nursery:
                for machine in self.machines.values():
                    nursery.start_soon(self._run_node, machine)
                await self.until(lambda: self.given_up or self.all_serve())
                while not self.has_begun and not self.given_up:
                    with contextlib.suppress(SessionLostError, CallFailedError):
                        session = await WireSession.open(self, self.node_urls[FIRST_NODE], is_any=True)
                        try:
                            await session.call("set.init", {})
                            self.has_begun = True
                        finally:
                            await session.aclose()
                    await trio.sleep(ASK_AGAIN_S)
                self.changed()
        finally:
            unregister("coordinators", WAYS)

    async def _run_node(self, machine: SetMachine) -> None:
        machine.closing = self.closing
        await machine.run_broker()
        self.given_up = self.given_up or (machine.given_up and not self.closing)
        self.changed()

    def all_serve(self) -> bool:
        """Whether every node does."""
        return all(each.is_serving for each in self.machines.values())

    # ---- faults ----------------------------------------------------------------------------------------------

    async def inject(self, nursery: trio.Nursery) -> None:
        self.injector.arm(nursery)

    async def heal(self) -> None:
        await self.injector.heal()
        with trio.move_on_after(END_S_MAX):
            await self.until(lambda: self.all_serve() or self.given_up)

    def _look_at_clone(self, machine: SetMachine) -> None:
        """See what became of a node on a copy of another's disk; give it an empty one, as it should have asked for."""
        refused = bool(machine.exits) and machine.exits[-1].startswith(f"life {machine.life}:")
        if not refused and not machine.is_serving:
            return  # it has not started yet
        machine.is_cloned = False
        observed = machine.exits[-1] if refused else f"{machine.node_name} serves"
        self.probe("G12", "a node refuses to start on a copy of another node's storage", refused, observed)
        machine.between_lives.append(empty_disk)
        if not refused:
            machine.kill("process-kill")

    async def operate(self) -> None:
        """Restart a node of which a log has stopped, add one again that has lost its disk; until cancelled."""
        while True:
            await trio.sleep(OPERATOR_S)
            for machine in self.machines.values():
                if machine.is_cloned:
                    self._look_at_clone(machine)
                if machine.is_new:
                    with contextlib.suppress(SessionLostError, CallFailedError):
                        async with connect(self) as session:
                            await session.ask("replica.add", {"name": machine.node_name})
                        machine.is_new = False
                if machine.has_stopped_log():
                    if self.random.random() < 0.5:
                        machine.stop()
                    else:
                        machine.kill("process-kill")

    def has_stopped_log(self) -> bool:
        return any(each.has_stopped_log() for each in self.machines.values())

    async def end_life(self, kind: str) -> None:
        """See ``World``: of every node; of those whose log has stopped, if they are to stop."""
        if kind == "none":
            return
        if kind == "switchover":
            await self._switch_over()
            return
        lives = {name: machine.life for name, machine in self.machines.items()}
        for machine in self.machines.values():
            if kind == "stop":
                machine.stop()
            else:
                machine.kill(kind)
        with trio.move_on_after(END_S_MAX):
            await self.until(lambda: self.given_up or self.all_serve_after(lives))
            return
        for name, life in lives.items():
            if self.machines[name].life == life:
                self.machines[name].kill("process-kill")

    def all_serve_after(self, lives: Mapping[str, int]) -> bool:
        """Whether every node serves in a later life than one of ``lives``."""
        return all(each.is_serving and each.life > lives[name] for name, each in self.machines.items())

    async def _switch_over(self) -> None:
        began_us, why_not = self.now_us(), "no primary"
        with trio.move_on_after(IN_SYNC_S_MAX):
            while True:
                try:
                    async with connect(self) as session:
                        await session.call("set.switchover", {"to": ""})
                    self.witnesses["switchover"] += 1
                    self.note(FaultInjected, by=session.by, kind="switchover", hit=1)
                    return
                except (SessionLostError, CallFailedError) as error:
                    why_not = str(error)
                await trio.sleep(ASK_AGAIN_S)
        self.measure("a switchover after healing", began_us, False, why_not)

    # ---- checks ----------------------------------------------------------------------------------------------

    async def check_peers(self) -> None:
        """Wait until every node is in sync again: nothing that was done to a set may leave it smaller."""
        began_us, why_not = self.now_us(), "no primary"
        with trio.move_on_after(IN_SYNC_S_MAX):
            while why_not:
                try:
                    async with connect(self) as session:
                        found = (await session.call("set.describe", {}))["members"]
                    assert isinstance(found, list)
                    missing = ", ".join(str(each["name"]) for each in found if not each["in_sync"])
                    why_not = missing and f"not in sync: {missing}"
                    if new := [name for name, machine in self.machines.items() if machine.is_new]:
                        why_not = f"not added again: {', '.join(new)}"
                except (SessionLostError, CallFailedError) as error:
                    why_not = str(error)
                await trio.sleep(ASK_AGAIN_S)
        self.measure("every node is in sync after healing", began_us, not why_not, why_not)

    async def check_recovery(self) -> None:
        """See ``World``: what each node's copies hold, once they have had time to become the same (G10)."""
        contents: dict[str, dict[str, str]] = {}
        with trio.move_on_after(SAME_S_MAX):
            while True:
                with contextlib.suppress(StorageError):  # a log of a reign that has just ended
                    contents = {
                        name: await content_of(machine.broker)
                        for name, machine in self.machines.items()
                        if machine.broker is not None
                    }
                if (
                    len(contents) == len(self.machines)
                    and len({tuple(each.items()) for each in contents.values()}) == 1
                ):
                    break
                await trio.sleep(ASK_AGAIN_S)
        for name, logs in contents.items():
            for log, content in logs.items():
                self.note(LogHeld, by=self.machines[name].present, partition=self.name_log(log), content=content)
        for machine in self.machines.values():
            if machine.broker is not None:
                for log, messages in await kept_aside(machine.broker):
                    self.note(SideFileHeld, by=machine.present, partition=self.name_log(log), messages=messages)

    def name_log(self, log: str) -> str:
        """Return what a partition's log is called in the history."""
        topic_id, _, index = log.partition("-")
        return f"{self.name_topic(topic_id)}/{int(index)}" if index else log

    @property
    def event_count(self) -> int:
        calls = sum(machine.disk.call_count for machine in self.machines.values())
        return self.steps.count + calls + sum(self.network.counts.values())

    def counted_below(self) -> dict[str, int]:
        counts = {f"network-{name}": count for name, count in self.network.witnesses.items()}
        for machine in self.machines.values():
            for name, count in machine.disk.witnesses.items():
                counts[f"disk-{name}"] = counts.get(f"disk-{name}", 0) + count
        return counts
