"""What a run happens in: a broker that lives and dies, faults, time, and the record. A simulation, or real processes.

Clients and the script of a run know this class only, so that both tiers are played by the same code. Must not know what
is sent, nor what is judged.
"""

from __future__ import annotations

import abc
import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, ClassVar

import attrs
import trio

from mqcore.abc import Capabilities, Notice
from mqcore.errors import ConfigurationError
from mqcore.guarantees import AsyncFlush, Copy, parse_flush
from mqcore.ports import Clock, Ports
from mqcore.registry import create_transport
from mqcore_conformance.histories import FIRST_NODE, Event, LivenessObserved, NodeLife, Probed, StatedCopy
from mqcore_conformance.plans import TOPIC, RunPlan

__all__ = ["Bounds", "World"]

RETENTION_CHECK_MS = 20
"""How often a broker looks for what is to go, so that a short run has many trims."""


@attrs.frozen(kw_only=True)
class Bounds:
    """How long the parts of a run may take. ``liveness_us``: what G13 grants a send or a drain after healing.

    ``refused_s``: a broker that gives the same answer to every drain for so long will not change its mind.
    ``settle_s``: a pause in which consumers meet what the last fault left, before they are measured; 0: they are not.
    """

    safety_s: float
    healing_s: float
    probe_s: float
    drain_s: float
    liveness_us: int
    refused_s: float = math.inf
    settle_s: float = 0.0

    def over(self, url: str) -> Bounds:
        """Return these bounds with the time added that the transport of ``url`` takes to notice that a peer is gone."""
        silence_us = create_transport(url).capabilities.silence_ms * 1_000
        return attrs.evolve(self, liveness_us=self.liveness_us + silence_us)


