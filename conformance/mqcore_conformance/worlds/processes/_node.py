"""One node of a set in T1: one process after the other, its signals, and what is asked of its ports.

Must not know when faults strike, nor what role the node has.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import trio

from mqcore_conformance.broker_process.parts import registered_parts
from mqcore_conformance.broker_process.ports import Injection
from mqcore_conformance.histories import FaultInjected, NodeLife, Started
from mqcore_conformance.world import World
from mqcore_conformance.worlds.processes._children import (
    NOTICE_US,
    START_S_MAX,
    STARTS_PAUSE_S,
    STARTS_THAT_FAIL_MAX,
    describe_end,
)
from mqcore_conformance.worlds.processes._image import cut_power
from mqcore_conformance.worlds.processes._starting import BrokerProcess, end_process, start_broker


class NodeProcess:
    """See the module. ``keys``: the broker's configuration; ``injection``: what is done to its files, if anything."""

    def __init__(
        self,
        world: World,
        name: str,
        keys: Mapping[str, Any],
        *,
        folder: Path,
        environment: Mapping[str, str],
        injection: Injection | None,
    ) -> None:
        self.name = name
        self.life = 0
        self.identity = ""
        self.is_serving = False
        self.gave_up = False
        self._world = world
        self._keys = keys
        self._folder = folder
        self._environment = environment
        self._injection = injection
        self._process: BrokerProcess | None = None
        self._ending = ""
        self._away_s = 0.0
        self._failed_starts = 0
        self._boots = 1

    @property
    def present(self) -> NodeLife:
        """The present life, or the last one."""
        return NodeLife(self.name, self.life)

    async def run(self) -> None:
        """Run one process after the other until the run closes, or until too many starts in a row have failed."""
        while not self._world.closing and self._failed_starts < STARTS_THAT_FAIL_MAX:
            await self._run_life()
            self._world.changed()
            await trio.sleep(self._away_s + (STARTS_PAUSE_S if self._failed_starts else 0))
        self.gave_up = not self._world.closing
        self._world.changed()

    async def _run_life(self) -> None:
        self.life += 1
        self._ending, self._away_s = "", 0.0
        printed = self._folder / f"{self.name}-{self.life}.txt"
        asked = {
            "keys": self._keys,
            "injection": self._injected(),
            "parts": registered_parts(),
        }
        with printed.open("w", encoding="utf-8") as log:
            process = self._process = await start_broker(asked, log, environment=self._environment)
        self._world.changed()
        try:
            await self._listen(process)
            status = await process.wait()
        finally:
            served, self.is_serving = self.is_serving, False
            with trio.CancelScope(shield=True):
                await end_process(process)
        if self._ending == "power-cut":
            await self._cut_power()
        elif not self._ending:
            self._take_exit(status, printed, served)

    def _injected(self) -> dict[str, Any] | None:
        """What this life is to meet. Where power is cut, each boot of the machine is another one."""
        if self._injection is None:
            return None
        cuts = self._world.plan.family == "power-cut"
        undo, boot_id = (str(self._undo), f"{self._boots:08x}-{self.name}") if cuts else ("", "")
        return attrs.asdict(attrs.evolve(self._injection, undo=undo, boot_id=boot_id))

    @property
    def _undo(self) -> Path:
        return self._folder / f"{self.name}-undo-{self.life}"

    async def _cut_power(self) -> None:
        """Lose of the disk what was not flushed; recorded when it is known how much."""
        lost = await trio.to_thread.run_sync(cut_power, self._folder / self.name, self._undo)
        self._boots += 1
        self._world.witnesses["pages-lost"] += lost
        self._world.note(FaultInjected, by=self.present, kind="power-cut", hit=lost)

    async def _listen(self, process: BrokerProcess) -> None:
        """Take in what the child reports, until it is gone; kill one that does not begin to serve."""
        assert process.stdout is not None
        rest = b""
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + START_S_MAX
            while data := await process.stdout.receive_some(65_536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take_fact(json.loads(line))
                if self.is_serving:
                    scope.deadline = float("inf")
        if scope.cancelled_caught:
            process.kill()

    def _take_fact(self, facts: Mapping[str, Any]) -> None:
        world = self._world
        if "node" in facts:
            self.identity, self.is_serving, self._failed_starts = facts["node"], True, 0
            world.nodes[self.identity] = self.name
            world.note(Started, by=self.present, identity=self.identity, epoch=0)
        elif "reigns" in facts:
            world.reign_of(self.identity, facts["reigns"])
        elif "witness" in facts:
            world.witnesses[facts["witness"]] += 1
            if facts["witness"] == "disk-flush-error":
                for name in facts["partitions"]:
                    topic_id, _, number = name.partition("/")
                    world.history.append(
                        FaultInjected(
                            time_us=world.now_us() + NOTICE_US,
                            kind="flush-error",
                            node=self.name,
                            life=self.life,
                            detail=f"{world.name_topic(topic_id)}/{number}",
                            hit=1,
                        )
                    )
        world.changed()

    def _take_exit(self, status: int, printed: Path, served: bool) -> None:
        last = describe_end(status, printed)
        world = self._world
        world.exits.append(f"{self.present}: {last}")
        world.note(FaultInjected, by=self.present, kind="exit", detail=last)
        if not served:
            self._failed_starts += 1
        elif world.plan.family != "flush-error":
            world.measure("a node that serves goes on", world.now_us(), False, last)

    # ---- faults ----------------------------------------------------------------------------------------------

    def has_process(self) -> bool:
        """Whether there is one that a signal would reach."""
        return self._process is not None and self._process.returncode is None and not self._ending

    def end(self, kind: str, away_s: float = 0.0) -> None:
        """End the present process: ``process-kill``, ``power-cut`` or ``stop``; the next begins after ``away_s``."""
        if not self.has_process():
            return
        assert self._process is not None
        self._ending, self._away_s, self.is_serving = kind, away_s, False
        self._world.witnesses[kind] += 1
        if kind != "power-cut":
            self._world.note(FaultInjected, by=self.present, kind=kind, hit=1)
        if kind == "stop":
            self._process.terminate()
        else:
            self._process.kill()

    def insist(self) -> None:
        """SIGKILL a process that was asked to stop and has not."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def pause(self, seconds: float) -> None:
        """SIGSTOP for a while, as a machine that is suspended."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._world.witnesses["pause"] += 1
        process.send_signal(signal.SIGSTOP)
        self._world.note(FaultInjected, by=self.present, kind="pause")
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
