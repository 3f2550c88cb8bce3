"""The recorder: a process of its own that uses the broker as its users do, and writes down what it asked and saw.

Idempotent producers and every other consumer are those of ``mqcore.client``; the others speak the wire protocol by the
suite's own clients, which share no code with it. Every event is one line of JSON in a file, written before a request
goes out and when its answer came: what is in the file survives the death of everybody. Judges nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import trio

from mqcore.client import connect
from mqcore.ports import Clock, system_ports
from mqcore_conformance.broker_process.child import commands, ignore_interrupt, monotonic_us
from mqcore_conformance.histories import Event, to_json
from mqcore_conformance.plans import TOPIC, ConsumerPlan, Plan, ProducerPlan, plan_from_json
from mqcore_conformance.processes._users import RealConsumer, RealProducer
from mqcore_conformance.simulation import Consumer, Producer, Session, SessionLost

__all__ = ["main"]

CONNECT_TIMEOUT_S = 5.0


class _Hosts:
    @contextlib.contextmanager
    def host(self, name: str) -> Iterator[None]:
        """Every process is a host of its own anyway."""
        yield


class Recorder:
    """The world as the clients see it (``Surroundings``), and the file."""

    def __init__(self, path: Path, url: str, began_us: int) -> None:
        self.url = url
        self.history: list[Event] = []
        self.life = 0
        self.stored: list[tuple[str, int, bytes]] = []
        self.clock: Clock = system_ports().clock
        self.network = _Hosts()
        self._began_us = began_us
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._producer_ids = 0
        self._lives: dict[tuple[str, int], int] = {}

    def write(self, line: str) -> None:
        """Add a line to the file, in one piece."""
        os.write(self._descriptor, (line + "\n").encode())

    def record(self, event: Event) -> None:
        """See ``Surroundings``."""
        self.write(to_json(event))

    def now_us(self) -> int:
        """See ``Surroundings``: microseconds since the run began, the same in every process of it."""
        return monotonic_us() - self._began_us

    def acknowledged(self) -> None:
        """See ``Surroundings``: whoever counts reads the file."""

    def changed(self) -> None:
        """See ``Surroundings``: nobody waits."""

    def name_topic(self, topic_id: str, name: str) -> str:
        """See ``Surroundings``."""
        return f"{name}@{topic_id[:8]}"

    def life_of(self, node: str, epoch: int) -> int:
        """See ``Surroundings``: a negative number, which the suite replaces; it alone knows the lives."""
        known = self._lives.get((node, epoch))
        if known is None:
            known = self._lives[node, epoch] = -1 - len(self._lives)
            self.write(json.dumps({"recorder": "met", "as": known, "node": node, "epoch": epoch}))
        return known

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
            return await Session.connect(self)
        raise SessionLost("could not connect in time")


async def _record(recorder: Recorder, plan: Plan) -> None:
    async with trio.open_nursery() as nursery:
        for number, consumer in enumerate(plan.consumers):
            nursery.start_soon(_consume, recorder, consumer, consumer.library or number == 0)
        async with trio.open_nursery() as working:
            working.start_soon(_watch, nursery.cancel_scope)
            async with trio.open_nursery() as producing:
                for producer in plan.producers:
                    producing.start_soon(_produce, recorder, producer)
            recorder.write(json.dumps({"recorder": "done"}))


async def _watch(scope: trio.CancelScope) -> None:
    """End when the suite says so, or is gone."""
    async for asked in commands():
        if "end" in asked:
            break
    scope.cancel()


async def _produce(recorder: Recorder, plan: ProducerPlan) -> None:
    if plan.idempotent:
        await RealProducer(recorder, plan, TOPIC, connect).run()
    else:
        await Producer(recorder, plan, TOPIC).run()


async def _consume(recorder: Recorder, plan: ConsumerPlan, is_real: bool) -> None:
    if is_real:
        await RealConsumer(recorder, plan, TOPIC, connect).run()
    else:
        await Consumer(recorder, plan, TOPIC).run()


def main() -> None:
    """Record as the first argument says: ``plan`` and ``to`` (files), ``url``, ``began_us``."""
    ignore_interrupt()
    asked: dict[str, Any] = json.loads(sys.argv[1])
    plan = plan_from_json(Path(asked["plan"]).read_text(encoding="utf-8"))
    trio.run(_record, Recorder(Path(asked["to"]), asked["url"], asked["began_us"]), plan)


if __name__ == "__main__":
    main()
