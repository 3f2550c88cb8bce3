"""The world of a simulation, whole: machine, faults that strike it, its operator, and what only a model can look at.

The operator restarts a broker of which a log has stopped, in order or not. Before that it measures whether the stopped
log leaves a send waiting: every send to a broker that lives is answered. What that says is the checkers' business.
"""

from __future__ import annotations

import trio

from mqcore.broker import Node
from mqcore.guarantees import Level
from mqcore_conformance.histories import Completed, Event, FaultInjected, Invoked, Started
from mqcore_conformance.worlds.model._faults import DEATHS, ModelInjector
from mqcore_conformance.worlds.model._machine import ModelMachine
from mqcore_conformance.worlds.model._recovery import check_recovery

LOOK_S = 0.02
OPERATOR_S = 0.25
RELEASED_S = 1.0
JUDGED_FAMILIES = frozenset({"flush-error"})
"""Families in which nothing but the broker can keep a reply from its client."""


class ModelWorld(ModelMachine):
    """See ``World``."""

    _injector: ModelInjector

    async def inject(self, nursery: trio.Nursery) -> None:
        self._injector = ModelInjector(self, nursery)
        self._injector.arm()

    async def heal(self) -> None:
        await self._injector.heal()

    async def end_life(self, kind: str) -> None:
        life = self.life
        if kind in DEATHS and self.kill(kind):
            await self.ended(life)
        elif kind == "stop" and self.broker is not None:
            self.stop()
            await self.ended(life)

    # ---- the operator ----------------------------------------------------------------------------------------

    async def operate(self) -> None:
        """Restart the broker whenever one of its logs has stopped, until cancelled."""
        while True:
            await trio.sleep(OPERATOR_S)
            if self.has_stopped_log():
                life = self.life
                await self._watch_waiting()
                if self.life != life:
                    continue
                if self.random.random() < 0.5:
                    self.stop()
                else:
                    self.kill("process-kill")
                await self.ended(life)

    def has_stopped_log(self) -> bool:
        """Whether a log takes no more appends, or cannot be opened, so that an operator would restart the broker."""
        broker = self.broker
        if broker is None:
            return False
        reported = any(notice.kind == "log-not-opened" for notice in self.notices[self.notices_before_life :])
        reign = broker.reign
        return reported or (reign is not None and any(each.failure is not None for each in reign.partitions.values()))

    async def _watch_waiting(self) -> None:
        """Wait until what was sent to this life, by the suite's own producers, is answered; record what still waits."""
        if self.plan.family not in JUDGED_FAMILIES or _died_silently(self.history):
            return
        life, began_us = self.life, self.now_us()
        own = {producer.name for producer in self.plan.producers if producer.library is None}
        asked = _unanswered(self.history, own)
        while waiting := asked & _unanswered(self.history, own):
            if self.now_us() - began_us > self.bounds.liveness_us:
                break
            await trio.sleep(LOOK_S)
            if self.life != life or not self.is_serving:
                return
        if asked:
            what = "an answer to each send that waits for a log which has stopped"
            self.measure(what, began_us, not waiting, f"no answer to {min(waiting)[0]}" if waiting else "")

    # ---- checks ----------------------------------------------------------------------------------------------

    async def check_peers(self) -> None:
        await self._injector.peers.gone()

    async def check_released(self) -> None:
        """See ``World``. Asks the broker for its own counts."""
        broker = self.broker
        if broker is None:
            return
        held = ""
        with trio.move_on_after(RELEASED_S):
            while held := _held_by(broker):  # noqa: ASYNC110 - a count that changes wakes nothing
                await trio.sleep(LOOK_S)
        if self.broker is broker:
            self.probe(
                "G20", "when every client has left, the broker holds nothing for them", not held, held or "nothing"
            )

    async def check_recovery(self) -> None:
        """See ``World``. What keeps nothing over a crash is not asked."""
        capabilities = self.capabilities()
        if max(capabilities.append_level, capabilities.flush_level) >= Level.PAGE_CACHE:
            await check_recovery(self)


def _held_by(broker: Node) -> str:
    counts = {
        "connections": len(broker.connections),
        "sessions": len(broker.sessions),
        "bytes of receive buffers": broker.receive_buffer_bytes,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _died_silently(history: list[Event]) -> bool:
    """Whether a life ended without a word to its clients, so that they may still wait for that one."""
    return any(isinstance(event, FaultInjected) and event.kind == "power-cut" for event in history)


def _unanswered(history: list[Event], processes: set[str]) -> set[tuple[str, int]]:
    """Send and attempt of what was sent since the last start and has not ended."""
    found: set[tuple[str, int]] = set()
    for event in history:
        if isinstance(event, Started):
            found.clear()
        elif isinstance(event, Invoked) and not event.one_way and event.process in processes:
            found.add((event.send, event.attempt))
        elif isinstance(event, Completed):
            found.discard((event.send, event.attempt))
    return found
