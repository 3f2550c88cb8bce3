"""The broker: partitions with their policies, connections, topics, group commit."""

from mqcore.broker._broker import Broker
from mqcore.broker._embedding import open_broker, serve_broker
from mqcore.broker._topics import topic_names

__all__ = ["Broker", "open_broker", "serve_broker", "topic_names"]
