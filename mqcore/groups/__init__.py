"""Consumer groups as state machines: who reads which partition, and what a group has read. No I/O, no trio.

``GroupMachine`` is the broker's half, ``GroupSession`` a member's; ``CursorTable`` is what a group has committed, and
``ProducerNames``, kept in the same log, who may send under the name of a producer.
"""

from mqcore.groups._cursors import (
    CURSOR_BYTES,
    NO_CURSOR,
    CursorTable,
    TopicCursors,
    pack_cursors,
    pack_deleted,
    pack_life,
    pack_place,
    unpack_change,
)
from mqcore.groups._due import DueTimes
from mqcore.groups._machine import Assign, GroupMachine, MemberInUseError, StaleSyncError
from mqcore.groups._member import GroupSession, SessionChange
from mqcore.groups._producer_names import (
    NamedProducer,
    ProducerNames,
    TopicNames,
    check_producer_name,
    pack_producer_name,
)
from mqcore.groups._values import Grant, MemberFacts, MemberSync, View

__all__ = [
    "CURSOR_BYTES",
    "NO_CURSOR",
    "Assign",
    "CursorTable",
    "DueTimes",
    "Grant",
    "GroupMachine",
    "GroupSession",
    "MemberFacts",
    "MemberInUseError",
    "MemberSync",
    "NamedProducer",
    "ProducerNames",
    "SessionChange",
    "StaleSyncError",
    "TopicCursors",
    "TopicNames",
    "View",
    "check_producer_name",
    "pack_cursors",
    "pack_deleted",
    "pack_life",
    "pack_place",
    "pack_producer_name",
    "unpack_change",
]
