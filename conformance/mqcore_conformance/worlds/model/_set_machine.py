"""One node of a simulated set: a machine of its own, whose record is the set's, and its way to the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import trio

from mqcore.abc import Coordinator, CoordinatorContext, Notice, Url
from mqcore.registry import create_coordinator
from mqcore.testing import FaultyCoordinator, ModelClock, ModelDisk, seeded
from mqcore_conformance.histories import Started
from mqcore_conformance.plans import RunPlan
from mqcore_conformance.world import World
from mqcore_conformance.worlds._set_keys import set_keys
from mqcore_conformance.worlds.model._hooks import Sabotage, StepCounter
from mqcore_conformance.worlds.model._machine import PARENTS, ModelMachine

COORDINATOR = "memory://set"
TOLD_TO_RESTART = frozenset({"copy-stopped", "logs-stopped", "log-not-opened"})
"""Kinds of notice that tell an operator of a log which takes nothing more until its node is started again."""
WAYS = "simulated"
"""Scheme of the coordinator that nodes are configured with: the server in memory, by each node's own way to it."""


@attrs.frozen(kw_only=True)
class WayOptions:
    """None."""


class SetMachine(ModelMachine):
    """The machine of the node ``name``; everything that is recorded goes to ``world``.

    ``way``: its client's way to the coordinator, once it has served; ``reigned`` is called with each new reign.
    """

    takes_sets: ClassVar[bool] = True

    def __init__(
        self,
        world: World,
        plan: RunPlan,
        sabotage: Sabotage,
        steps: StepCounter,
        *,
        name: str,
        urls: Mapping[str, str],
        reigned: Callable[[SetMachine, str, int], None],
    ) -> None:
        self._set_urls = urls
        super().__init__(plan, sabotage, steps, scheme=f"observed-{name}", node=name, host=name)
        self._world = world
        self._reigned = reigned
        self.listen_url, self.drain_url = urls[name], ""
        self.disk = ModelDisk(seeded(plan.seed, f"disk/{name}"), folders=PARENTS)
        self.disk.latency_us.update(plan.disk_latency_us)
        drift = [fault.amount for fault in plan.faults if fault.kind == "clock-drift" and fault.node == name]
        self.clock = self.model_clock = ModelClock(drift_ppm=sum(drift))
        self.random = seeded(plan.seed, f"world/{name}")
        self.history, self.notices, self.witnesses = world.history, world.notices, world.witnesses
        self.nodes, self.stored = world.nodes, world.stored
        self.name_topic = world.name_topic  # type: ignore[method-assign]
        self.changed = world.changed  # type: ignore[method-assign]
        self.identity = ""
        self._told_to_restart = 0  # the life that was
        self.is_cut_from_coordinator = False
        self.coordinator_delay_ms = 0.0
        self.is_cloned = False
        """Whether its next life begins on a copy of another node's disk, which it has to refuse."""
        self.is_new = False
        """Whether it has come back as another node, which the set takes in when it is told to."""

    def config_keys(self, storage: str) -> dict[str, Any]:
        keys = super().config_keys(storage)
        return set_keys(keys, self.plan, self.node_name, self._set_urls, self._set_urls, f"{WAYS}://set")

    def _has_started(self, identity: str, epoch: int) -> None:
        """A node of a set reigns later, or never."""
        self.is_new = self.is_new or (bool(self.identity) and identity != self.identity)
        self.identity = identity
        self.note(Started, by=self.present, identity=identity, epoch=0)

    def noticed(self, notice: Notice) -> None:
        """See ``ModelMachine``. A node reigns as soon as the record says so, even if it appends nothing."""
        super().noticed(notice)
        if notice.kind in TOLD_TO_RESTART or (notice.kind == "role-failed" and "restart" in notice.text):
            self._told_to_restart = self.life
        role = self.broker.roles.role if self.broker is not None and self.broker.roles is not None else None
        if notice.kind == "role-changed" and (set_up := getattr(role, "set_up", None)) is not None:
            self._reigned(self, self.identity, set_up.record.epoch)

    def has_stopped_log(self) -> bool:
        """Whether a log of this node, which reigns or follows, is said to take nothing more until the next start."""
        return self.broker is not None and self._told_to_restart == self.life

    def appended(
        self, topic_id: str, index: int, start: int, end: int, base_offset: int, next_offset: int, epoch: int
    ) -> None:
        """See ``Observer``. The first one that appends under an epoch reigns under it."""
        if self.life not in self._dead and self.broker is not None and self.broker.reign is not None:
            self._reigned(self, self.identity, epoch)
        super().appended(topic_id, index, start, end, base_offset, next_offset, epoch)

    def _exited(self, error: Exception) -> None:
        super()._exited(error)
        self._world.exits.append(f"{self.node_name}, {self.exits[-1]}")

    async def inject(self, nursery: trio.Nursery) -> None:
        raise NotImplementedError("the set's injector strikes its machines")

    async def heal(self) -> None:
        raise NotImplementedError("the set's injector heals its machines")

    async def end_life(self, kind: str) -> None:
        raise NotImplementedError("the set ends the lives of its machines")


def way_class(machines: Mapping[str, SetMachine]) -> type[Coordinator]:
    """Return the coordinator part that gives each of ``machines`` its own way to the one server in memory."""

    class Way(FaultyCoordinator):
        options_class = WayOptions

        def __init__(self, url: Url, options: object, context: CoordinatorContext) -> None:
            super().__init__(create_coordinator(COORDINATOR, context))
            self._machine = next(each for each in machines.values() if each.clock is context.ports.clock)

        async def _pass(self, name: str) -> None:
            self.answer_delay_ms = self._machine.coordinator_delay_ms
            self.is_cut = self._machine.is_cut_from_coordinator
            if self.is_cut:
                self._machine.witnesses["coordinator-cut-off"] += 1
            await super()._pass(name)

        async def watch(self, name: str, changed: Callable[[], None]) -> None:
            """See ``Coordinator``. What is cut off is told of nothing."""

            def told() -> None:
                if not self._machine.is_cut_from_coordinator:
                    changed()

            await super().watch(name, told)

    return Way
