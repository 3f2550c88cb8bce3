"""Histories: what was asked, what came of it, what was injected, what was read, as values and as JSON lines.

A history is a list of events in the order in which the recorder saw them; checkers are pure functions of it. Must not
know who recorded it (a simulation, a process of its own, a person) or what a checker makes of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import attrs
import cattrs

from mqcore.errors import ConfigurationError
from mqcore_conformance.kept import CursorCommitted, CursorSeen, NameClaimed
from mqcore_conformance.recorded import FIRST_NODE, NodeLife, Recorded

__all__ = [
    "DRAIN",
    "FIRST_NODE",
    "REFUSES_TO_START",
    "Altered",
    "Appended",
    "Completed",
    "CursorCommitted",
    "CursorSeen",
    "Drained",
    "Event",
    "FaultInjected",
    "FetchFailed",
    "FetchAnswered",
    "Flushed",
    "Invoked",
    "LivenessObserved",
    "NameClaimed",
    "NodeLife",
    "Phase",
    "Probed",
    "ReadBatch",
    "SideFileHeld",
    "LogHeld",
    "LogRecovered",
    "Seeked",
    "Setting",
    "Started",
    "StatedCopy",
    "TopicSetting",
    "Witnessed",
    "digest_of",
    "history_digest",
    "read_history",
    "to_json",
    "write_history",
]

DRAIN = "drain"
"""Name of the process whose reads are the final drain."""

REFUSES_TO_START = "the broker refuses to start on what it cannot read"
"""The question of a probe of G12."""

LINE_BYTES_MAX = 64 * 1024 * 1024


def digest_of(key: bytes | None, value: bytes) -> str:
    """Return the identity of a message by its bytes: 16 hexadecimal digits of a checksum that is not the broker's."""
    hasher = hashlib.blake2b(b"\0" if key is None else b"\1%d:%b" % (len(key), key), digest_size=8)
    hasher.update(value)
    return hasher.hexdigest()


@attrs.frozen(kw_only=True)
class TopicSetting:
    """What one topic promises: its flush policies in force during the run (as text), and what consumers see.

    ``replication``: its policy in a set, as text. ``retention``: whether the oldest messages may be taken away; else a
    log begins at offset 0, whatever is said.
    """

    name: str
    partitions: int
    flush: tuple[str, ...]
    visible: str = "committed"
    replication: str = "none"
    retention: bool = False


@attrs.frozen(kw_only=True)
class Setting(Recorded):
    """The build under test, as far as promises go; levels by their labels. The first event of a history.

    ``lease_ms``: for how long a primary of the set reigns without word from its coordinator.
    """

    storage: str
    transport: str
    append_level: str
    flush_level: str
    topics: tuple[TopicSetting, ...]
    total_bytes_max: int | None = None
    lease_ms: int = 0


@attrs.frozen(kw_only=True)
class Started(Recorded):
    """A broker serves. ``identity``: the beginning of its storage's node id; ``epoch``: its reign."""

    identity: str
    epoch: int


@attrs.frozen(kw_only=True)
class FaultInjected(Recorded):
    """Something was done to the system. ``kind`` such as ``process-kill``, ``power-cut``, ``stop``, ``flush-error``.

    ``node`` and ``life``: what it ended or hit. ``hit``: how much it found to bite (unflushed sectors of a power cut).
    ``rot`` of a stored batch says which: ``first_offset`` up to ``next_offset`` of ``partition``, all that may be lost.
    """

    kind: str
    detail: str = ""
    hit: int = 0
    partition: str = ""
    first_offset: int = -1
    next_offset: int = -1


@attrs.frozen(kw_only=True)
class Invoked(Recorded):
    """A send begins. ``send`` names it over all its attempts; ``messages`` are digests in order.

    ``policy`` is the send's own (``topic``, ``none``, ``async``, ``sync``). ``idempotent``: under a producer id.
    ``one_way``: no reply is wanted. ``size_bytes``: the batch as it is stored. ``tags``: of the messages, empty for one
    without; none where no message has one.
    """

    process: str
    send: str
    attempt: int
    partition: str
    messages: tuple[str, ...]
    size_bytes: int
    policy: str = "topic"
    idempotent: bool = False
    one_way: bool = False
    tags: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class StatedCopy:
    """One copy that a receipt states: the name of the node, its incarnation, the label of the level."""

    node: str
    incarnation: int
    level: str


@attrs.frozen(kw_only=True)
class Completed(Recorded):
    """What became of an attempt. For an acknowledgement: the receipt, and the life that gave it.

    ``level`` is the weakest of ``copies``, which are left out where only the node that answered is known.
    """

    process: str
    send: str
    attempt: int
    outcome: Literal["acknowledged", "rejected", "unknown"]
    offset: int = -1
    epoch: int = 0
    level: str = ""
    duplicate: bool = False
    code: str = ""
    copies: tuple[StatedCopy, ...] = ()


@attrs.frozen(kw_only=True)
class Altered(Recorded):
    """The policies of a topic were to change. ``asked_at``: events when it was asked for; None: not to be changed.

    An empty text sets back to the default. ``topic`` as partitions name it, without its id where that is not known.
    """

    topic: str
    asked_at: int
    outcome: Literal["done", "refused", "unknown"]
    flush: str | None = None
    visible: str | None = None
    weakest_send: str | None = None
    code: str = ""


@attrs.frozen(kw_only=True)
class Appended(Recorded):
    """The storage took bytes: positions in a log, the offsets and the epoch of the batches in them."""

    partition: str
    position: int
    end_position: int
    base_offset: int
    next_offset: int
    epoch: int


