"""What a plan says, and its form as JSON. Must not know how a plan is drawn or run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import attrs
import cattrs

from mqcore.errors import ConfigurationError
from mqcore_conformance.histories import FIRST_NODE

TOPIC = "events"
TAGS = ("a", "b", "c")
"""Tags that messages have."""
CHURN_SIZES = (200, 200, 200)
"""Message sizes of the batches of a topic that comes and goes; a log of the same sizes meets its bytes at its end."""
FLUSH_POLICIES: Mapping[str, str] = MappingProxyType(
    {"sync": "sync", "async": "async(max_messages=40, max_bytes=16 KiB, max_interval=200 ms)", "none": "none"}
)
"""Flush policies of the cells, by the name of their column."""

Trigger = Literal["call", "step", "time", "acks"]


@attrs.frozen(kw_only=True)
class SendPlan:
    """One batch: sizes of its messages in bytes, a pause before it, its own policy, whether a reply is wanted.

    ``spoiled``: its bytes are broken on the way to the broker, which has to refuse it (the suite's own client only).
    """

    sizes: tuple[int, ...]
    pause_us: int = 0
    policy: str = "topic"
    one_way: bool = False
    spoiled: bool = False


@attrs.frozen(kw_only=True)
class LibraryPlan:
    """How a producer uses ``mqcore.client``: its options; ``singly``: message by message instead of by batch."""

    singly: bool = False
    linger_ms: int = 0
    batch_messages: int = 16_384
    delivery_timeout_ms: int = 60_000
    codec: str = "none"


@attrs.frozen(kw_only=True)
class ProducerPlan:
    """One producer: at most ``window`` batches in flight; without ``retries`` an unknown outcome stays unknown.

    ``library``: it is one of ``mqcore.client``, which retries in its own way and is always idempotent; None: it is the
    suite's own, which speaks the protocol itself. ``tagged``: messages have tags.
    """

    name: str
    partition: int
    idempotent: bool
    window: int
    retries: bool
    sends: tuple[SendPlan, ...]
    library: LibraryPlan | None = None
    tagged: bool = False


@attrs.frozen(kw_only=True)
class SeekPlan:
    """A consumer goes elsewhere after so many answers with messages: ``to`` is ``start``, ``end`` or an offset."""

    after: int
    to: str


@attrs.frozen(kw_only=True)
class ConsumerPlan:
    """One consumer: bytes asked for at once, a pause between fetches, and when it begins.

    ``library``: it is one of ``mqcore.client``; then ``every`` partition may be its own, and ``singly`` is message by
    message. ``from_replica``: it reads from one replica of the set after the other. ``stays_us``: after so long it
    leaves for ``away_us`` and comes back to where it was; 0: it stays. ``tags``: those that it asks for; none: all
    messages.
    """

    name: str
    partition: int
    bytes_max: int
    pause_us: int
    begins_us: int = 0
    library: bool = False
    every: bool = False
    singly: bool = False
    stays_us: int = 0
    away_us: int = 0
    from_replica: bool = False
    seeks: tuple[SeekPlan, ...] = ()
    tags: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class GroupPlan:
    """A consumer group of one member, which comes again and again: reads on from its cursors, commits, leaves.

    ``bytes_max``: asked for at once; ``session_ms``: of its member.
    """

    name: str
    pause_us: int
    bytes_max: int
    session_ms: int


@attrs.frozen(kw_only=True)
class NamePlan:
    """A producer with a name: numbered messages to one partition, by one process after the other.

    ``begins_us``: when each process begins, which takes the name from the one before; that one goes on until it is
    refused. The last one sends what is left of ``messages``.
    """

    name: str
    partition: int
    messages: int
    pause_us: int
    begins_us: tuple[int, ...]


@attrs.frozen(kw_only=True)
class AlterPlan:
    """The topic's configuration changes at a time. None: as it was; an empty text: back to the default."""

    at_us: int
    flush: str | None = None
    visible: str | None = None
    weakest_send: str | None = None

    @property
    def changes(self) -> dict[str, str | None]:
        """The change as the broker is asked for it."""
        given = {"flush": self.flush, "visible": self.visible, "weakest_send": self.weakest_send}
        return {name: value or None for name, value in given.items() if value is not None}


@attrs.frozen
class FaultPlan:
    """One fault: its kind and node, when it strikes (``trigger`` counts from the start), for how long, how much.

    ``call``: at that call of the file system; ``step``: before that step of the scheduler; ``time``: at that
    microsecond; ``acks``: with that acknowledgement. ``power-cut-in-stall``: flushes stall for ``duration_us``, and
    ``amount`` microseconds after the strike the power is cut.
    """

    kind: str
    trigger: Trigger
    when: int
    duration_us: int = 0
    amount: int = 0
    target: str = ""
    node: str = FIRST_NODE


@attrs.frozen(kw_only=True)
class RunPlan:
    """One run. Latencies in microseconds, by operation of the file system; ``flush`` as ``parse_flush`` reads it.

    ``replication``: ``none``, or a policy of a set of ``nodes``, whose ``coordinator`` is named in T1; empty: a file.

    ``last_ending``: how the broker's life ends when healing begins; ``before_drain``: and once more before the drain.
    ``churn``: a client makes, fills and deletes another topic meanwhile, so that files are used again.
    ``recovery_checked``: the final disk is recovered again and again. ``alters``: changes of the topic's policies while
    it is used. ``total_bytes_max``: bound of what all logs together have acknowledged and not flushed.
    ``retention_bytes``: what is kept of each partition, looked after often; 0: everything.
    ``metadata_bytes``: growth after which a set makes its metadata log short; None: as by default.
    ``tier``: what runs it, ``T0`` or ``T1``.
    """

    seed: int
    family: str
    storage: str
    transport: str
    flush: str | None
    replication: str = "none"
    nodes: int = 1
    coordinator: str = ""
    partitions: int
    producers: tuple[ProducerPlan, ...]
    consumers: tuple[ConsumerPlan, ...]
    groups: tuple[GroupPlan, ...] = ()
    names: tuple[NamePlan, ...] = ()
    faults: tuple[FaultPlan, ...] = ()
    visible: str = "committed"
    weakest_send: str | None = None
    disk_latency_us: dict[str, int] = attrs.field(factory=dict)
    network_latency_us: int = 0
    network_jitter_us: int = 0
    network_pieces: bool = False
    network_buffer_bytes: int = 65_536
    restart_after_us: int = 1_000
    last_ending: str = "none"
    before_drain: str = "none"
    recovery_checked: bool = False
    churn: bool = False
    alters: tuple[AlterPlan, ...] = ()
    total_bytes_max: int | None = None
    retention_bytes: int = 0
    metadata_bytes: int | None = None
    tier: str = "T0"

    @property
    def name(self) -> str:
        """Short name for lists."""
        return f"{self.storage.partition(':')[0]}-{self.transport}-{self.family}-{self.seed}"


_converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=True)


def plan_to_json(plan: RunPlan) -> str:
    """Return a plan as JSON text."""
    return json.dumps(_converter.unstructure(plan), indent=1, sort_keys=True) + "\n"


def plan_from_json(text: str, where: str = "plan") -> RunPlan:
    """Return the plan of a JSON text; ``ConfigurationError`` says what is wrong with it."""
    try:
        plain: Any = json.loads(text)
        return _converter.structure(plain, RunPlan)
    except Exception as error:
        raise ConfigurationError(f"{where}: not a plan ({type(error).__name__}: {error})") from error
