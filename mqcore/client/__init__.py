"""The client: producers, consumers, administration; one connection to each server. Reached as ``mqcore.connect``."""

from mqcore.client._admin import Admin
from mqcore.client._client import Client, connect
from mqcore.client._consumed import ConsumedBatch, Message
from mqcore.client._consumer import Consumer
from mqcore.client._delivery import Delivery
from mqcore.client._options import ClientOptions, ConsumerOptions, ProducerOptions
from mqcore.client._producer import Producer
from mqcore.client._producer_state import Loss
from mqcore.client._receipt import Receipt
from mqcore.client._results import Position
from mqcore.operations import BrokerStatus, PartitionState, TopicDescription, TopicInfo, TopicSummary

__all__ = [
    "Admin",
    "BrokerStatus",
    "Client",
    "ClientOptions",
    "ConsumedBatch",
    "Consumer",
    "ConsumerOptions",
    "Delivery",
    "Loss",
    "Message",
    "PartitionState",
    "Position",
    "Producer",
    "ProducerOptions",
    "Receipt",
    "TopicDescription",
    "TopicInfo",
    "TopicSummary",
    "connect",
]
