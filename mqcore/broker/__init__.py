"""The broker: partitions with their policies, connections, topics, group commit."""

from mqcore.broker._embedding import open_broker, serve_broker
from mqcore.broker._node import Node
from mqcore.broker._topics import topic_names

__all__ = ["Node", "open_broker", "serve_broker", "topic_names"]
