"""The messages of the wire protocol as values. How they are read and written is elsewhere; docs/protocol.md has both.

Hot ones are named tuples: building one costs a third of an attrs class with as many fields.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from mqcore.guarantees import Copy, Level
from mqcore.ports import Buffer

__all__ = [
    "KIND_OF",
    "Call",
    "Commit",
    "Committed",
    "End",
    "Failed",
    "Fatal",
    "Fetch",
    "Fetched",
    "Hello",
    "Kind",
    "Message",
    "Ping",
    "Pong",
    "Produce",
    "Produced",
    "Result",
    "SendPolicy",
    "Sync",
    "Synced",
    "Welcome",
]


class Kind(enum.IntEnum):
    """Number of a message kind in the frame header."""

    HELLO = 1
    WELCOME = 2
    PRODUCE = 3
    PRODUCED = 4
    FETCH = 5
    FETCHED = 6
    CALL = 7
    RESULT = 8
    FAILED = 9
    PING = 10
    PONG = 11
    END = 12
    FATAL = 13
    SYNC = 14
    SYNCED = 15
    COMMIT = 16
    COMMITTED = 17


class SendPolicy(enum.IntEnum):
    """When the reply to one send goes out: by the topic's policy, or by the send's own."""

    TOPIC = 0
    NONE = 1
    ASYNC = 2
    SYNC = 3


class Hello(NamedTuple):
    """First frame of a client. ``session``: 16 bytes got on an earlier stream of the same client, or empty."""

    version_min: int
    version_max: int
    client: str
    session: bytes = b""


class Welcome(NamedTuple):
    """The broker's answer: the version chosen, who it is, and what it grants.

    ``set_id`` names the set that the node is of, ``role`` what it is there now (``primary`` or ``replica``). ``limits``
    are the broker's by their names in ``mqcore.limits``, at least ``frame_bytes_max``, ``requests_in_flight_max`` and
    ``bytes_in_flight_max``; the latter two are the client's credit: a request spends, its reply returns.
    """

    version: int
    session: bytes
    node_id: bytes
    node_name: str
    incarnation: int
    epoch: int
    set_id: bytes
    role: str
    limits: Mapping[str, int]


class Produce(NamedTuple):
    """Append one batch. ``one_way``: no reply is wanted, none will come. ``claim``: 16 bytes of a named producer."""

    request_id: int
    topic_id: bytes
    partition: int
    policy: int
    one_way: bool
    batch: Buffer
    claim: bytes = b""


class Produced(NamedTuple):
    """What was reached: offset of the batch's first message, epoch, whether it was a retry, and the copies."""

    request_id: int
    base_offset: int
    epoch: int
    duplicate: bool
    copies: tuple[Copy, ...]

    @property
    def level(self) -> Level:
        """Level of the weakest copy: what each of the nodes named holds at least."""
        return min(copy.level for copy in self.copies)


class Fetch(NamedTuple):
    """Read batches from ``offset`` (of ``epoch``, 0 if unknown), at most ``bytes_max``, waiting up to ``wait_ms``.

    ``from_replica``: a replica may answer it too, from what it knows to be committed; else it names its primary.
    ``tags``, encoded: batches that have none of them are passed over; for a broker that states ``fetch_tags_max``.
    """

    request_id: int
    topic_id: bytes
    partition: int
    offset: int
    epoch: int
    bytes_max: int
    wait_ms: int
    from_replica: bool = False
    tags: tuple[bytes, ...] = ()


class Fetched(NamedTuple):
    """Whole batches as stored; the first may begin below the asked offset. ``next_offset``: where to go on.

    ``known_age_ms``: how long ago a replica's primary last confirmed what it knows, at most 65 535 (G19); None from a
    primary. ``next_epoch``: of the message before ``next_offset``, stated to a fetch that named tags, else None: both
    are a position, also where what lies before it was passed over.
    """

    request_id: int
    next_offset: int
    start_offset: int
    committed_offset: int
    batches: Sequence[Buffer]
    known_age_ms: int | None = None
    next_epoch: int | None = None


class Call(NamedTuple):
    """An administrative request: JSON ``arguments`` for a named ``operation``."""

    request_id: int
    operation: str
    arguments: Mapping[str, object]


class Result(NamedTuple):
    """The answer to a call, any JSON value."""

    request_id: int
    value: object


class Failed(NamedTuple):
    """A request that failed: wire code, a sentence, and facts."""

    request_id: int
    code: int
    text: str
    facts: Mapping[str, object]


class Ping(NamedTuple):
    """Asks for a Pong of the same id."""

    request_id: int


class Pong(NamedTuple):
    """Answers a Ping."""

    request_id: int


class Sync(NamedTuple):
    """A member of a consumer group lives, and says what it holds: partitions with the generations of their grants.

    ``token``: 16 bytes of this member, ``sequence`` grows with each sync of it. ``is_fresh``: it holds nothing and
    follows no earlier answer; ``leaves``: it is none any more. ``seen``: generation of the newest answer that it
    follows. The answer comes when there is something new, after ``wait_ms`` at the latest. ``assignor``: of the group,
    as its first member asks for it; empty for the one that it has.
    """

    request_id: int
    topic_id: bytes
    group: str
    member: str
    token: bytes
    sequence: int
    is_fresh: bool
    leaves: bool
    seen: int
    session_ms: int
    rebalance_ms: int
    wait_ms: int
    assignor: str
    held: Sequence[tuple[int, int]]


class Synced(NamedTuple):
    """What a member may read: for each partition the generation of the grant, and the group's cursor in it.

    ``granted`` None: just what the sync said that it holds. An offset of 2**64 - 1 stands for no cursor.
    """

    request_id: int
    generation: int
    granted: Sequence[tuple[int, int, int, int]] | None


class Commit(NamedTuple):
    """A member has done with messages: for each partition the generation of its grant, the next offset, its epoch."""

    request_id: int
    topic_id: bytes
    group: str
    member: str
    token: bytes
    entries: Sequence[tuple[int, int, int, int]]


class Committed(NamedTuple):
    """The cursors that are in force now: partition, offset, epoch."""

    request_id: int
    cursors: Sequence[tuple[int, int, int]]


class End(NamedTuple):
    """Nothing more will be sent in this direction; what is in flight is still answered."""


class Fatal(NamedTuple):
    """The connection is over, and why."""

    code: int
    text: str


Message: TypeAlias = (
    Hello | Welcome | Produce | Produced | Fetch | Fetched | Call | Result | Failed | Ping | Pong | End | Fatal
    | Sync | Synced | Commit | Committed
)  # fmt: skip
"""What ``Connection`` takes and gives: one frame each."""

KIND_OF: dict[type, Kind] = {message_type: Kind[message_type.__name__.upper()] for message_type in Message.__args__}
"""The kind of each type of message."""
