"""The brokers of T1: one process after the other, their signals, and the disk between two lives.

Real transports, real time. Must not know when faults strike, nor what clients send.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import attrs
import trio

from mqcore.abc import Capabilities, StorageContext
from mqcore.ports import Ports, system_ports
from mqcore.registry import create_storage
from mqcore_conformance.broker_process.parts import registered_parts
from mqcore_conformance.broker_process.ports import Injection
from mqcore_conformance.histories import FIRST_NODE, FaultInjected, LivenessObserved, NodeLife, Started
from mqcore_conformance.plans import CONTROLLED_FAMILIES, DIVERTED_FAMILIES, FaultPlan, RunPlan
from mqcore_conformance.syscalls import DivertedFiles
from mqcore_conformance.world import Bounds, World
from mqcore_conformance.worlds._addresses import address
from mqcore_conformance.worlds.processes._feasible import eatmydata_environment
from mqcore_conformance.worlds.processes._image import cut_power
from mqcore_conformance.worlds.processes._starting import BrokerProcess, end_process, start_broker

TEXT_CHARS_MAX = 300
_ERROR = re.compile(r"[\s|+-]*((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Unknown|Refused|Exit)\w*(?:: .*)?)\Z")
START_S_MAX = 40.0
STARTS_THAT_FAIL_MAX = 3
STARTS_PAUSE_S = 0.2
STOP_S_MAX = 30.0
NOTICE_US = 500_000
"""What a broker may take to notice a failed flush on a loaded machine, until it is held against it."""
BOUNDS = Bounds(safety_s=25, healing_s=60, probe_s=30, drain_s=30, liveness_us=30_000_000, refused_s=8)
"""Liveness: a second as in the simulation, and the start of a Python process on a machine that does much else."""


@attrs.define(kw_only=True)
class ChildLife:
    """One process of the broker: who it said it is (``epoch`` 0: it was gone before)."""

    by: NodeLife
    identity: str = ""
    epoch: int = 0


class BrokerProcesses(World):
    """See the module. ``folder`` holds data, sockets and what children print.

    ``call_faults`` strike at a call of the child's files: one for each life, in order. ``eat_my_data``: the brokers'
    flushes do nothing.
    """

    client_options: ClassVar[Mapping[str, int]] = MappingProxyType({"connect_timeout_ms": 5_000})

    def __init__(self, plan: RunPlan, folder: Path, *, eat_my_data: bool = False) -> None:
        super().__init__(plan, address(plan.transport, folder, "broker"), BOUNDS)
        self.folder = folder
        self.clock = system_ports().clock
        self.call_faults: list[FaultPlan] = []
        self.on_ack = lambda count: self.changed()
        self._lives: list[ChildLife] = []
        self._serving = False
        self._began_us = self.clock.monotonic_us()
        self._environment = {**os.environ, **(eatmydata_environment() if eat_my_data else {})}
        self._own_io = not self.capabilities().simulable
        self._diverted: DivertedFiles | None = None
        self._process: BrokerProcess | None = None
        self._ending = ""
        self._boots = 1
        self._failed_starts = 0

    # ---- what clients need -----------------------------------------------------------------------------------

    def now_us(self) -> int:
        return self.clock.monotonic_us() - self._began_us

    @property
    def is_serving(self) -> bool:
        return self._serving

    def reign_of(self, identity: str, epoch: int) -> NodeLife:
        """See ``World``. A broker that answers before its first line was read is the present life."""
        known = (each.by for each in reversed(self._lives) if (each.identity, each.epoch) == (identity, epoch))
        return next(known, self.present)

    def ports_of(self, client: str) -> Ports:
        return system_ports()

    def capabilities(self) -> Capabilities:
        url = self.plan.storage.replace("{dir}", "/nowhere")
        return create_storage(url, StorageContext(ports=system_ports())).capabilities

    # ---- the broker's lives ----------------------------------------------------------------------------------

    async def run_broker(self) -> None:
        """Run one process after the other until ``closing``, or until too many starts in a row have failed."""
        while not self.closing and self._failed_starts < STARTS_THAT_FAIL_MAX:
            await self._run_life()
            if self._failed_starts:
                await trio.sleep(STARTS_PAUSE_S)
        self.given_up = not self.closing
        self.changed()

    async def _run_life(self) -> None:
        number = self.life + 1
        fault = self.call_faults.pop(0) if self.call_faults else None
        self.life = number
        life = ChildLife(by=self.present)
        self._lives.append(life)
        self._ending = ""
        self._process = None
        printed = self.folder / f"broker-{number}.txt"
        ours, childs = socket.socketpair()
        with ours:
            with printed.open("w", encoding="utf-8") as log, childs:
                process = self._process = await start_broker(
                    self._asked(fault),
                    log,
                    environment=self._environment,
                    diverted_to=childs.fileno() if self._is_diverted else None,
                )
            self.changed()
            try:
                status = await self._live(process, life, fault, ours)
            finally:
                self._serving = False
                with trio.CancelScope(shield=True):
                    await end_process(process)
        await self._take_ending(life, status, printed)
        self.changed()

    async def _live(self, process: BrokerProcess, life: ChildLife, fault: FaultPlan | None, ours: socket.socket) -> int:
        """Take in what the child reports, decide on its diverted calls; return its exit status."""
        diverted = self._diverted = self._diverts_to(process, life, fault)
        async with trio.open_nursery() as nursery:
            if diverted is not None:
                nursery.start_soon(trio.to_thread.run_sync, diverted.run, ours)
            try:
                await self._listen(process, life, fault)
                return await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()  # else the thread would wait for it
                if diverted is not None:
                    diverted.stop()

    def _diverts_to(self, process: BrokerProcess, life: ChildLife, fault: FaultPlan | None) -> DivertedFiles | None:
        """Return what befalls the system calls of a storage that does not go through the ports."""
        if not self._is_diverted:
            return None
        token = trio.lowlevel.current_trio_token()

        def tell(facts: dict[str, Any]) -> None:
            fact = {"at_us": self.clock.monotonic_us(), **facts}
            token.run_sync_soon(partial(self._take_fact, fact, life, fault))

        return DivertedFiles(
            str(self.folder / "data"),
            tell,
            process_id=process.pid,
            kill_at=fault.when if fault is not None else 0,
            flush_us=self.plan.disk_latency_us.get("flush", 0),
            undo=str(self._undo) if self._cuts_power else "",
        )

    @property
    def _is_diverted(self) -> bool:
        return self._own_io and self.plan.family in DIVERTED_FAMILIES

    @property
    def _cuts_power(self) -> bool:
        return self.plan.family in ("power-cut", "flush-error")

    def _asked(self, fault: FaultPlan | None) -> dict[str, Any]:
        injection = None
        if self.plan.family in CONTROLLED_FAMILIES:
            at_call = fault if not self._own_io else None
            injection = Injection(
                kill_at=at_call.when if at_call is not None else 0,
                kill_how=at_call.target if at_call is not None else "",
                undo=str(self._undo) if self._cuts_power and not self._own_io else "",
                boot_id=f"{self._boots:08x}-t1" if self._cuts_power else "",
                flush_us=self.plan.disk_latency_us.get("flush", 0),
            )
        keys = {"name": "t1", **self.config_keys(self.plan.storage.replace("{dir}", str(self.folder / "data")))}
        return {
            "keys": keys,
            "injection": attrs.asdict(injection) if injection else None,
            "parts": registered_parts(),
        }

    @property
    def _undo(self) -> Path:
        return self.folder / f"undo-{self.life}"

    async def _listen(self, process: BrokerProcess, life: ChildLife, fault: FaultPlan | None) -> None:
        """Take in what the child reports, until it is gone; kill one that does not begin to serve."""
        assert process.stdout is not None
        rest = b""
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + START_S_MAX
            while data := await process.stdout.receive_some(65_536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take_fact(json.loads(line), life, fault)
                if life.epoch:
                    scope.deadline = float("inf")
        if scope.cancelled_caught:
            process.kill()

    def _take_fact(self, facts: dict[str, Any], life: ChildLife, fault: FaultPlan | None) -> None:
        if "node" in facts:
            life.identity, life.epoch = facts["node"], facts["epoch"]
            self.nodes[life.identity] = FIRST_NODE
            self.note(Started, by=life.by, identity=life.identity, epoch=life.epoch)
            self._failed_starts = 0
            self._serving = True
        elif "dying" in facts:
            self._ending = fault.kind if fault is not None else "process-kill"
            self.witnesses["kill-at-call"] += 1
            self._note_death(f"at call {facts['call']}: {facts['dying']}")
        else:
            self.witnesses[facts["witness"]] += 1
            if facts["witness"] == "disk-flush-error":
                since_us = facts["at_us"] - self._began_us + NOTICE_US
                for detail in [self._partition(each) for each in facts["partitions"]] or [""]:
                    self.history.append(
                        FaultInjected(
                            time_us=since_us,
                            kind="flush-error",
                            node=life.by.node,
                            life=life.by.life,
                            detail=detail,
                            hit=1,
                        )
                    )
        self.changed()

    def _partition(self, name: str) -> str:
        topic_id, _, number = name.partition("/")
        return f"{self.name_topic(topic_id)}/{number}"

    def _note_death(self, detail: str = "") -> None:
        self.witnesses["process-kill"] += 1
        if self._ending != "power-cut":  # recorded when the disk is known
            self.note(FaultInjected, by=self.present, kind="process-kill", detail=detail, hit=1)

    async def _take_ending(self, life: ChildLife, status: int, printed: Path) -> None:
        """Record how a life ended, and what its end did to the disk."""
        ending = self._ending or ("stop" if status == 0 else "exit")
        if ending == "exit":
            self._take_exit(life, status, printed)
        if ending == "power-cut":
            lost = await trio.to_thread.run_sync(cut_power, self.folder / "data", self._undo)
            self.witnesses["power-cut"] += 1
            self.witnesses["pages-lost"] += lost
            self._boots += 1
            self.note(FaultInjected, by=life.by, kind="power-cut", hit=lost)
        elif ending != "process-kill":  # a kill was recorded when it was done
            self.note(FaultInjected, by=life.by, kind=ending)

    def _take_exit(self, life: ChildLife, status: int, printed: Path) -> None:
        last = describe_end(status, printed)
        self.exits.append(f"{life.by}: {last}")
        if not life.epoch:
            self._failed_starts += 1
        elif self.plan.family != "flush-error":
            self.measure("a broker that serves goes on", self.now_us(), False, last)

    # ---- faults ----------------------------------------------------------------------------------------------

    def kill(self, kind: str = "process-kill") -> None:
        """SIGKILL the process that runs now; ``power-cut``: and lose of its disk what was not flushed."""
        process = self._process
        if process is None or process.returncode is not None or self._ending:
            return
        self._ending = kind
        self._serving = False
        self._note_death()
        process.kill()

    def terminate(self) -> None:
        """SIGTERM: let it stop in order."""
        process = self._process
        if process is not None and process.returncode is None and not self._ending:
            self._ending = "stop"
            self.witnesses["stop"] += 1
            self._serving = False
            process.terminate()

    async def pause(self, seconds: float) -> None:
        """SIGSTOP for a while, as a machine that is suspended."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.witnesses["pause"] += 1
        process.send_signal(signal.SIGSTOP)
        self.note(FaultInjected, by=self.present, kind="pause")
        try:
            await trio.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    async def ask(self, **asked: object) -> None:
        """Ask the child's ports for a fault, or what decides on its system calls."""
        process = self._process
        if self._diverted is not None:
            self._diverted.obey(asked)
            return
        if process is not None and process.stdin is not None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await process.stdin.send_all(json.dumps(asked).encode() + b"\n")

    async def end_in_order(self) -> None:
        """Stop the present life and wait for the next one; one that does not stop is recorded, and killed."""
        life, process, began_us = self.life, self._process, self.now_us()
        self.terminate()
        with trio.move_on_after(STOP_S_MAX) as scope:
            await self.ended(life)
        if scope.cancelled_caught and self.life == life and process is not None:
            self.note(
                LivenessObserved,
                what="a stop in order",
                took_us=-1,
                bound_us=round(STOP_S_MAX * 1e6),
                reason=f"SIGTERM was sent {(self.now_us() - began_us) / 1e6:.0f} s ago",
            )
            process.kill()

    def has_process(self) -> bool:
        """Whether there is one that a signal would reach."""
        return self._process is not None and self._process.returncode is None and not self._ending


def describe_end(status: int, printed: Path) -> str:
    """Return how a process ended: its exit status or signal, and why as far as it said."""
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    lines = printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [match[1] for line in lines if (match := _ERROR.match(line)) and "ExceptionGroup" not in match[1]]
    last = errors[-1] if errors else lines[-1] if lines else ""
    return f"{how}: {last[:TEXT_CHARS_MAX]}" if last else how
