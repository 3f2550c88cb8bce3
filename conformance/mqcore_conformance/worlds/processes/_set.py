"""The world of T1 for a replica set: one broker process for each node, a coordinator, and their faults.

Clients are told every node's address and find the primary by asking. Faults come one after the other, each after so
many acknowledgements. Must not know what clients send or what is judged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import trio

from mqcore.abc import Capabilities, StorageContext
from mqcore.errors import CorruptionError, StorageError
from mqcore.ports import Ports, system_ports
from mqcore.registry import create_storage
from mqcore.testing import seeded
from mqcore_conformance.broker_process.ports import Injection
from mqcore_conformance.clients import CallFailedError, SessionLostError, WireSession, connect
from mqcore_conformance.histories import FIRST_NODE, FaultInjected, NodeLife, Started
from mqcore_conformance.plans import CONTROLLED_FAMILIES, PROXY_FAMILIES, FaultPlan, RunPlan
from mqcore_conformance.world import World
from mqcore_conformance.worlds._addresses import address
from mqcore_conformance.worlds._set_keys import LEASE_MS, set_keys
from mqcore_conformance.worlds.processes._children import BOUNDS
from mqcore_conformance.worlds.processes._datagram_proxy import DatagramProxy, proxy_for
from mqcore_conformance.worlds.processes._feasible import eatmydata_environment
from mqcore_conformance.worlds.processes._metadata import metadata_of
from mqcore_conformance.worlds.processes._node import NodeProcess
from mqcore_conformance.worlds.processes._proxy import Proxy
from mqcore_conformance.worlds.processes._set_coordinator import SetCoordinator

TRIGGER_S_MAX = 5.0
"""A set that acknowledges nothing meanwhile is struck all the same."""
LIFE_S_MAX = 60.0
STOP_S_MAX = 30.0
IN_SYNC_S_MAX = 30.0
ERROR_S_MAX = 2.0
AFTER_ERROR_S = 0.8
FULL_S_MAX = 2.0
ASK_AGAIN_S = 0.1


class SetWorld(World):
    """See the module. ``folder`` holds data, sockets, the coordinator and what children print."""

    takes_sets: ClassVar[bool] = True
    lease_ms: ClassVar[int] = LEASE_MS
    client_options: ClassVar[Mapping[str, int]] = MappingProxyType({"connect_timeout_ms": 5_000})

    def __init__(self, plan: RunPlan, folder: Path, *, eat_my_data: bool = False) -> None:
        names = [f"{FIRST_NODE[:-1]}{number}" for number in range(1, plan.nodes + 1)]
        self._urls = {name: address(plan.transport, folder, name) for name in names}
        # What a node hears of the others goes through a proxy before each of them, where the family asks for one.
        is_cut = plan.family in PROXY_FAMILIES
        self._peer_urls = {
            name: address(plan.transport, folder, f"{name}-peers") if is_cut else url
            for name, url in self._urls.items()
        }
        self._proxies: dict[str, Proxy | DatagramProxy] = {}
        super().__init__(plan, self._urls[FIRST_NODE], BOUNDS)
        self.drain_url = ""
        self.folder = folder
        self._coordinator = SetCoordinator(plan.coordinator, folder)
        self.clock = system_ports().clock
        self.on_ack = lambda count: self.changed()
        self._began_us = self.clock.monotonic_us()
        self._is_done = self._has_begun = False
        self._primary = FIRST_NODE
        self._reigns: set[tuple[NodeLife, int]] = set()
        environment = {**os.environ, **(eatmydata_environment() if eat_my_data else {})}
        injection = Injection() if plan.family in CONTROLLED_FAMILIES else None
        self.processes = {
            name: NodeProcess(
                self, name, self._keys_of(name), folder=folder, environment=environment, injection=injection
            )
            for name in names
        }

    def _keys_of(self, name: str) -> dict[str, Any]:
        keys = self.config_keys(self.plan.storage.replace("{dir}", str(self.folder / name)))
        return set_keys(keys, self.plan, name, self._urls, self._peer_urls, self._coordinator.url)

    # ---- what clients need -----------------------------------------------------------------------------------

    def now_us(self) -> int:
        return self.clock.monotonic_us() - self._began_us

    @property
    def urls(self) -> Sequence[str]:
        """See ``World``; the one that answered last as primary first."""
        return [self._urls[self._primary], *(url for name, url in self._urls.items() if name != self._primary)]

    @property
    def present(self) -> NodeLife:
        return self.processes[self._primary].present

    @property
    def is_serving(self) -> bool:
        return self._has_begun and any(each.is_serving for each in self.processes.values())

    def reign_of(self, identity: str, epoch: int) -> NodeLife:
        """See ``World``. Asked for what greeted as primary: each reign is recorded with the first greeting."""
        node = self.processes.get(self.nodes.get(identity, ""), self.processes[self._primary])
        self._primary = node.name
        if (node.present, epoch) not in self._reigns:
            self._reigns.add((node.present, epoch))
            self.witnesses["reigns"] += 1
            self.note(Started, by=node.present, identity=identity, epoch=epoch)
        return node.present

    def life_of(self, identity: str) -> NodeLife:
        node = self.processes.get(self.nodes.get(identity, ""))
        return self.present if node is None else node.present

    def ports_of(self, client: str) -> Ports:
        return system_ports()

    def capabilities(self) -> Capabilities:
        url = self.plan.storage.replace("{dir}", "/nowhere")
        return create_storage(url, StorageContext(ports=system_ports())).capabilities

    # ---- the nodes -------------------------------------------------------------------------------------------

    async def run_broker(self) -> None:
        """Run every node, and begin the set once all of them serve."""
        try:
            await self._coordinator.start()
            await self._run_nodes()
        finally:
            await self._coordinator.aclose()

    async def _run_nodes(self) -> None:
        async with trio.open_nursery() as nursery:
            for node in self.processes.values():
                nursery.start_soon(self._run_node, node)
            await self.until(lambda: self.given_up or self._all_serve())
            while not self._has_begun and not self.given_up:
                with contextlib.suppress(SessionLostError, CallFailedError):
                    session = await WireSession.open(self, self._urls[FIRST_NODE], is_any=True)
                    try:
                        await session.call("set.init", {})
                        self._has_begun = True
                    finally:
                        await session.aclose()
                await trio.sleep(0 if self._has_begun else ASK_AGAIN_S)
            self.changed()

    async def _run_node(self, node: NodeProcess) -> None:
        await node.run()
        self.given_up = self.given_up or node.gave_up
        self.changed()

    def _all_serve(self) -> bool:
        return all(each.is_serving for each in self.processes.values())

    # ---- faults ----------------------------------------------------------------------------------------------

    async def inject(self, nursery: trio.Nursery) -> None:
        """See ``World``. Faults begin once the set has, so that every node has something to lose."""
        for name, url in self._peer_urls.items():
            if url != self._urls[name]:
                rng = seeded(self.plan.seed, f"proxy/{name}")
                proxy = proxy_for(self.plan.family, url, self._urls[name], rng, self._proxy_struck)
                self._proxies[name] = proxy
                await nursery.start(proxy.run)
        nursery.start_soon(self._strike_all)

    def _proxy_struck(self, kind: str, target: str) -> None:
        self.witnesses[kind] += 1
        self.witnesses[f"{kind}:{target}"] += 1
        self.note(FaultInjected, kind=kind, detail=target, hit=1)

    @property
    def is_struck(self) -> bool:
        return self._is_done

    async def _strike_all(self) -> None:
        for fault in self.plan.faults:
            if self.given_up:
                break
            await self._acknowledged(fault.when)
            if fault.kind == "coordinator-frozen":
                self.witnesses[fault.kind] += 1
                self.note(FaultInjected, kind=fault.kind, hit=1)
                await self._coordinator.freeze(fault.duration_us / 1e6)
                continue
            for node in self._struck_by(fault):
                await self._strike(fault, node)
        self._is_done = True
        self.changed()

    def _struck_by(self, fault: FaultPlan) -> list[NodeProcess]:
        nodes = list(self.processes.values())
        if fault.target == "all":
            return nodes
        if fault.target == "replica":
            return [each for each in nodes if each.name != self._primary][:1]
        return [self.processes[self._primary]]  # and before the primary is the proxy that its replicas go through

    async def _strike(self, fault: FaultPlan, node: NodeProcess) -> None:
        match fault.kind:
            case "process-kill" | "power-cut" | "stop":
                node.end(fault.kind, fault.duration_us / 1e6)
            case "pause":
                await node.pause(fault.duration_us / 1e6)
            case "full":
                await self._fill(fault, node)
            case "flush-error":
                await self._fail_flush(fault, node)
            case _:
                await self._proxies[node.name].strike(fault)

    async def _fill(self, fault: FaultPlan, node: NodeProcess) -> None:
        before = self.witnesses["disk-full"]
        await node.ask(fill=fault.amount)
        await self._until(lambda: self.witnesses["disk-full"] > before, FULL_S_MAX)
        await trio.sleep(fault.duration_us / 1e6)
        await node.ask(fill=None)

    async def _fail_flush(self, fault: FaultPlan, node: NodeProcess) -> None:
        """Let a flush fail, give the set time to make something of it, then be the operator who restarts the node."""
        before = self.witnesses["disk-flush-error"]
        await node.ask(fail_flush=fault.amount)
        await self._until(lambda: self.witnesses["disk-flush-error"] > before, ERROR_S_MAX)
        if self.witnesses["disk-flush-error"] > before:
            await trio.sleep(AFTER_ERROR_S)
            node.end("process-kill")

    async def _acknowledged(self, more: int) -> None:
        await self._until(lambda: self.is_serving or self.given_up, LIFE_S_MAX)
        count = self.acknowledgements + more
        await self._until(lambda: self.is_idle() or self.acknowledgements >= count, TRIGGER_S_MAX)

    async def _until(self, predicate: Callable[[], bool], seconds_max: float) -> None:
        with trio.move_on_after(seconds_max):
            await self.until(predicate)

    async def heal(self) -> None:
        """See ``World``. Nodes that are away come back by themselves."""
        for proxy in self._proxies.values():
            proxy.heal()
        for node in self.processes.values():
            await node.ask(fill=None)
        await self._until(lambda: self._all_serve() or self.given_up, LIFE_S_MAX)

    async def end_life(self, kind: str) -> None:
        """See ``World``: of every node. ``switchover``: of the primary's reign, which another node goes on with."""
        if kind == "none":
            return
        await self._until(lambda: self._all_serve() or self.given_up, LIFE_S_MAX)
        if kind == "switchover":
            await self._switch_over()
            return
        lives = {name: node.life for name, node in self.processes.items()}
        for node in self.processes.values():
            node.end(kind)
        await self._until(lambda: self._have_ended(lives) or self.given_up, STOP_S_MAX)
        for name, node in self.processes.items():
            if node.life == lives[name]:
                node.insist()
        await self._until(lambda: self._all_serve() or self.given_up, LIFE_S_MAX)

    def _have_ended(self, lives: Mapping[str, int]) -> bool:
        return all(node.life > lives[name] for name, node in self.processes.items())

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

    async def check_peers(self) -> None:
        """Wait until every node is in sync again: nothing that was done to a set may leave it smaller."""
        began_us, is_whole, why_not = self.now_us(), False, "no primary"
        with trio.move_on_after(IN_SYNC_S_MAX):
            while not is_whole:
                try:
                    async with connect(self) as session:
                        found = (await session.call("set.describe", {}))["members"]
                    assert isinstance(found, list)
                    missing = [str(each["name"]) for each in found if not each["in_sync"]]
                    is_whole, why_not = not missing, f"not in sync: {', '.join(missing)}"
                except (SessionLostError, CallFailedError) as error:
                    why_not = str(error)
                await trio.sleep(0 if is_whole else ASK_AGAIN_S)
        self.measure("every node is in sync after healing", began_us, is_whole, why_not)
        if self.plan.metadata_bytes is not None and is_whole:
            await self._compare_metadata()

    async def _compare_metadata(self) -> None:
        """See that every node's metadata log says the same, and whether it was made short (R13)."""
        urls = {name: self.plan.storage.replace("{dir}", str(self.folder / name)) for name in self.processes}
        is_same, observed = False, ""
        with trio.move_on_after(IN_SYNC_S_MAX):
            while not is_same:  # what is trimmed on one node is a moment later on another
                try:
                    found = await metadata_of(urls)
                    observed = str({name: text for name, (_, text) in found.items()})
                    is_same = len(set(found.values())) == 1
                    self.witnesses["metadata-made-short"] += is_same and min(found.values())[0] > 0
                except (StorageError, CorruptionError) as error:
                    observed = str(error)
                await trio.sleep(0 if is_same else ASK_AGAIN_S)
        self.probe("G10", "the metadata log is the same on every node", is_same, observed)
