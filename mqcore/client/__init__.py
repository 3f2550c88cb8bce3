"""The client: producers, consumers, administration; one connection to each server. Reached as ``mqcore.connect``."""

from mqcore.client._admin import Admin
from mqcore.client._client import Client, connect
from mqcore.client._consumed import ConsumedBatch, Message
from mqcore.client._consumer import Consumer, Start
from mqcore.client._delivery import Delivery
from mqcore.client._group_admin import GroupAdmin
from mqcore.client._group_consumer import GroupConsumer
from mqcore.client._handling import Handler
from mqcore.client._options import (
    ClientOptions,
    ConsumerOptions,
    GroupOptions,
    HandlingOptions,
    Policy,
    ProducerOptions,
)
from mqcore.client._producer import Producer
from mqcore.client._producer_admin import ProducerAdmin
from mqcore.client._producer_state import Loss
from mqcore.client._receipt import Receipt
from mqcore.client._results import Position
from mqcore.client._set_admin import SetAdmin
from mqcore.delivery import HandlingFailure, Origin, history_of, original_pairs
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
    "Handler",
    "HandlingFailure",
    "HandlingOptions",
    "GroupAdmin",
    "GroupConsumer",
    "GroupOptions",
    "Loss",
    "Message",
    "Origin",
    "PartitionState",
    "Policy",
    "Position",
    "Producer",
    "ProducerAdmin",
    "ProducerOptions",
    "Receipt",
    "SetAdmin",
    "Start",
    "TopicDescription",
    "TopicInfo",
    "TopicSummary",
    "connect",
    "history_of",
    "original_pairs",
]
