"""The world of T1, whole: broker processes, the proxy in front of them, and the faults that strike them.

Faults come one after the other, each after so many acknowledgements. Must not know what clients send or what is judged.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mqcore.testing import seeded
from mqcore_conformance.broker_process.pages import why_no_dirty_pages
from mqcore_conformance.clients import WireConsumer
from mqcore_conformance.histories import Completed, FetchAnswered, Invoked
from mqcore_conformance.plans import PROXY_FAMILIES, ConsumerPlan, FaultPlan
from mqcore_conformance.worlds._addresses import address
from mqcore_conformance.worlds.processes._children import BrokerProcesses
from mqcore_conformance.worlds.processes._datagram_proxy import DatagramProxy, proxy_for
from mqcore_conformance.worlds.processes._proxy import Proxy

TRIGGER_S_MAX = 5.0
"""A broker that acknowledges nothing meanwhile is struck all the same."""
CALL_S_MAX = 2.5
LIFE_S_MAX = 60.0
ERROR_S_MAX = 2.0
AFTER_ERROR_S = 0.8
FULL_S_MAX = 2.0
READ_S_MAX = 20.0
READER = "reader-while-full"


class ProcessWorld(BrokerProcesses):
    """See ``World``."""

    _is_done = False
    _proxy: Proxy | DatagramProxy | None = None

    async def inject(self, nursery: trio.Nursery) -> None:
        """See ``World``. Where there is a proxy, clients reach the broker through it from now on."""
        if self.plan.family in PROXY_FAMILIES:
            place = address(self.plan.transport, self.folder, "proxy")
            rng = seeded(self.plan.seed, "proxy")
            self._proxy = proxy_for(self.plan.family, place, self.url, rng, self._proxy_struck)
            await nursery.start(self._proxy.run)
            self.url = self._proxy.url
        self.call_faults += [fault for fault in self.plan.faults if fault.trigger == "call"]
        nursery.start_soon(self._strike_all)

    def _proxy_struck(self, kind: str, target: str) -> None:
        self.witnesses[kind] += 1
        self.witnesses[f"{kind}:{target}"] += 1

    @property
    def is_struck(self) -> bool:
        return self._is_done

    async def _strike_all(self) -> None:
        """Strike with every fault, one after the other; at once when clients have nothing more to send."""
        for fault in self.plan.faults:
            if self.given_up:
                break
            if fault.trigger == "call":
                await self._until(self._has_died_or_is_done(), CALL_S_MAX)
                continue
            await self._acknowledged(fault.when)
            await self._strike(fault)
        self._is_done = True
        self.changed()

    async def heal(self) -> None:
        self.call_faults.clear()
        if self._proxy is not None:
            self._proxy.heal()
        await self.ask(fill=None)

    async def _strike(self, fault: FaultPlan) -> None:
        match fault.kind:
            case "process-kill" | "power-cut" | "stop":
                await trio.sleep(fault.duration_us / 1e6)
                await self.end_life(fault.kind)
            case "pause":
                await self.pause(fault.duration_us / 1e6)
            case "full":
                await self._fill(fault)
            case "flush-error":
                await self._fail_flush(fault)
            case _:
                assert self._proxy is not None
                await self._proxy.strike(fault)

    async def end_life(self, kind: str) -> None:
        """See ``World``. Without dirty pages a power cut is a kill."""
        if kind == "none":
            return
        able = self.has_process if kind != "stop" else lambda: self.is_serving
        await self._until(lambda: able() or self.given_up, LIFE_S_MAX)
        life = self.life
        if kind == "power-cut" and why_no_dirty_pages(str(self.folder)):
            kind = "process-kill"
        if kind == "stop":
            await self.end_in_order()
        else:
            self.kill(kind)
        with trio.move_on_after(LIFE_S_MAX):
            await self.ended(life)

    def _has_died_or_is_done(self) -> Callable[[], bool]:
        life = self.life
        return lambda: self.life > life or self.is_idle() or self.given_up

    async def _acknowledged(self, more: int) -> None:
        await self._until(lambda: self.is_serving or self.given_up, LIFE_S_MAX)
        count = self.acknowledgements + more
        await self._until(lambda: self.is_idle() or self.acknowledgements >= count, TRIGGER_S_MAX)

    async def _until(self, predicate: Callable[[], bool], seconds_max: float) -> None:
        with trio.move_on_after(seconds_max):
            await self.until(predicate)

    async def _fill(self, fault: FaultPlan) -> None:
        """Fill the disk, see that committed data can be read meanwhile, free it."""
        life = self.life
        before = self.witnesses["disk-full"]
        await self.ask(fill=fault.amount)
        await self._until(lambda: self.witnesses["disk-full"] > before, FULL_S_MAX)
        if self.witnesses["disk-full"] > before:
            await trio.sleep(fault.duration_us / 1e6)
            await self._read_while_full(life)
        await self.ask(fill=None)

    async def _read_while_full(self, life: int) -> None:
        events = self.history
        acknowledged = {each.send for each in events if isinstance(each, Completed) and each.offset >= 0}
        partitions = (each.partition for each in events if isinstance(each, Invoked) and each.send in acknowledged)
        name = next(partitions, "")
        if not name:
            return
        plan = ConsumerPlan(name=READER, partition=int(name.rpartition("/")[2]), bytes_max=1_000, pause_us=0)
        seen = len(self.history)

        def has_read() -> bool:
            return any(isinstance(each, FetchAnswered) and each.process == READER for each in self.history[seen:])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(WireConsumer(self, plan).run)
            with trio.move_on_after(READ_S_MAX):
                while not has_read():  # noqa: ASYNC110 - what a reader records wakes nothing
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        what = "it read" if has_read() else f"nothing was read for {READ_S_MAX:g} s"
        if self.life != life:
            what = f"the broker ended: {self.exits[-1] if self.exits else 'it was killed'}"
        holds = has_read() and self.life == life
        self.probe("G20", "committed messages are read while the disk is full", holds, what)

    async def _fail_flush(self, fault: FaultPlan) -> None:
        """Let a flush fail, give the broker time to make something of it, then be the operator who restarts it."""
        before = self.witnesses["disk-flush-error"]
        await self.ask(fail_flush=fault.amount)
        await self._until(lambda: self.witnesses["disk-flush-error"] > before, ERROR_S_MAX)
        if self.witnesses["disk-flush-error"] > before:
            await trio.sleep(AFTER_ERROR_S)
            await self.end_life(fault.target)
