"""The world of T1: broker processes over real transports, real time, signals in place of model faults."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from mqcore.ports import Clock, system_ports
from mqcore_conformance.histories import Event, FaultInjected, Started
from mqcore_conformance.plans import TOPIC, Plan
from mqcore_conformance.simulation import Session, SessionLost

__all__ = ["ProcessWorld"]

START_S_MAX = 20.0
CONNECT_TIMEOUT_S = 5.0
STARTS_THAT_FAIL_MAX = 5


class _RealNetwork:
    @contextlib.contextmanager
    def host(self, name: str) -> Iterator[None]:
        """Every process is a host of its own anyway."""
        yield


class ProcessWorld:
    """See the module. ``folder`` holds the data, the socket and what the brokers print."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.history: list[Event] = []
        self.witnesses: Counter[str] = Counter()
        self.exits: list[str] = []
        self.stored: list[tuple[str, int, bytes]] = []
        self.life = 0
        self.url = self._address()
        self.on_ack: Callable[[int], None] = lambda count: None
        self.clock: Clock = system_ports().clock
        self.network = _RealNetwork()
        self.closing = False
        self._process: subprocess.Popen[str] | None = None
        self._serving = False
        self._ending = ""
        self._acks = 0
        self._producer_ids = 0
        self._topic_names: dict[str, str] = {}
        self._lives: dict[tuple[str, int], int] = {}
        self._began = trio.current_time()
        self._changed = trio.lowlevel.ParkingLot()

    def _address(self) -> str:
        if self.plan.transport == "unix":
            return f"unix://{self.folder}/broker.sock"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{probe.getsockname()[1]}"

    # ---- what clients need (see Surroundings) ----------------------------------------------------------------

    def record(self, event: Event) -> None:
        """See ``Surroundings``."""
        self.history.append(event)

    def now_us(self) -> int:
        """See ``Surroundings``."""
        return round((trio.current_time() - self._began) * 1e6)

    def acknowledged(self) -> None:
        """See ``Surroundings``."""
        self._acks += 1
        self.on_ack(self._acks)

    def changed(self) -> None:
        """See ``Surroundings``."""
        self._changed.unpark_all()

    def name_topic(self, topic_id: str, name: str) -> str:
        """See ``Surroundings``."""
        return self._topic_names.setdefault(topic_id, f"{name}@{topic_id[:8]}")

    def life_of(self, node: str, epoch: int) -> int:
        """See ``Surroundings``. A broker that answers before its first line was read is the present life."""
        return self._lives.get((node, epoch), self.life)

    def swallows(self, life: int) -> bool:
        """See ``Surroundings``."""
        return False

    def new_producer_id(self) -> int:
        """See ``Surroundings``."""
        self._producer_ids += 1
        return self._producer_ids

    async def connect(self) -> Session:
        """See ``Surroundings``."""
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            await self.until(lambda: self._serving)
            return await Session.connect(self)
        raise SessionLost("could not connect in time")

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate`` holds; it is asked whenever something changed."""
        await trio.lowlevel.checkpoint()
        while not predicate():
            await self._changed.park()

    async def ended(self, life: int) -> None:
        """Wait until ``life`` is over and the next one has begun."""
        await self.until(lambda: self.life > life)

    # ---- the broker's lives ----------------------------------------------------------------------------------

    def _keys(self) -> dict[str, object]:
        topic: dict[str, object] = {"partitions": self.plan.partitions, "visible": self.plan.visible}
        if self.plan.weakest_send is not None:
            topic["weakest_send"] = self.plan.weakest_send
        keys: dict[str, object] = {
            "storage": self.plan.storage.replace("{dir}", str(self.folder / "data")),
            "listen": self.url,
            "topics": {TOPIC: topic},
        }
        return keys if self.plan.flush is None else {**keys, "flush": self.plan.flush}

    async def run_broker(self) -> None:
        """Run one process after the other until ``closing``, or until too many starts have failed."""
        while not self.closing and len(self.exits) < STARTS_THAT_FAIL_MAX:
            await self._run_life()

    async def _run_life(self) -> None:
        self.life += 1
        self.changed()
        self._ending = ""
        log = (self.folder / f"broker-{self.life}.txt").open("w", encoding="utf-8")
        command = [sys.executable, "-m", "mqcore_conformance.processes._broker", json.dumps(self._keys())]
        with log:
            process = self._process = subprocess.Popen(  # noqa: ASYNC220 - starting it takes a moment
                command, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            await self._read_greeting(process)
            status = await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            self._serving = False
        ending = self._ending or ("stop" if status == 0 else "exit")
        if ending == "exit":
            text = (self.folder / f"broker-{self.life}.txt").read_text(encoding="utf-8").strip()
            last = text.splitlines()[-1] if text else f"exit status {status}"
            self.exits.append(f"life {self.life}: {last[:300]}")
        if ending != "process-kill":  # a kill was recorded when it was done
            self.record(FaultInjected(time_us=self.now_us(), kind=ending, life=self.life))
        self.changed()

    async def _read_greeting(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        line = ""
        with trio.move_on_after(START_S_MAX):
            line = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        if not line:
            process.kill()  # too slow, or dead already
            return
        facts = json.loads(line)
        self._lives[facts["node"], facts["epoch"]] = self.life
        self.record(Started(time_us=self.now_us(), life=self.life, node=facts["node"], epoch=facts["epoch"]))
        self._serving = True
        self.changed()

    def kill(self) -> None:
        """SIGKILL the process that runs now."""
        process = self._process
        if process is None or process.poll() is not None or self._ending:
            return
        self._ending = "process-kill"
        self.witnesses["process-kill"] += 1
        self.record(FaultInjected(time_us=self.now_us(), kind="process-kill", life=self.life, hit=1))
        self._serving = False
        process.kill()

    def terminate(self) -> None:
        """SIGTERM: let it stop in order."""
        process = self._process
        if process is not None and process.poll() is None and not self._ending:
            self._ending = "stop"
            self.witnesses["stop"] += 1
            self._serving = False
            process.terminate()

    async def pause(self, seconds: float) -> None:
        """SIGSTOP for a while, as a machine that is suspended."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.witnesses["pause"] += 1
        os.kill(process.pid, signal.SIGSTOP)
        self.record(FaultInjected(time_us=self.now_us(), kind="pause", life=self.life))
        await trio.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
