"""The world of one simulation: disk, network, clock, the broker's lives, and the record of everything.

Knows how a life begins and ends; what is sent, injected and judged is other modules' business.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import attrs
import trio

from mqcore.abc import Notice, StorageBackend
from mqcore.broker import Broker, serve_broker
from mqcore.config import BrokerConfig, make_config
from mqcore.guarantees import AsyncFlush, parse_flush
from mqcore.ports import FileSystem, Ports
from mqcore.registry import register, unregister
from mqcore.testing import Call, ModelClock, ModelDisk, ModelNetwork, ModelThreads, seeded
from mqcore_conformance.histories import Appended, Completed, Event, FaultInjected, Flushed, Invoked, Started
from mqcore_conformance.plans import TOPIC, Plan
from mqcore_conformance.simulation._addresses import model_url
from mqcore_conformance.simulation._recording import observed_class, observed_url
from mqcore_conformance.simulation._session import Session, SessionLost

__all__ = ["BROKER", "DATA", "Sabotage", "World"]

BROKER = "broker"
DATA = "/dev/null/data"
"""On the model disk only: a storage that goes behind the ports can make no such folder, as root either."""
PARENTS = ("/dev", "/dev/null")
ON_THE_NETWORK = ("tcp", "unix")
"""Transports of which it is known that a dead host's streams end by themselves."""
CONNECT_TIMEOUT_S = 5
EXITS_MAX = 60
"""Starts that may fail before nobody tries again."""
RESTART_AFTER_EXIT_S = 0.2


