"""The client for programs that block: ``with mqcore.sync.connect("tcp://127.0.0.1:7400") as client: ...``.

The same client with the same names as ``mqcore.connect``, whose Trio runs in a thread of its own. Everything may be
used from any thread, a consumer from one at a time. What differs: a call waits instead of being awaited; Ctrl-C ends
the waiting; ``Producer.post`` waits for room instead of raising, and what it would raise comes with its delivery;
``Delivery.wait`` takes a ``timeout``; what is closed raises ``ClosedError``.
"""

from mqcore.client import ConsumedBatch, Message, Receipt
from mqcore.sync._client import Client, connect
from mqcore.sync._consumer import Consumer, GroupConsumer
from mqcore.sync._producer import Delivery, Producer

__all__ = [
    "Client",
    "ConsumedBatch",
    "Consumer",
    "Delivery",
    "GroupConsumer",
    "Message",
    "Producer",
    "Receipt",
    "connect",
]
