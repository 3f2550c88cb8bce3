"""The injector: strikes when the plan says so, and records what it found to bite.

Must not know what is promised. A fault that is bounded in time is over when its duration is; ``heal`` ends the rest.

A death comes at a call of the file system (one of a device thread too), before a step of any task (so at every await
that lets others run, a thread's answer and a clock's alarm included), at a time, or with an acknowledgement. Between
these a process does nothing that could be observed from outside.
"""

from __future__ import annotations

import errno

import trio

from mqcore.testing import DiskCall
from mqcore_conformance.histories import FaultInjected
from mqcore_conformance.plans import FaultPlan
from mqcore_conformance.worlds.model._damage import find_durable_message
from mqcore_conformance.worlds.model._machine import BROKER, ModelMachine
from mqcore_conformance.worlds.model._peers import Peers

__all__ = ["DEATHS", "ModelInjector"]

DEATHS = ("process-kill", "power-cut")
ROT_WAIT_S = 5.0
FLAP_S = 0.012


class ModelInjector:
    """Carries out the faults of a plan in ``world``. ``nursery`` runs what waits."""

    def __init__(self, world: ModelMachine, nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery
        self.peers = Peers(world)
        self._healed = False
        self._stalled_until = 0.0
        self._by_call: dict[int, list[FaultPlan]] = {}
        self._by_step: dict[int, list[FaultPlan]] = {}
        self._by_acks: dict[int, list[FaultPlan]] = {}

    def arm(self) -> None:
        """Let the faults of the plan come."""
        tables = {"call": self._by_call, "step": self._by_step, "acks": self._by_acks}
        for fault in self._world.plan.faults:
            if fault.trigger == "time":
                self._nursery.start_soon(self._later, fault)
            else:
                tables[fault.trigger].setdefault(fault.when, []).append(fault)
        if self._by_call:
            self._world.disk.on_call = self._at_call
        self._world.on_ack = self._at_ack
        self._aim()

    async def _later(self, fault: FaultPlan) -> None:
        await trio.sleep(fault.when / 1e6)
        self._strike(fault)

    def _at_call(self, call: DiskCall) -> None:
        for fault in self._by_call.pop(call.number, ()):
            self._strike(fault, call)

    def _at_ack(self, count: int) -> None:
        for fault in self._by_acks.pop(count, ()):
            self._strike(fault)

    def _at_step(self, step: int) -> None:
        for fault in self._by_step.pop(step, ()):
            self._strike(fault)
        self._aim()

    def _aim(self) -> None:
        steps = self._world.steps
        steps.aim(self._at_step, min((step for step in self._by_step if step > steps.count), default=0))

    # ---- striking --------------------------------------------------------------------------------------------

    def _strike(self, fault: FaultPlan, call: DiskCall | None = None) -> None:
        if self._healed:
            return
        world = self._world
        if fault.kind in DEATHS:
            world.kill(fault.kind, call)
            return
        hit = 1
        match fault.kind:
            case "flush-error":
                partly = world.random if fault.amount else None
                world.disk.fail_next_flush(times=1, partly=partly)
            case "full":
                world.disk.bytes_max = world.disk.used_bytes + fault.amount
                self._nursery.start_soon(self._end_full, fault.duration_us)
            case "io-error":
                error = errno.EMFILE if fault.target == "open" else errno.EIO
                world.disk.fail_next(fault.target, error, times=fault.amount)
            case "stall":
                world.disk.stall_next(fault.target, fault.duration_us / 1e6)
                self._add_stall(fault)
            case "power-cut-in-stall":
                for operation in ("flush", "flush_many"):
                    world.disk.stall_next(operation, fault.duration_us / 1e6)
                self._add_stall(fault)
                self._nursery.start_soon(self._cut_later, fault.amount)
            case "wall-jump":
                before_ms = world.clock.wall_ms()
                world.model_clock.jump_wall(fault.amount)
                hit = int(world.clock.wall_ms() != before_ms)
                world.witnesses["wall-jump"] += hit
            case "rot":
                self._nursery.start_soon(self._rot, fault.amount)
                return
            case "stop":
                world.stop()
                return
            case "rot-identity":
                self._rot_identity(fault.amount)
                return
            case kind if kind.startswith("peer-"):
                self._nursery.start_soon(self.peers.run, kind, fault.amount)
            case _:
                self._strike_network(fault)
        world.note(FaultInjected, by=world.present, kind=fault.kind, detail=fault.target, hit=hit)

    def _add_stall(self, fault: FaultPlan) -> None:
        # One after the other: what the first holds up may be what the second is for.
        self._stalled_until = max(self._stalled_until, trio.current_time()) + fault.duration_us / 1e6

    def _strike_network(self, fault: FaultPlan) -> None:
        network = self._world.network
        match fault.kind:
            case "cut":
                network.cut("*", BROKER)
            case "cut-to-broker":
                network.cut("*", BROKER, both_ways=False)
            case "cut-from-broker":
                network.cut(BROKER, "*", both_ways=False)
            case "reset":
                network.reset("*", BROKER)
            case "flap":
                self._nursery.start_soon(self._flap, 2 + fault.amount % 20)
            case "break":
                ways = {"source": BROKER} if fault.amount % 2 else {"destination": BROKER}
                network.break_next(fault.amount, then=fault.target, **ways)  # type: ignore[arg-type]
                network.reset("*", BROKER)  # so that there is a next connection
            case "refuse":
                network.refuse(BROKER)
            case _:
                raise ValueError(f"unknown fault {fault.kind!r}")
        if fault.kind.startswith("cut") or fault.kind == "refuse":
            self._nursery.start_soon(self._end_network, fault.duration_us)

    async def _cut_later(self, after_us: int) -> None:
        await trio.sleep(after_us / 1e6)
        if not self._healed:
            self._world.kill("power-cut")

    async def _flap(self, times: int) -> None:
        for _ in range(times):
            if not self._healed:
                self._world.network.reset("*", BROKER)
                await trio.sleep(FLAP_S)

    async def _end_full(self, duration_us: int) -> None:
        await trio.sleep(duration_us / 1e6)
        self._world.disk.bytes_max = None

    async def _end_network(self, duration_us: int) -> None:
        await trio.sleep(duration_us / 1e6)
        self._world.network.heal()
        self._world.network.accept_again()

    def _rot_identity(self, size: int) -> None:
        """Spoil every copy of the broker's identity."""
        world = self._world
        for path in world.disk.paths():
            if "identity" in path and "quarantine" not in path:
                content = world.disk.content(path, durable=True)
                first = size if len(content) > size else 0  # the header of a file is spared where there is more
                if content:
                    world.disk.rot(path, first, len(content) - first, world.random)
                    world.note(FaultInjected, by=world.present, kind="rot", detail=path, hit=len(content))

    async def _rot(self, size: int) -> None:
        """Flip bits in a batch that two flushes of its log have covered, so that its damage has to be known."""
        world = self._world
        with trio.move_on_after(ROT_WAIT_S):
            while (place := find_durable_message(world)) is None:  # noqa: ASYNC110 - it costs a look at the disk
                await trio.sleep(0.05)
            if self._healed:
                return
            world.disk.rot(place.path, place.position, size, world.random)
            world.note(
                FaultInjected,
                by=world.present,
                kind="rot",
                detail=f"{place.path} at {place.position}",
                hit=size,
                partition=place.partition,
                first_offset=place.first_offset,
                next_offset=place.next_offset,
            )

    # ---- healing ---------------------------------------------------------------------------------------------

    async def heal(self) -> None:
        """End every fault, and wait for what cannot be ended (a stall that began)."""
        self._healed = True
        world = self._world
        world.network.calm()
        world.disk.bytes_max = None
        world.disk.latency_us.clear()
        faults = world.disk.machine.faults
        faults.errors.clear()
        faults.stalls.clear()
        faults.flushes.clear()
        faults.bad_ranges.clear()
        faults.active = False
        world.disk.on_call = None
        if self._stalled_until > trio.current_time():
            await trio.sleep_until(self._stalled_until + 0.1)
