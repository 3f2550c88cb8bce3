"""The injector of a simulated set: picks whom a fault strikes, and does what only a set can suffer.

What strikes one machine is the injector's of a broker alone. Must not know what is promised.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs
import trio

from mqcore.abc import CoordinatorContext
from mqcore.registry import create_coordinator
from mqcore.testing import DiskCall, ModelNetwork, model_ports
from mqcore_conformance.histories import FaultInjected
from mqcore_conformance.plans import FaultPlan
from mqcore_conformance.world import World
from mqcore_conformance.worlds.model._faults import DEATHS, ModelInjector
from mqcore_conformance.worlds.model._hooks import StepCounter
from mqcore_conformance.worlds.model._set_disks import empty_disk, files_of, place_to_rot, put_files, rot_batch
from mqcore_conformance.worlds.model._set_machine import COORDINATOR, SetMachine

FLAP_S = 0.15


class SetInjector:
    """Carries out the faults of a plan in ``world``, on its ``machines`` and their ``network``."""

    def __init__(
        self, world: World, machines: Mapping[str, SetMachine], network: ModelNetwork, steps: StepCounter
    ) -> None:
        self._world, self._machines, self._network, self._steps = world, machines, network, steps
        ports = model_ports(world.plan.seed)
        self._coordinator = create_coordinator(COORDINATOR, CoordinatorContext(ports=ports))
        self._healed = False
        self._of: dict[str, ModelInjector] = {}
        self._by_step: dict[int, list[FaultPlan]] = {}
        self._by_acks: dict[int, list[FaultPlan]] = {}
        self._backup: Any = None
        self._copies: dict[str, Mapping[str, bytes]] = {}

    def arm(self, nursery: trio.Nursery) -> None:
        """Let the faults of the plan come."""
        self._nursery = nursery
        self._of = {name: ModelInjector(each, nursery) for name, each in self._machines.items()}
        for fault in self._world.plan.faults:
            match fault.trigger:
                case "time":
                    nursery.start_soon(self._later, fault)
                case "call":
                    machine = self._machines[fault.node]
                    machine.disk.on_call = partial(self._at_call, machine)
                case "step":
                    self._by_step.setdefault(fault.when, []).append(fault)
                case "acks":
                    self._by_acks.setdefault(fault.when, []).append(fault)
        self._world.on_ack = self._at_ack
        self._aim()

    async def _later(self, fault: FaultPlan) -> None:
        await trio.sleep(fault.when / 1e6)
        self._strike(fault)

    def _at_call(self, machine: SetMachine, call: DiskCall) -> None:
        for fault in self._world.plan.faults:
            if (fault.trigger, fault.node, fault.when) == ("call", machine.node_name, call.number):
                self._of[machine.node_name].strike(fault, call)

    def _at_ack(self, count: int) -> None:
        for fault in self._by_acks.pop(count, ()):
            self._strike(fault)

    def _at_step(self, step: int) -> None:
        for fault in self._by_step.pop(step, ()):
            self._strike(fault)
        self._aim()

    def _aim(self) -> None:
        steps = self._steps
        steps.aim(self._at_step, min((step for step in self._by_step if step > steps.count), default=0))

    # ---- striking --------------------------------------------------------------------------------------------

    def struck_by(self, fault: FaultPlan) -> list[SetMachine]:
        """Whom a fault strikes: the nodes named (``n1+n2``), all, the first that is not the primary, or the primary."""
        world = self._world
        reigning = [each for each in self._machines.values() if each.broker is not None and each.broker.reign]
        primary = reigning[-1] if reigning else self._machines[world.present.node]
        target = fault.target.partition("/")[0]
        named = [self._machines[each] for each in target.split("+") if each in self._machines]
        if named:
            return named
        if target == "all":
            return list(self._machines.values())
        if target == "replica":
            return [each for each in self._machines.values() if each is not primary][:1]
        return [primary]

    def _strike(self, fault: FaultPlan) -> None:
        if self._healed or not self._world.witnesses["reigns"] or fault.kind == "clock-drift":
            return
        if fault.kind.startswith("coordinator-all"):
            self._nursery.start_soon(self._strike_coordinator, fault)
            return
        struck = self.struck_by(fault)
        if fault.kind == "rot":
            self._nursery.start_soon(self._rot, fault, struck)
            return
        for machine in struck:
            self._strike_one(fault, machine)

    def _strike_one(self, fault: FaultPlan, machine: SetMachine) -> None:
        world, name = self._world, machine.node_name
        others = [each for each in self._machines if each != name]
        match fault.kind:
            case "emptied":
                machine.between_lives.append(empty_disk)
                machine.kill("power-cut")
                world.witnesses["emptied"] += 1
                world.note(FaultInjected, by=machine.present, kind="emptied", hit=1)
                return
            case "cloned" | "backup" | "old-copy":
                self._copy_disk(fault, machine)
                return
            case "isolate":  # from the others and the coordinator; clients still reach it
                for other in others:
                    self._network.cut(name, other)
                machine.is_cut_from_coordinator = True
            case "cut-peers":
                for other in others:
                    self._network.cut(name, other)
            case "cut-to-peers":
                for other in others:
                    self._network.cut(name, other, both_ways=False)
            case "cut-from-peers":
                for other in others:
                    self._network.cut(other, name, both_ways=False)
            case "flap-peers":
                self._nursery.start_soon(self._flap, name, fault.amount)
            case "coordinator-cut":
                machine.is_cut_from_coordinator = True
            case "coordinator-slow":
                machine.coordinator_delay_ms = fault.amount / 1_000
            case _:
                if fault.kind in DEATHS and fault.duration_us:
                    machine.away_us = fault.duration_us
                # what a machine's own injector calls a target is an operation, if anything
                self._of[name].strike(attrs.evolve(fault, target=fault.target.partition("/")[2]))
                return
        world.witnesses[fault.kind] += 1
        world.note(FaultInjected, by=machine.present, kind=fault.kind, hit=1)
        if fault.kind != "flap-peers":
            self._nursery.start_soon(self._end, machine, fault.duration_us)

    def _copy_disk(self, fault: FaultPlan, machine: SetMachine) -> None:
        """Keep a copy of a node's disk, or start the node on a copy: its own one of then, or another node's of now."""
        world = self._world
        if fault.kind == "backup":
            self._copies[machine.node_name] = files_of(machine.disk)
            return
        if fault.kind == "cloned":
            others = [each for each in self._machines.values() if each is not machine and each.is_serving]
            files = files_of(others[0].disk) if others else None
            machine.is_cloned = bool(others)
        else:
            files = self._copies.get(machine.node_name)
        if files is None or not machine.is_serving:
            machine.is_cloned = False
            return
        if fault.duration_us:
            machine.away_us = fault.duration_us
        machine.between_lives.append(partial(put_files, files))
        machine.kill("process-kill")
        world.witnesses[fault.kind] += 1
        world.note(FaultInjected, by=machine.present, kind=fault.kind, hit=1)

    async def _rot(self, fault: FaultPlan, machines: list[SetMachine]) -> None:
        """Have bits of one batch rot on all of ``machines`` that have it; then end them, if that is for a while."""
        world, rng = self._world, machines[0].random
        where = fault.target.partition("/")[2]
        place = await place_to_rot(machines[0], where, rng, in_header=not fault.amount)
        if place is None or self._healed:
            return
        for machine in machines:
            where = rot_batch(machine.disk, place, fault.amount, rng) if machine.disk.alive else ""
            if not where:
                continue
            batch = place.batch
            offsets = (batch.base_offset, batch.end_offset) if not batch.is_control else (0, 0)
            world.note(
                FaultInjected, by=machine.present, kind="rot", detail=where, hit=1,
                partition=place.partition, first_offset=offsets[0], next_offset=offsets[1],
            )  # fmt: skip
            if fault.duration_us:
                machine.away_us = fault.duration_us
                if rng.random() < 0.5:
                    machine.stop()
                else:
                    machine.kill("process-kill")

    async def _strike_coordinator(self, fault: FaultPlan) -> None:
        """What befalls the coordinator's server, and so every node."""
        match fault.kind:
            case "coordinator-all-backup":
                self._backup = (await self._coordinator.operate("copy", {}))["copy"]
                return
            case "coordinator-all-restored":
                if self._backup is None:
                    return
                await self._coordinator.operate("restore", {"copy": self._backup})
            case "coordinator-all-frozen":
                await self._coordinator.operate("freeze", {})
        self._world.witnesses[fault.kind] += 1
        self._world.note(FaultInjected, kind=fault.kind, hit=1)
        if fault.kind == "coordinator-all-frozen":
            await trio.sleep(fault.duration_us / 1e6)
            await self._coordinator.operate("thaw", {})

    async def _flap(self, name: str, times: int) -> None:
        for number in range(times):
            if self._healed:
                return
            for other in self._machines:
                if other != name:
                    self._network.reset(name, other)
                    self._network.reset(other, name)
            await trio.sleep(FLAP_S * (1 + number % 3))

    async def _end(self, machine: SetMachine, duration_us: int) -> None:
        await trio.sleep(duration_us / 1e6)
        self._network.heal()
        machine.is_cut_from_coordinator, machine.coordinator_delay_ms = False, 0.0

    async def heal(self) -> None:
        """End every fault."""
        self._healed = True
        await self._coordinator.operate("thaw", {})
        for machine in self._machines.values():
            machine.is_cut_from_coordinator, machine.coordinator_delay_ms = False, 0.0
        for injector in self._of.values():
            await injector.heal()
