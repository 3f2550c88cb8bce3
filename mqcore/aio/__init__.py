"""The client for asyncio: ``async with mqcore.aio.connect("tcp://127.0.0.1:7400") as client: ...``.

The same client with the same names as ``mqcore.connect``, whose Trio runs inside the asyncio loop, in its thread
(Trio's guest mode). What differs: ``Producer.post`` raises ``BufferFullError``, and what is closed ``ClosedError``,
where the client for Trio raises Trio's own errors.
"""

from mqcore.aio._client import Client, connect
from mqcore.aio._consumer import Consumer, GroupConsumer
from mqcore.aio._producer import Delivery, Producer
from mqcore.client import ConsumedBatch, Message, Receipt

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
