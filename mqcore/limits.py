"""Named limits, one class, units last in every name.

Each limit is enforced where the thing that it bounds enters the system, and tested at limit - 1, limit and
limit + 1. This module knows nothing of what enforces it.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs
from attrs import validators

__all__ = ["Limits"]

KIB = 1024
MIB = 1024 * KIB

FRAME_BYTES_BESIDE_BATCH = KIB
"""More than what a frame says beside the batches in it."""

_WITHIN = (
    ("frame_bytes_max", "receive_buffer_bytes_total_max", 0),
    ("batch_bytes_max", "frame_bytes_max", FRAME_BYTES_BESIDE_BATCH),
    ("fetch_bytes_max", "frame_bytes_max", FRAME_BYTES_BESIDE_BATCH),
    ("admin_bytes_max", "frame_bytes_max", 0),
    ("message_bytes_max", "batch_uncompressed_bytes_max", 0),
    ("topics_max", "partitions_max", 0),
    ("partitions_per_topic_max", "partitions_max", 0),
)
"""Limit, the limit that it must fit into, and how much of that is taken by other things; outer ones come first."""

_PUBLISHED = frozenset(
    {
        "frame_bytes_max",
        "admin_bytes_max",
        "batch_bytes_max",
        "batch_messages_max",
        "batch_uncompressed_bytes_max",
        "message_bytes_max",
        "key_bytes_max",
        "headers_bytes_max",
        "batch_tags_max",
        "tag_bytes_max",
        "fetch_tags_max",
        "topic_name_bytes_max",
        "requests_in_flight_max",
        "bytes_in_flight_max",
        "fetch_bytes_max",
        "fetch_wait_ms_max",
        "fetches_parked_max",
        "group_members_max",
        "group_session_ms_max",
        "idle_timeout_ms",
    }
)
"""Those that a client can meet: it has to know them, or it is refused for what it could have avoided."""

_OF_NEWER_PEERS = frozenset({"batch_tags_max", "fetch_tags_max"})
"""Those whose want says that a peer is older than what they bound: it takes none."""


def _limit(default: int, minimum: int = 1, *, help: str) -> int:
    return attrs.field(default=default, validator=validators.ge(minimum), metadata={"help": help, "minimum": minimum})


@attrs.frozen(kw_only=True)
class Limits:
    """Every bound of one broker or client. Bytes unless the name says otherwise.

    A limit must fit into the one that holds what it bounds, as a batch into a frame: one that is left at its default
    follows a lower one, and one that was chosen and does not fit is a ``ValueError`` that names both.
    """

    frame_bytes_max: int = _limit(17 * MIB, 64 * KIB, help="largest frame a peer may send")
    admin_bytes_max: int = _limit(1 * MIB, 4 * KIB, help="largest administrative request, and page of a reply")
    batch_bytes_max: int = _limit(16 * MIB, 4 * KIB, help="largest batch, header included")
    batch_messages_max: int = _limit(65_536, help="most messages in one batch")
    message_bytes_max: int = _limit(8 * MIB, help="largest message payload")
    key_bytes_max: int = _limit(32 * KIB, help="longest message key")
    headers_bytes_max: int = _limit(64 * KIB, help="headers of one message, encoded")
    batch_tags_max: int = _limit(256, 0, help="different tags in one batch; 0: none are taken")
    tag_bytes_max: int = _limit(200, help="longest tag of a message")
    batch_uncompressed_bytes_max: int = _limit(64 * MIB, 4 * KIB, help="payload of one batch after decompression")
    topic_name_bytes_max: int = _limit(200, help="longest topic name")
    topics_max: int = _limit(10_000, help="topics of one broker")
    partitions_per_topic_max: int = _limit(10_000, help="partitions of one topic")
    partitions_max: int = _limit(100_000, help="partitions of one broker")
    connections_max: int = _limit(4_096, help="connections of one broker")
    logins_max: int = _limit(256, help="connections that have not yet said who they are, where they have to")
    login_failures_max: int = _limit(
        10, help="failed logins of an address (IPv6: its /64) in a minute, before it has to wait"
    )
    handshake_timeout_ms: int = _limit(10_000, help="time a new connection has for its first frame, in ms")
    idle_timeout_ms: int = _limit(120_000, help="silence after which a connection is closed, in ms")
    frame_timeout_ms: int = _limit(30_000, help="silence inside a frame after which a connection is closed, in ms")
    send_stall_timeout_ms: int = _limit(30_000, help="time in which a peer takes no byte of what is sent to it, in ms")
    requests_in_flight_max: int = _limit(4_096, help="unanswered requests of one connection")
    bytes_in_flight_max: int = _limit(64 * MIB, 64 * KIB, help="unanswered request bytes of one connection")
    receive_buffer_bytes_total_max: int = _limit(1024 * MIB, 1 * MIB, help="receive buffers of all connections")
    fetch_bytes_max: int = _limit(16 * MIB, 4 * KIB, help="most bytes one fetch may ask for")
    fetch_tags_max: int = _limit(64, 0, help="most tags that one fetch may name; 0: none")
    fetch_wait_ms_max: int = _limit(60_000, 0, help="longest long poll, in ms; less than 50 counts as 50")
    fetches_parked_max: int = _limit(1_024, help="long polls waiting on one connection")
    servers_max: int = _limit(256, help="servers that one client is connected to, by all their names")
    groups_max: int = _limit(10_000, help="consumer groups of one broker, counted once for each of their topics")
    group_members_max: int = _limit(1_000, help="members of one consumer group that read one topic")
    group_session_ms_max: int = _limit(600_000, help="longest session that a member may ask for, in ms")
    cursors_max: int = _limit(2_000_000, help="cursors of all consumer groups of one broker")
    producer_names_max: int = _limit(100_000, help="names of producers of one broker")
    producers_max: int = _limit(100_000, help="producer states kept per partition")
    producer_retention_ms: int = _limit(7 * 24 * 3600 * 1000, help="how long an idle producer's state is kept, in ms")
    producer_batches_kept: int = _limit(64, help="last batches of a producer that a retry is answered from")
    append_inline_us_max: int = _limit(1_000, help="slowest append still made in the event loop's thread, in us")
    flush_inline_us_max: int = _limit(300, 0, help="mean flush still made in the event loop's thread, in us; 0: none")
    drain_grace_ms: int = _limit(10_000, 0, help="time for requests in flight at shutdown, in ms")
    metadata_log_bytes_max: int = _limit(
        1024**2, help="growth of a set's metadata log before it is made short, or three times what it says, if more"
    )
    log_names_reported_max: int = _limit(1_000, help="logs without a topic that are listed by name")

    def __attrs_post_init__(self) -> None:
        # Refusing a default too would make the user of one low limit name every other one with it.
        for name, outer, taken in _WITHIN:
            value, fits = getattr(self, name), getattr(self, outer) - taken
            if value <= fits:
                continue
            if value != getattr(attrs.fields(Limits), name).default:
                raise ValueError(
                    f"{name} = {value}: more than {outer} = {getattr(self, outer)} has room for;"
                    f" at most {fits}, or raise {outer}"
                )
            object.__setattr__(self, name, fits)

    def published(self) -> dict[str, int]:
        """Return the limits by name that a broker's welcome states: those that a client can meet."""
        return {name: getattr(self, name) for name in sorted(_PUBLISHED)}

    def within(self, published: Mapping[str, int]) -> Limits:
        """Return these limits, each lowered to the peer's where the peer's is smaller.

        ``published``: values by name, as ``published`` returns them; unknown names, which a newer peer may state, are
        left out, and no limit falls below its own minimum, whatever the peer states. One of what came later than the
        others (tags) is 0 where the peer does not state it.
        """
        values = attrs.asdict(self)
        for field in attrs.fields(Limits):
            if field.name in _PUBLISHED and field.name in published:
                stated = max(published[field.name], field.metadata["minimum"])
                values[field.name] = min(stated, values[field.name])
            elif field.name in _OF_NEWER_PEERS:
                values[field.name] = 0
        # A peer may state limits that do not fit into each other: its greeting is no reason to raise here.
        for name, outer, taken in _WITHIN:
            values[name] = min(values[name], values[outer] - taken)
        return Limits(**values)
