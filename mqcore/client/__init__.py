"""The client: producers, consumers and administration over one connection. Reached as ``mqcore.connect``."""

from mqcore.client._admin import Admin
from mqcore.client._client import Client, connect
from mqcore.client._consumer import ConsumedBatch, Consumer, Message
from mqcore.client._options import ClientOptions, ConsumerOptions, ProducerOptions
from mqcore.client._partition_queue import Loss
from mqcore.client._pending_batch import Receipt
from mqcore.client._producer import Delivery, Producer

__all__ = [
    "Admin",
    "Client",
    "ClientOptions",
    "ConsumedBatch",
    "Consumer",
    "ConsumerOptions",
    "Delivery",
    "Loss",
    "Message",
    "Producer",
    "ProducerOptions",
    "Receipt",
    "connect",
]
