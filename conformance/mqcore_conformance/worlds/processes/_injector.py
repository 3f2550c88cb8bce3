"""Does the faults of a plan of T1, one after the other, each after so many acknowledgements.

Must not know what clients send or what is judged.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mqcore_conformance.broker_process.pages import why_no_dirty_pages
from mqcore_conformance.clients import WireConsumer
from mqcore_conformance.histories import Completed, FetchAnswered, Invoked
from mqcore_conformance.plans import ConsumerPlan, FaultPlan
from mqcore_conformance.worlds.processes._children import BrokerProcesses
from mqcore_conformance.worlds.processes._proxy import Proxy

__all__ = ["ProcessInjector"]

TRIGGER_S_MAX = 5.0
"""A broker that acknowledges nothing meanwhile is struck all the same."""
CALL_S_MAX = 2.5
LIFE_S_MAX = 60.0
ERROR_S_MAX = 2.0
AFTER_ERROR_S = 0.8
FULL_S_MAX = 2.0
READ_S_MAX = 20.0
READER = "reader-while-full"


class ProcessInjector:
    """The faults of ``world.plan``. ``heal`` undoes what lasts."""

    def __init__(self, world: BrokerProcesses, proxy: Proxy | None) -> None:
        self.world = world
        self.is_done = False
        self._proxy = proxy
        world.call_faults += [fault for fault in world.plan.faults if fault.trigger == "call"]

    async def run(self) -> None:
        """Strike with every fault, one after the other; at once when clients have nothing more to send."""
        for fault in self.world.plan.faults:
            if self.world.given_up:
                break
            if fault.trigger == "call":
                await self._until(self._has_died_or_is_done(), CALL_S_MAX)
                continue
            await self._acknowledged(fault.when)
            await self._strike(fault)
        self.is_done = True
        self.world.changed()

    async def heal(self) -> None:
        """Undo what lasts."""
        world = self.world
        world.call_faults.clear()
        if self._proxy is not None:
            self._proxy.heal()
        await world.ask(fill=None)

    async def _strike(self, fault: FaultPlan) -> None:
        world = self.world
        match fault.kind:
            case "process-kill" | "power-cut" | "stop":
                await trio.sleep(fault.duration_us / 1e6)
                await self.end(fault.kind)
            case "pause":
                await world.pause(fault.duration_us / 1e6)
            case "full":
                await self._fill(fault)
            case "flush-error":
                await self._fail_flush(fault)
            case _:
                assert self._proxy is not None
                await self._proxy.strike(fault)

    async def end(self, kind: str) -> None:
        """End the present life and wait for the next. Without dirty pages a power cut is a kill."""
        world = self.world
        if kind == "none":
            return
        able = world.has_process if kind != "stop" else lambda: world.is_serving
        await self._until(lambda: able() or world.given_up, LIFE_S_MAX)
        life = world.life
        if kind == "power-cut" and why_no_dirty_pages(str(world.folder)):
            kind = "process-kill"
        if kind == "stop":
            await world.end_in_order()
        else:
            world.kill(kind)
        await self._wait_for_end(life, LIFE_S_MAX)

    async def _wait_for_end(self, life: int, seconds_max: float) -> None:
        with trio.move_on_after(seconds_max):
            await self.world.ended(life)

    def _has_died_or_is_done(self) -> Callable[[], bool]:
        world, life = self.world, self.world.life
        return lambda: world.life > life or world.is_idle() or world.given_up

    async def _acknowledged(self, more: int) -> None:
        world = self.world
        await self._until(lambda: world.is_serving or world.given_up, LIFE_S_MAX)
        count = world.acknowledgements + more
        await self._until(lambda: world.is_idle() or world.acknowledgements >= count, TRIGGER_S_MAX)

    async def _until(self, predicate: Callable[[], bool], seconds_max: float) -> None:
        with trio.move_on_after(seconds_max):
            await self.world.until(predicate)

    async def _fill(self, fault: FaultPlan) -> None:
        """Fill the disk, see that committed data can be read meanwhile, free it."""
        world, life = self.world, self.world.life
        before = world.witnesses["disk-full"]
        await world.ask(fill=fault.amount)
        await self._until(lambda: world.witnesses["disk-full"] > before, FULL_S_MAX)
        if world.witnesses["disk-full"] > before:
            await trio.sleep(fault.duration_us / 1e6)
            await self._read_while_full(life)
        await world.ask(fill=None)

    async def _read_while_full(self, life: int) -> None:
        world = self.world
        events = world.history
        acknowledged = {each.send for each in events if isinstance(each, Completed) and each.offset >= 0}
        partitions = (each.partition for each in events if isinstance(each, Invoked) and each.send in acknowledged)
        name = next(partitions, "")
        if not name:
            return
        plan = ConsumerPlan(name=READER, partition=int(name.rpartition("/")[2]), bytes_max=1_000, pause_us=0)
        seen = len(world.history)

        def has_read() -> bool:
            return any(isinstance(each, FetchAnswered) and each.process == READER for each in world.history[seen:])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(WireConsumer(world, plan).run)
            with trio.move_on_after(READ_S_MAX):
                while not has_read():  # noqa: ASYNC110 - what a reader records wakes nothing
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        what = "it read" if has_read() else f"nothing was read for {READ_S_MAX:g} s"
        if world.life != life:
            what = f"the broker ended: {world.exits[-1] if world.exits else 'it was killed'}"
        holds = has_read() and world.life == life
        world.probe("G20", "committed messages are read while the disk is full", holds, what)

    async def _fail_flush(self, fault: FaultPlan) -> None:
        """Let a flush fail, give the broker time to make something of it, then be the operator who restarts it."""
        world = self.world
        before = world.witnesses["disk-flush-error"]
        await world.ask(fail_flush=fault.amount)
        await self._until(lambda: world.witnesses["disk-flush-error"] > before, ERROR_S_MAX)
        if world.witnesses["disk-flush-error"] > before:
            await trio.sleep(AFTER_ERROR_S)
            await self.end(fault.target)