@attrs.frozen(kw_only=True)
class Flushed(Recorded):
    """A flush ended: the durable end of each log that it covered, or its failure (``ends`` as before it).

    ``absent``: positions of appends that it said to cover, and that the page cache has and the device has nowhere; a
    recorder that can look there does so once the device has failed a flush. ``level``: the lowest that it stated for a
    log, empty where that was not recorded.
    """

    ends: tuple[tuple[str, int], ...]
    level: str = ""
    failed: bool = False
    absent: tuple[tuple[str, int], ...] = ()


@attrs.frozen(kw_only=True)
class ReadBatch:
    """A batch as a reader got it; ``messages`` are digests, ``base_offset`` the offset of the first one."""

    base_offset: int
    epoch: int
    messages: tuple[str, ...]


@attrs.frozen(kw_only=True)
class FetchEnded(Recorded):
    """What every end of a fetch has. ``asked_at``: events when it was asked; ``offset`` and ``epoch``: its position."""

    process: str
    partition: str
    asked_at: int
    offset: int
    epoch: int


@attrs.frozen(kw_only=True)
class FetchAnswered(FetchEnded):
    """A fetch was answered. ``known_age_ms``: how old a replica says that its knowledge is; -1: the primary's.

    ``tags``: those that it named; then ``next_epoch`` is that of the message before ``next_offset``, as answered.
    """

    next_offset: int
    start_offset: int
    committed_offset: int
    batches: tuple[ReadBatch, ...]
    known_age_ms: int = -1
    tags: tuple[str, ...] = ()
    next_epoch: int = 0


@attrs.frozen(kw_only=True)
class FetchFailed(FetchEnded):
    """A fetch was refused with a code such as ``diverged`` (``point``) or ``damaged`` (``point`` to ``until``)."""

    code: str
    point: int = -1
    until: int = -1


@attrs.frozen(kw_only=True)
class Seeked(Recorded):
    """A reader set its position itself. ``why``: ``diverged``, ``below-start``, ``damaged``, ``asked``."""

    process: str
    partition: str
    offset: int
    why: str


@attrs.frozen(kw_only=True)
class Phase(Recorded):
    """The run enters a phase: ``safety``, ``healing``, ``drain``."""

    name: str


@attrs.frozen(kw_only=True)
class Drained(Recorded):
    """The final drain of a partition is complete: everything from ``start_offset`` below ``end_offset`` was read."""

    partition: str
    start_offset: int
    end_offset: int


@attrs.frozen(kw_only=True)
class LivenessObserved(Recorded):
    """Something that must succeed in time, mostly after healing: how long it took (-1: never), and the bound."""

    what: str
    took_us: int
    bound_us: int
    reason: str = ""


@attrs.frozen(kw_only=True)
class LogRecovered(Recorded):
    """Content of a log after a recovery. All of one ``group`` must be equal; ``way`` says how it was recovered."""

    group: str
    way: str
    partition: str
    content: str


@attrs.frozen(kw_only=True)
class LogHeld(Recorded):
    """What a node's copy of a log holds once a set is whole again: all nodes' have to be the same (G10)."""

    partition: str
    content: str


@attrs.frozen(kw_only=True)
class SideFileHeld(Recorded):
    """A side file that a node has in the end: digests of the messages of one log that it cut off and kept."""

    partition: str
    messages: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Probed(Recorded):
    """A direct question about one clause, asked and answered: refusals (G18), bounds (G20)."""

    clause: str
    question: str
    holds: bool
    observed: str = ""


@attrs.frozen(kw_only=True)
class Witnessed(Recorded):
    """How often each fault bit, and what else shows that the run was not empty."""

    counts: dict[str, int]


Event: TypeAlias = (
    Setting
    | Started
    | FaultInjected
    | Invoked
    | Completed
    | Altered
    | Appended
    | Flushed
    | FetchAnswered
    | FetchFailed
    | Seeked
    | Phase
    | Drained
    | LivenessObserved
    | LogRecovered
    | LogHeld
    | SideFileHeld
    | CursorSeen
    | CursorCommitted
    | NameClaimed
    | Probed
    | Witnessed
)
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Event.__args__}

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_converter = cattrs.Converter(forbid_extra_keys=True, omit_if_default=True)
_unstructure: dict[type[Any], Callable[[Any], dict[str, Any]]] = {
    kind: _converter.gen_unstructure_attrs_fromdict(kind) for kind in KINDS.values()
}


def to_json(event: Event) -> str:
    """Return an event as one line of JSON."""
    plain = {"event": type(event).__name__, **_unstructure[type(event)](event)}
    return _encode(plain)


def write_history(path: Path, events: Iterable[Event]) -> None:
    """Write events as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_json(event) + "\n" for event in events)


def read_history(path: Path) -> list[Event]:
    """Return the events of a file; ``ConfigurationError`` names the file, the line and what is wrong there."""
    events: list[Event] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                plain = json.loads(line[:LINE_BYTES_MAX])
                events.append(_converter.structure(plain, KINDS[plain.pop("event")]))
            except Exception as error:
                raise ConfigurationError(
                    f"{path}, line {number}: not an event of a history ({type(error).__name__}: {error}); "
                    "one JSON object with the key 'event' is expected"
                ) from error
    return events


def history_digest(events: Iterable[Event]) -> str:
    """Return a checksum of a history, the same for two runs exactly when every event is the same."""
    hasher = hashlib.blake2b(digest_size=16)
    for event in events:
        hasher.update(to_json(event).encode())
        hasher.update(b"\n")
    return hasher.hexdigest()
