"""Clients of a run, for every tier: the suite's own, which speak the wire protocol, and those of ``mqcore.client``.

Both play the same plans and write the same events. Must not know which world they are in.
"""

from mqcore_conformance.clients._consumer import PlannedConsumer, WireConsumer, drain_when_possible, read_batches
from mqcore_conformance.clients._groups import GroupReader, describe_groups
from mqcore_conformance.clients._library_consumer import LibraryConsumer
from mqcore_conformance.clients._library_producer import LibraryProducer
from mqcore_conformance.clients._names import NamedProgram
from mqcore_conformance.clients._producer import WireProducer, send_once
from mqcore_conformance.clients._progress import watch_consumers
from mqcore_conformance.clients._session import CallFailedError, SessionLostError, WireSession, connect
from mqcore_conformance.clients._users import alter_topic, churn_topics

__all__ = [
    "CallFailedError",
    "GroupReader",
    "LibraryConsumer",
    "LibraryProducer",
    "NamedProgram",
    "PlannedConsumer",
    "SessionLostError",
    "WireConsumer",
    "WireProducer",
    "WireSession",
    "alter_topic",
    "churn_topics",
    "connect",
    "describe_groups",
    "drain_when_possible",
    "read_batches",
    "send_once",
    "watch_consumers",
]