class Sabotage:
    """What a saboteur may put between the broker and its world. This one changes nothing."""

    name = ""

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Change the code under test while the block lasts."""
        yield

    def before_power_cut(self, disk: ModelDisk) -> None:
        """Called before a power cut."""

    def stays_alive(self) -> bool:
        """Whether a kill shall kill nothing."""
        return False

    def wrap_files(self, files: FileSystem) -> FileSystem:
        """Return the file system that the broker gets."""
        return files

    def wrap_storage(self, backend: StorageBackend) -> StorageBackend:
        """Return the storage that the broker gets."""
        return backend


class World:
    """See the module. Made and used inside one Trio run. ``scheme``: of its storage, for another world beside it.

    The scheme stands in error texts, and so in the history: it must not depend on what ran before.
    """

    def __init__(self, plan: Plan, sabotage: Sabotage, *, scheme: str = "observed") -> None:
        self.plan = plan
        self.sabotage = sabotage
        self.disk = ModelDisk(seeded(plan.seed, "disk"), folders=PARENTS)
        self.disk.latency_us.update(plan.disk_latency_us)
        self.clock = ModelClock()
        self.network = ModelNetwork(
            seeded(plan.seed, "network"),
            buffer_bytes=plan.network_buffer_bytes,
            latency_s=plan.network_latency_us / 1e6,
            jitter_s=plan.network_jitter_us / 1e6,
            pieces=plan.network_pieces,
        )
        self.random = seeded(plan.seed, "world")
        self.history: list[Event] = []
        self.notices: list[Notice] = []
        self.notices_before_life = 0
        self.witnesses: Counter[str] = Counter()
        self.url = model_url(plan.transport)
        self.life = 0
        """The present life of the broker, from 1."""
        self.broker: Broker | None = None
        self.steps = 0
        self.closing = False
        self.settling = False
        """Whether nothing new is begun any more."""
        self.exits: list[str] = []
        self.stored: list[tuple[str, int, bytes]] = []
        """Partition, offset and mark (see ``Producer``) of a message of each acknowledged batch."""
        self.on_ack: Callable[[int], None] = lambda count: None
        self._acks = 0
        self._producer_ids = 0
        self._topic_names: dict[str, str] = {}
        self._dead: set[int] = set()
        self._lives: dict[tuple[str, int], int] = {}
        self._scope: trio.CancelScope | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self.scheme = scheme
        self._observed = observed_class(self, sabotage.wrap_storage)

    # ---- the record ------------------------------------------------------------------------------------------

    def now_us(self) -> int:
        """Virtual microseconds since the start."""
        return round(trio.current_time() * 1e6)

    def record(self, event: Event) -> None:
        """Add an event to the history."""
        self.history.append(event)

    def acknowledged(self) -> None:
        """Count an acknowledgement."""
        self._acks += 1
        self.on_ack(self._acks)

    def name_topic(self, topic_id: str, name: str) -> str:
        """Return what a topic is called in the history: its name and the beginning of its id."""
        return self._topic_names.setdefault(topic_id, f"{name}@{topic_id[:8]}")

    def appended(
        self, topic_id: str, index: int, start: int, end: int, base_offset: int, next_offset: int, epoch: int
    ) -> None:
        """See ``Observer``. A process that is dead appends nothing, although its last step may go on in memory."""
        if self.life in self._dead:
            return
        self.record(
            Appended(
                time_us=self.now_us(),
                life=self.life,
                partition=f"{self.name_topic(topic_id, TOPIC)}/{index}",
                position=start,
                end_position=end,
                base_offset=base_offset,
                next_offset=next_offset,
                epoch=epoch,
            )
        )

    def flushed(
        self, ends: Sequence[tuple[str, int, int]], failed: bool, absent: Sequence[tuple[str, int, int]]
    ) -> None:
        """See ``Observer``. A flush that fails because its process is dead has failed nobody."""
        if failed and self.life in self._dead:
            return
        self.record(
            Flushed(
                time_us=self.now_us(),
                life=self.life,
                ends=self._named(ends),
                failed=failed,
                absent=self._named(absent),
            )
        )

    def _named(self, positions: Sequence[tuple[str, int, int]]) -> tuple[tuple[str, int], ...]:
        return tuple((f"{self.name_topic(topic_id, TOPIC)}/{index}", at) for topic_id, index, at in positions)

    def is_absent(self, data: bytes) -> bool:
        """See ``Observer``. Looks once the device has failed a flush, because it costs a walk over the disk.

        What is not in the page cache in this form either is stored in another form: then nothing is known.
        """
        disk = self.disk
        if not disk.witnesses["flush-error"]:
            return False
        paths = disk.paths()
        if any(data in disk.content(path, durable=True) for path in paths):
            return False
        return any(data in disk.content(path) for path in paths)

    # ---- the broker's lives ----------------------------------------------------------------------------------

    @functools.cached_property
    def config(self) -> BrokerConfig:
        """The configuration of the broker under test."""
        topic: dict[str, object] = {"partitions": self.plan.partitions, "visible": self.plan.visible}
        if self.plan.weakest_send is not None:
            topic["weakest_send"] = self.plan.weakest_send
        keys: dict[str, object] = {"flush": self.plan.flush} if self.plan.flush is not None else {}
        policy = parse_flush(self.plan.flush) if self.plan.flush is not None else None
        if self.plan.total_bytes_max is not None and isinstance(policy, AsyncFlush):
            bounds = {name: value for name, value in attrs.asdict(policy).items() if value is not None}
            keys["flush"] = {"policy": "async", "total_bytes_max": self.plan.total_bytes_max, **bounds}
        return make_config(
            storage=observed_url(self.scheme, self.plan.storage.replace("{dir}", DATA)),
            listen=self.url,
            topics={TOPIC: topic},
            **keys,
        )

    async def run_broker(self) -> None:
        """Run one life after the other until ``closing``, or until too many starts have failed."""
        while not self.closing and len(self.exits) <= EXITS_MAX:
            await self._run_life()
            if not self.closing:
                failed = bool(self.exits) and self.exits[-1].startswith(f"life {self.life}:")
                await trio.sleep(max(self.plan.restart_after_us / 1e6, RESTART_AFTER_EXIT_S if failed else 0))

    async def _run_life(self) -> None:
        if self.life:
            self.disk = self.disk.restart()
        self.life += 1
        self.notices_before_life = len(self.notices)
        self.changed()
        life = self.life
        files = self.sabotage.wrap_files(self.disk)
        ports = Ports(
            files=files,
            threads=ModelThreads(self.disk),
            clock=self.clock,
            random=seeded(self.plan.seed, f"ports/{life}"),
        )
        register("storage", self.scheme, self._observed)
        try:
            with trio.CancelScope() as self._scope, self.network.host(BROKER):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve, ports)
        except Exception as error:
            if life not in self._dead:
                self._exited(error)
        finally:
            unregister("storage", self.scheme)
            self.broker = None
        if life not in self._dead:
            self._dead.add(life)
            self.network.kill_host(BROKER)
            kind = "exit" if self.exits and self.exits[-1].startswith(f"life {life}:") else "stop"
            self.record(FaultInjected(time_us=self.now_us(), kind=kind, life=life))

    def _exited(self, error: Exception) -> None:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        self.exits.append(f"life {self.life}: {type(cause).__name__}: {cause}")
        self.witnesses["exit"] += 1

    async def _serve(self, ports: Ports) -> None:
        async with trio.open_nursery() as nursery:
            broker: Broker = await nursery.start(_serve_broker, self.config, ports, self.notices.append)
            if self.life in self._dead:
                return
            self.broker = broker
            store = broker.store
            self._lives[store.node_id.hex()[:8], store.epoch] = self.life
            self.record(
                Started(time_us=self.now_us(), life=self.life, node=store.node_id.hex()[:8], epoch=store.epoch)
            )
            self.changed()

    def kill(self, kind: str, call: Call | None = None) -> bool:
        """End the broker's process now: ``process-kill`` or ``power-cut``. False when there is none to end.

        ``call``: the call of the file system that is about to happen; it may be done in part.
        """
        if self._scope is None or self.life in self._dead or not self.disk.alive:
            return False
        power_cut = kind == "power-cut"
        if self.sabotage.stays_alive():
            return False
        if power_cut:
            self.sabotage.before_power_cut(self.disk)
        hit = self.disk.unflushed_sectors() + self.disk.unflushed_entries()
        self._dead.add(self.life)
        detail = f"{call.operation} {call.path}" if call is not None else ""
        self.record(
            FaultInjected(
                time_us=self.now_us(), kind=kind, life=self.life, detail=detail, hit=hit if power_cut else 1
            )
        )
        self.witnesses[kind] += 1
        self._witness("power-cut" if power_cut else "kill", hit)
        self.network.kill_host(BROKER, silent=power_cut)
        if call is not None:
            self.disk.kill_at(call.number, power_cut=power_cut)
        elif power_cut:
            self.disk.power_cut()
        else:
            self.disk.process_kill()
        self._scope.cancel()
        return True

    def stop(self) -> None:
        """Ask the broker to stop in order."""
        if self.broker is not None:
            self.witnesses["stop"] += 1
            self._witness("stop", self.disk.unflushed_sectors() + self.disk.unflushed_entries())
            self.broker.stop()

    def _witness(self, ending: str, unflushed: int) -> None:
        """Count what an ending finds: what is not flushed, and sends that wait for their outcome."""
        waiting = {
            (event.send, event.attempt) for event in self.history if isinstance(event, Invoked) and not event.one_way
        }
        waiting -= {(event.send, event.attempt) for event in self.history if isinstance(event, Completed)}
        self.witnesses[f"unflushed-at-{ending}"] += unflushed
        self.witnesses[f"in-flight-at-{ending}"] += len(waiting)

    def life_of(self, node: str, epoch: int) -> int:
        """Return the life that reigns under ``epoch`` on the storage ``node``; the present one while it starts."""
        return self._lives.get((node, epoch), self.life)

    def changed(self) -> None:
        """Let those look again who wait in ``until``."""
        self._changed.unpark_all()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate`` holds; it is asked whenever something changed."""
        await trio.lowlevel.checkpoint()
        while not predicate():
            await self._changed.park()

    @property
    def is_serving(self) -> bool:
        """Whether a broker serves."""
        return self.broker is not None and self.life not in self._dead

    async def ended(self, life: int) -> None:
        """Wait until ``life`` is over and the next one has begun, or the world closes."""
        await self.until(lambda: self.life != life or self.closing)

    def swallows(self, life: int) -> bool:
        """Whether a stream to ``life`` goes nowhere any more. A network's streams end by themselves."""
        return self.plan.transport not in ON_THE_NETWORK and life in self._dead

    # ---- clients ---------------------------------------------------------------------------------------------

    async def connect(self) -> Session:
        """Connect to the broker that serves. Raises ``SessionLost``."""
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            await self.until(lambda: self.is_serving)
            return await Session.connect(self)
        raise SessionLost("could not connect in time")

    def new_producer_id(self) -> int:
        """Return a producer id that nobody had."""
        self._producer_ids += 1
        return (self.plan.seed % 1_000_000) * 1_000 + self._producer_ids

    @property
    def event_count(self) -> int:
        """What has happened so far: steps of tasks, calls of the file system, operations on sockets."""
        return self.steps + self.disk.call_count + sum(self.network.counts.values())


async def _serve_broker(
    config: BrokerConfig,
    ports: Ports,
    report: Callable[[Notice], None],
    *,
    task_status: trio.TaskStatus[Broker] = trio.TASK_STATUS_IGNORED,
) -> None:
    await serve_broker(config, ports=ports, report=report, task_status=task_status)
