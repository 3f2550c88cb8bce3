"""Clients of a run, for every tier: the suite's own, which speak the wire protocol, and those of ``mqcore.client``.

Both play the same plans and write the same events. Must not know which world they are in.
"""

from mqcore_conformance.clients._consumer import PlannedConsumer, WireConsumer, drain_when_possible
from mqcore_conformance.clients._library_consumer import LibraryConsumer
from mqcore_conformance.clients._library_producer import LibraryProducer
from mqcore_conformance.clients._producer import WireProducer, send_once
from mqcore_conformance.clients._progress import watch_consumers
from mqcore_conformance.clients._users import alter_topic, churn_topics

__all__ = [
    "LibraryConsumer",
    "LibraryProducer",
    "PlannedConsumer",
    "WireConsumer",
    "WireProducer",
    "alter_topic",
    "churn_topics",
    "drain_when_possible",
    "send_once",
    "watch_consumers",
]