class World(abc.ABC):
    """See the module. ``life``: number of the present life of the broker, from 1, or of the last one.

    ``listen_url``: where the broker listens; ``url``: where clients reach it; ``drain_url``: where the drain does.
    ``nodes``: name of each node by its storage's identity. ``given_up``: the broker does not start any more.
    ``stored``: partition, offset and mark of a message of each acknowledged batch, for what looks for it on the disk.
    ``is_idle`` is set by the script: whether the clients have nothing more to send. ``settling``: nothing new is begun
    any more. ``on_ack``: called with the number of acknowledgements after each.
    """

    clock: Clock
    """The clock of messages' timestamps."""
    lease_ms: ClassVar[int] = 0
    """Of the sets that it plays."""
    takes_sets: ClassVar[bool] = False
    """Whether plans of several nodes are played."""
    client_options: ClassVar[Mapping[str, int]] = MappingProxyType({})
    """Options of the library's clients: times that suit this world."""

    def __init__(self, plan: RunPlan, url: str, bounds: Bounds) -> None:
        strangers = sorted({fault.node for fault in plan.faults} - {FIRST_NODE})
        if not self.takes_sets and (strangers or plan.replication != "none"):
            what = f"replication {plan.replication!r}" if plan.replication != "none" else f"node {strangers[0]!r}"
            raise ConfigurationError(f"{plan.name}: {what} needs a set of nodes; a world has one so far ({FIRST_NODE})")
        self.plan = plan
        self.url = self.listen_url = self.drain_url = url
        self.bounds = bounds.over(url)
        self.history: list[Event] = []
        self.notices: list[Notice] = []
        self.witnesses: Counter[str] = Counter()
        self.exits: list[str] = []
        self.stored: list[tuple[str, int, bytes]] = []
        self.nodes: dict[str, str] = {}
        self.life = 0
        self.given_up = False
        self.closing = False
        self.settling = False
        self.is_idle: Callable[[], bool] = lambda: False
        self.on_ack: Callable[[int], None] = lambda count: None
        self.acknowledgements = 0
        self._producer_ids = 0
        self._topic_names: dict[str, str] = {}
        self._changed = trio.lowlevel.ParkingLot()

    # ---- the record ------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def now_us(self) -> int:
        """Microseconds since the start."""

    def note(self, kind: Callable[..., Event], /, *, by: NodeLife | None = None, **fields: object) -> None:
        """Add an event of ``kind`` that happens now, at ``by``; an unknown field is refused by the event itself."""
        if by is None:
            self.history.append(kind(time_us=self.now_us(), **fields))
        else:
            self.history.append(kind(time_us=self.now_us(), node=by.node, life=by.life, **fields))

    def probe(self, clause: str, question: str, holds: bool, observed: str) -> None:
        """Add the answer to a direct question about ``clause``."""
        self.note(Probed, clause=clause, question=question, holds=holds, observed=observed)

    def measure(self, what: str, began_us: int, happened: bool, why_not: str) -> None:
        """Add how long something took that had to succeed within the bound of liveness."""
        self.note(
            LivenessObserved,
            what=what,
            took_us=self.now_us() - began_us if happened else -1,
            bound_us=self.bounds.liveness_us,
            reason="" if happened else why_not,
        )

    def acknowledged(self) -> None:
        """Count an acknowledgement."""
        self.acknowledgements += 1
        self.on_ack(self.acknowledgements)

    def name_topic(self, topic_id: str, name: str = TOPIC) -> str:
        """Return what a topic is called in the history: its name and the beginning of its id."""
        return self._topic_names.setdefault(topic_id, f"{name}@{topic_id[:8]}")

    @property
    def present(self) -> NodeLife:
        """The present life of the node."""
        return NodeLife(FIRST_NODE, self.life)

    def copies_stated(self, copies: Iterable[Copy]) -> tuple[StatedCopy, ...]:
        """Return the copies of a receipt with the names of their nodes; a storage that never served keeps its id."""
        return tuple(
            StatedCopy(node=self.nodes.get(name, name), incarnation=copy.incarnation, level=copy.level.label)
            for copy in copies
            for name in (copy.node_id.hex()[:8],)
        )

    # ---- waiting ---------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Wake every task that waits in ``until``, so that it looks again."""
        self._changed.unpark_all()

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until ``predicate`` holds; it is asked whenever something changed."""
        await trio.lowlevel.checkpoint()
        while not predicate():
            await self._changed.park()

    async def ended(self, life: int) -> None:
        """Wait until ``life`` is over and the next one has begun, or none will."""
        await self.until(lambda: self.life != life or self.given_up or self.closing)

    # ---- what clients need -----------------------------------------------------------------------------------

    @property
    def urls(self) -> Sequence[str]:
        """Where clients reach each node, the likeliest primary first."""
        return [self.url]

    @property
    @abc.abstractmethod
    def is_serving(self) -> bool:
        """Whether a broker serves."""

    @abc.abstractmethod
    def reign_of(self, identity: str, epoch: int) -> NodeLife:
        """Return the life that reigns under ``epoch`` on the storage ``identity``; the present one while it starts."""

    def life_of(self, identity: str) -> NodeLife:
        """Return the life that serves on the storage ``identity``, whether or not it reigns."""
        return self.present

    @abc.abstractmethod
    def ports_of(self, client: str) -> Ports:
        """Return clock, chance, files and threads of a client."""

    def host(self, name: str) -> AbstractContextManager[object]:
        """Let sockets made in the block belong to the host ``name``, where the network knows hosts."""
        return contextlib.nullcontext()

    def swallows(self, by: NodeLife) -> bool:
        """Whether nothing from this life can arrive any more, although its streams have not ended."""
        return False

    def new_producer_id(self) -> int:
        """Return a producer id that was never used in this run."""
        self._producer_ids += 1
        return (self.plan.seed % 1_000_000 + 1) * 1_000 + self._producer_ids

    # ---- the broker and its faults ---------------------------------------------------------------------------

    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """Return what the storage declares; nothing is opened."""

    def config_keys(self, storage: str) -> dict[str, Any]:
        """Return the broker's configuration: of the plan, on the storage of this URL."""
        plan = self.plan
        topic: dict[str, object] = {"partitions": plan.partitions, "visible": plan.visible}
        if plan.weakest_send is not None:
            topic["weakest_send"] = plan.weakest_send
        listen = list(dict.fromkeys(filter(None, (self.listen_url, self.drain_url))))
        keys: dict[str, Any] = {"storage": storage, "listen": listen, "topics": {TOPIC: topic}}
        if plan.retention_bytes:
            topic["retention_bytes"] = plan.retention_bytes
            keys["retention"] = {"check_interval_ms": RETENTION_CHECK_MS}
        keys["insecure"] = True  # wherever the transport's URL leads to: nobody but this world's clients are there
        if plan.flush is not None:
            keys["flush"] = plan.flush
            policy = parse_flush(plan.flush)
            if plan.total_bytes_max is not None and isinstance(policy, AsyncFlush):
                bounds = {name: value for name, value in attrs.asdict(policy).items() if value is not None}
                keys["flush"] = {"policy": "async", "total_bytes_max": plan.total_bytes_max, **bounds}
        return keys

    @abc.abstractmethod
    async def run_broker(self) -> None:
        """Run one life after the other until ``closing``, or until too many starts have failed."""

    @abc.abstractmethod
    async def inject(self, nursery: trio.Nursery) -> None:
        """Let the faults of the plan come: at once, or in tasks of ``nursery``."""

    @property
    def is_struck(self) -> bool:
        """Whether healing need not wait for a fault that is still to come."""
        return True

    @abc.abstractmethod
    async def heal(self) -> None:
        """End every fault that lasts, and let no other come."""

    @abc.abstractmethod
    async def end_life(self, kind: str) -> None:
        """End the present life and wait for the next.

        ``kind``: ``process-kill``, ``power-cut``, ``stop``, or ``none`` to leave it alone.
        """

    def has_stopped_log(self) -> bool:
        """Whether a log of the broker is known to take nothing more until the next start."""
        return False

    # ---- checks of one world only: nothing, unless it can look ------------------------------------------------

    async def operate(self) -> None:
        """Do meanwhile what an operator does; the script cancels it."""
        await trio.lowlevel.checkpoint()

    async def check_peers(self) -> None:
        """Wait until peers that mean no good are gone, and record what they cost (G20)."""
        await trio.lowlevel.checkpoint()

    async def check_released(self) -> None:
        """Record what the broker holds for clients once all have left (G20)."""
        await trio.lowlevel.checkpoint()

    async def check_recovery(self) -> None:
        """Recover the final disk again and again (G17)."""
        await trio.lowlevel.checkpoint()

    @property
    def event_count(self) -> int:
        """What has happened so far, as the world counts it."""
        return len(self.history)

    def counted_below(self) -> Mapping[str, int]:
        """Return what disk and network counted themselves."""
        return {}
