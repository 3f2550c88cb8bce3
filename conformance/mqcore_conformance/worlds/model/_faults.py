"""The injector: strikes when the plan says so, and records what it found to bite.

Must not know what is promised. A fault that is bounded in time is over when its duration is; ``heal`` ends the rest.

A death comes at a call of the file system (one of a device thread too), before a step of any task (so at every await
that lets others run, a thread's answer and a clock's alarm included), at a time, or with an acknowledgement. Between
these a process does nothing that could be observed from outside. Bits rot in a stored message that flushes have covered
long enough for its damage to be provable; where it is stored is found by its mark, not by how a storage lays out files.
"""

from __future__ import annotations

import errno

import attrs
import trio

from mqcore.batch import HEADER_BYTES, MAGIC, unpack_header
from mqcore.errors import CorruptionError
from mqcore.testing import DiskCall
from mqcore_conformance.histories import Appended, FaultInjected, Flushed
from mqcore_conformance.plans import FaultPlan
from mqcore_conformance.worlds.model._machine import ModelMachine
from mqcore_conformance.worlds.model._members import MemberFaults
from mqcore_conformance.worlds.model._peers import Peers

DEATHS = ("process-kill", "power-cut")
ROT_WAIT_S = 5.0
FLAP_S = 0.012


class ModelInjector:
    """Carries out the faults of a plan in ``world``. ``nursery`` runs what waits."""

    def __init__(self, world: ModelMachine, nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery
        self.peers = Peers(world)
        self._members = MemberFaults(world, self._add_stall)
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
        self.strike(fault)

    def _at_call(self, call: DiskCall) -> None:
        for fault in self._by_call.pop(call.number, ()):
            self.strike(fault, call)

    def _at_ack(self, count: int) -> None:
        for fault in self._by_acks.pop(count, ()):
            self.strike(fault)

    def _at_step(self, step: int) -> None:
        for fault in self._by_step.pop(step, ()):
            self.strike(fault)
        self._aim()

    def _aim(self) -> None:
        steps = self._world.steps
        steps.aim(self._at_step, min((step for step in self._by_step if step > steps.count), default=0))

    # ---- striking --------------------------------------------------------------------------------------------

    def strike(self, fault: FaultPlan, call: DiskCall | None = None) -> None:
        """Let a fault strike now; ``call``: at this call of the file system. After ``heal`` nothing does."""
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
                # Of an array half of the time on one member, which is its own matter, else on all: G11 is about that.
                everywhere = [f"{path}/*" for path in self._members.paths] if fault.when % 2 else []
                for path in everywhere or ["*"]:
                    world.disk.fail_next_flush(times=1, partly=partly, path=path)
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
            case kind if kind.startswith("member-"):
                self._members.strike(fault)
                return
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
                network.cut("*", self._world.host_name)
            case "cut-to-broker":
                network.cut("*", self._world.host_name, both_ways=False)
            case "cut-from-broker":
                network.cut(self._world.host_name, "*", both_ways=False)
            case "reset":
                network.reset("*", self._world.host_name)
            case "flap":
                self._nursery.start_soon(self._flap, 2 + fault.amount % 20)
            case "break":
                ways = {"source": self._world.host_name} if fault.amount % 2 else {"destination": self._world.host_name}
                network.break_next(fault.amount, then=fault.target, **ways)  # type: ignore[arg-type]
                network.reset("*", self._world.host_name)  # so that there is a next connection
            case "refuse":
                network.refuse(self._world.host_name)
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
                self._world.network.reset("*", self._world.host_name)
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


FLUSHES_AFTER = 2
"""A durable mark trails its log by at most one flush; one more for good measure."""
TRIES = 8
MAGIC_BYTES = MAGIC.to_bytes(4, "little")


@attrs.frozen
class StoredMessage:
    """A message in a file, and the batch there that it is part of: ``first_offset`` up to ``next_offset``."""

    path: str
    position: int
    partition: str
    first_offset: int
    next_offset: int


def find_durable_message(world: ModelMachine) -> StoredMessage | None:
    """Return a message that two later flushes of its log have followed, or None."""
    durable = _durable_offsets(world)
    candidates = [(partition, mark) for partition, offset, mark in world.stored if offset < durable.get(partition, 0)]
    world.random.shuffle(candidates)
    for partition, mark in candidates[:TRIES]:
        for path in world.disk.paths():
            content = world.disk.content(path, durable=True)
            position = content.find(mark)
            if position >= 0 and "journal" not in path:
                batch = _batch_around(content, position)
                if batch is not None:
                    return StoredMessage(path, position, partition, *batch)
    return None


def _batch_around(content: bytes, position: int) -> tuple[int, int] | None:
    """First and next offset of the batch whose bytes hold ``position``, None where no header says so.

    It is read from the bytes that shall rot: a receipt knows neither the whole batch nor a copy of it elsewhere.
    """
    at = content.rfind(MAGIC_BYTES, 0, position)
    if at < 0 or position < at + HEADER_BYTES:
        return None
    try:
        header = unpack_header(memoryview(content)[at:])
    except CorruptionError:
        return None
    return (header.base_offset, header.end_offset) if position < at + header.size else None


def _durable_offsets(world: ModelMachine) -> dict[str, int]:
    """Offset by partition below which this life's flushes but the last two have covered everything."""
    flushes: dict[str, list[int]] = {}
    appends: dict[str, list[tuple[int, int]]] = {}
    for event in world.history:
        if isinstance(event, Appended) and event.by == world.present:
            appends.setdefault(event.partition, []).append((event.end_position, event.next_offset))
        elif isinstance(event, Flushed) and event.by == world.present and not event.failed:
            for partition, end in event.ends:
                flushes.setdefault(partition, []).append(end)
    return {
        partition: max(
            (offset for position, offset in appends.get(partition, []) if position <= ends[-1 - FLUSHES_AFTER]),
            default=0,
        )
        for partition, ends in flushes.items()
        if len(ends) > FLUSHES_AFTER
    }
