"""The broker: partitions with their policies, connections, topics, group commit."""

from mqcore.broker._cursor_store import make_offset_store
from mqcore.broker._embedding import open_broker, serve_broker
from mqcore.broker._gate import check_exposure
from mqcore.broker._keeper import Keeper
from mqcore.broker._metrics import METRICS, NodeView
from mqcore.broker._node import Node
from mqcore.broker._reload import APPLICABLE, Reloaded, apply_config
from mqcore.broker._remarks import file_problems, open_key_notices, remarks_on
from mqcore.broker._topics import topic_names

__all__ = [
    "APPLICABLE",
    "METRICS",
    "Keeper",
    "Node",
    "NodeView",
    "Reloaded",
    "apply_config",
    "check_exposure",
    "file_problems",
    "make_offset_store",
    "open_broker",
    "open_key_notices",
    "remarks_on",
    "serve_broker",
    "topic_names",
]
