"""The world of T1: one broker process after the other, what clients need to reach it, and the disk between two lives.

Real transports, real time. Must not know when faults strike, nor what clients send.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import trio

from mqcore.ports import Clock, system_ports
from mqcore_conformance.broker_process.child import monotonic_us
from mqcore_conformance.broker_process.ports import Injection
from mqcore_conformance.histories import Event, FaultInjected, LivenessObserved, Started
from mqcore_conformance.plans import TOPIC, FaultPlan, Plan
from mqcore_conformance.processes._addresses import address
from mqcore_conformance.processes._families import CONTROLLED_FAMILIES
from mqcore_conformance.processes._image import cut_power
from mqcore_conformance.processes._printed import tell_end
from mqcore_conformance.processes._recordings import Life
from mqcore_conformance.simulation import Session, SessionLost

__all__ = ["LIVENESS_BOUND_US", "ProcessWorld"]

START_S_MAX = 40.0
CONNECT_TIMEOUT_S = 10.0
STARTS_THAT_FAIL_MAX = 3
STARTS_PAUSE_S = 0.2
STOP_S_MAX = 30.0
NOTICE_US = 500_000
"""What a broker may take to notice a failed flush on a loaded machine, until it is held against it."""
LIVENESS_BOUND_US = 30_000_000
"""A second as in the simulation, and the start of a Python process on a machine that does much else."""


class _RealNetwork:
    @contextlib.contextmanager
    def host(self, name: str) -> Iterator[None]:
        """Every process is a host of its own anyway."""
        yield


class ProcessWorld:
    """See the module. ``folder`` holds data, sockets and what children print. ``environment``: of the brokers.

    ``volatile``: the storage forgets who it is. ``life``: number of the present life, or of the last. ``given_up``:
    brokers do not start any more. ``call_faults`` strike at a call of the child's files: one for each life, in order.
    """

    def __init__(self, plan: Plan, folder: Path, *, volatile: bool, environment: dict[str, str] | None = None) -> None:
        self.plan = plan
        self.folder = folder
        self.history: list[Event] = []
        self.witnesses: Counter[str] = Counter()
        self.exits: list[str] = []
        self.stored: list[tuple[str, int, bytes]] = []
        self.lives: list[Life] = []
        self.life = 0
        self.url = address(plan.transport, folder, "broker")
        self.clock: Clock = system_ports().clock
        self.network = _RealNetwork()
        self.closing = False
        self.serving = False
        self.given_up = False
        self.call_faults: list[FaultPlan] = []
        self.began_us = monotonic_us()
        self._volatile = volatile
        self._environment = environment
        self._process: trio.Process | None = None
        self._ending = ""
        self._boots = 1
        self._failed_starts = 0
        self._producer_ids = 0
        self._changed = trio.lowlevel.ParkingLot()

    # ---- what clients need (see Surroundings) ----------------------------------------------------------------

    def record(self, event: Event) -> None:
        """See ``Surroundings``."""
        self.history.append(event)

    def now_us(self) -> int:
        """See ``Surroundings``."""
        return monotonic_us() - self.began_us

    def acknowledged(self) -> None:
        """See ``Surroundings``: the recorder's file is counted."""

    def changed(self) -> None:
        """See ``Surroundings``."""
        self._changed.unpark_all()

    def name_topic(self, topic_id: str, name: str) -> str:
        """See ``Surroundings``."""
        return f"{name}@{topic_id[:8]}"

    def life_of(self, node: str, epoch: int) -> int:
        """See ``Surroundings``. A broker that answers before its first line was read is the present life."""
        known = (each.number for each in reversed(self.lives) if each.epoch == epoch and node in each.names)
        return next(known, self.life)

    def swallows(self, life: int) -> bool:
        """See ``Surroundings``."""
        return False

    def new_producer_id(self) -> int:
        """See ``Surroundings``: others than those of the recorder's producers."""
        self._producer_ids += 1
        return (1 << 32) + self._producer_ids

    async def connect(self) -> Session:
        """See ``Surroundings``."""
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            await self.until(lambda: self.serving or self.given_up)
            if self.serving:
                return await Session.connect(self)
            raise SessionLost("the broker does not start any more")
        raise SessionLost("could not connect in time")

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate`` holds; it is asked whenever something changed."""
        await trio.lowlevel.checkpoint()
        while not predicate():
            await self._changed.park()

    async def ended(self, life: int) -> None:
        """Wait until ``life`` is over and the next one has begun."""
        await self.until(lambda: self.life > life or self.given_up)

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
        life = Life(number=number, began_us=self.now_us())
        self.lives.append(life)
        self.life = number
        self._ending = ""
        self._process = None
        printed = self.folder / f"broker-{number}.txt"
        with printed.open("w", encoding="utf-8") as log:
            process = self._process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "mqcore_conformance.broker_process", self._asked(fault)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self._environment} if self._environment else None,
            )
        self.changed()
        try:
            await self._listen(process, life, fault)
            status = await process.wait()
        finally:
            self.serving = False
            with trio.CancelScope(shield=True):
                await _end(process)
        await self._take_ending(life, status, printed)
        self.changed()

    def _asked(self, fault: FaultPlan | None) -> str:
        topic: dict[str, object] = {"partitions": self.plan.partitions, "visible": self.plan.visible}
        if self.plan.weakest_send is not None:
            topic["weakest_send"] = self.plan.weakest_send
        keys: dict[str, object] = {
            "name": self._broker_name,
            "storage": self.plan.storage.replace("{dir}", str(self.folder / "data")),
            "listen": self.url,
            "topics": {TOPIC: topic},
        }
        if self.plan.flush is not None:
            keys["flush"] = self.plan.flush
        injection = None
        if self.plan.family in CONTROLLED_FAMILIES:
            cuts_power = self.plan.family in ("power-cut", "flush-error")
            injection = Injection(
                kill_at=fault.when if fault is not None else 0,
                kill_how=fault.target if fault is not None else "",
                undo=str(self._undo) if cuts_power else "",
                boot_id=f"{self._boots:08x}-t1" if cuts_power else "",
            )
        return json.dumps({"keys": keys, "injection": attrs.asdict(injection) if injection else None})

    @property
    def _broker_name(self) -> str:
        """A storage that forgets its identity may have a new name with each life, by which receipts tell it."""
        return f"t1-{self.life}" if self._volatile else "t1"

    @property
    def _undo(self) -> Path:
        return self.folder / f"undo-{self.life}"

    async def _listen(self, process: trio.Process, life: Life, fault: FaultPlan | None) -> None:
        """Take in what the child tells, until it is gone; kill one that does not begin to serve."""
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

    def _take_fact(self, facts: dict[str, Any], life: Life, fault: FaultPlan | None) -> None:
        at_us = facts["at_us"] - self.began_us
        if "node" in facts:
            life.names, life.epoch = (facts["node"], self._broker_name), facts["epoch"]
            self.record(Started(time_us=at_us, life=life.number, node=facts["node"], epoch=facts["epoch"]))
            self._failed_starts = 0
            self.serving = True
        elif "dying" in facts:
            self._ending = fault.kind if fault is not None else "process-kill"
            self.witnesses["kill-at-call"] += 1
            self._tell_death(at_us, f"at call {facts['call']}: {facts['dying']}")
        elif facts["witness"] == "disk-flush-error":
            self.witnesses["disk-flush-error"] += 1
            for name in [_partition_name(self, each) for each in facts["partitions"]] or [""]:
                self.record(
                    FaultInjected(
                        time_us=at_us + NOTICE_US, kind="flush-error", life=life.number, detail=name, hit=1
                    )
                )
        else:
            self.witnesses[facts["witness"]] += 1
        self.changed()

    def _tell_death(self, at_us: int, detail: str = "") -> None:
        self.witnesses["process-kill"] += 1
        if self._ending != "power-cut":  # told when the disk is known
            self.record(
                FaultInjected(time_us=at_us, kind="process-kill", life=self.life, detail=detail, hit=1)
            )

    async def _take_ending(self, life: Life, status: int, printed: Path) -> None:
        """Tell how a life ended, and what its end did to the disk."""
        ending = self._ending or ("stop" if status == 0 else "exit")
        if ending == "exit":
            self._take_exit(life, status, printed)
        if ending == "power-cut":
            lost = await trio.to_thread.run_sync(cut_power, self.folder / "data", self._undo)
            self.witnesses["power-cut"] += 1
            self.witnesses["pages-lost"] += lost
            self._boots += 1
            self.record(FaultInjected(time_us=self.now_us(), kind="power-cut", life=life.number, hit=lost))
        elif ending != "process-kill":  # a kill was told when it was done
            self.record(FaultInjected(time_us=self.now_us(), kind=ending, life=life.number))

    def _take_exit(self, life: Life, status: int, printed: Path) -> None:
        last = tell_end(status, printed)
        self.exits.append(f"life {life.number}: {last}")
        if not life.epoch:
            self._failed_starts += 1
        elif self.plan.family != "flush-error":
            what = "a broker that serves goes on"
            self.record(
                LivenessObserved(
                    time_us=self.now_us(), what=what, took_us=-1, bound_us=LIVENESS_BOUND_US, reason=last
                )
            )

    # ---- faults ----------------------------------------------------------------------------------------------

    def kill(self, kind: str = "process-kill") -> None:
        """SIGKILL the process that runs now; ``power-cut``: and lose of its disk what was not flushed."""
        process = self._process
        if process is None or process.returncode is not None or self._ending:
            return
        self._ending = kind
        self.serving = False
        self._tell_death(self.now_us())
        process.kill()

    def terminate(self) -> None:
        """SIGTERM: let it stop in order."""
        process = self._process
        if process is not None and process.returncode is None and not self._ending:
            self._ending = "stop"
            self.witnesses["stop"] += 1
            self.serving = False
            process.terminate()

    async def pause(self, seconds: float) -> None:
        """SIGSTOP for a while, as a machine that is suspended."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self.witnesses["pause"] += 1
        process.send_signal(signal.SIGSTOP)
        self.record(FaultInjected(time_us=self.now_us(), kind="pause", life=self.life))
        try:
            await trio.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    async def ask(self, **asked: object) -> None:
        """Ask the child's ports for a fault."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await process.stdin.send_all(json.dumps(asked).encode() + b"\n")

    async def end_in_order(self) -> None:
        """Stop the present life and wait for the next one; one that does not stop is told of, and killed."""
        life, process, began_us = self.life, self._process, self.now_us()
        self.terminate()
        with trio.move_on_after(STOP_S_MAX) as scope:
            await self.ended(life)
        if scope.cancelled_caught and self.life == life and process is not None:
            self.record(
                LivenessObserved(
                    time_us=self.now_us(),
                    what="a stop in order",
                    took_us=-1,
                    bound_us=round(STOP_S_MAX * 1e6),
                    reason=f"SIGTERM was sent {(self.now_us() - began_us) / 1e6:.0f} s ago",
                )
            )
            process.kill()

    def has_process(self) -> bool:
        """Whether there is one that a signal would reach."""
        return self._process is not None and self._process.returncode is None and not self._ending


def _partition_name(world: ProcessWorld, partition: str) -> str:
    topic_id, _, number = partition.partition("/")
    return f"{world.name_topic(topic_id, TOPIC)}/{number}"


async def _end(process: trio.Process) -> None:
    """Make sure that it is gone, and close its pipes."""
    if process.returncode is None:
        process.kill()
        await process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            await pipe.aclose()
