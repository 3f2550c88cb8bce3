"""mqcore: compose a message broker out of parts, and prove what its acknowledgement means.

The names below are imported when first used: ``import mqcore`` alone costs next to nothing.
"""

from __future__ import annotations

import importlib

# Type checkers take this name for true. ``typing`` would be most of what is loaded before the command line can catch a
# Ctrl-C.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from mqcore.broker import Node, open_broker
    from mqcore.client import Client, ConsumedBatch, Consumer, Delivery, Message, Producer, Receipt, connect
    from mqcore.errors import (
        BatchUndecodableError,
        BufferFullError,
        ClosedError,
        ConfigurationError,
        CorruptionError,
        MessagesMissingError,
        MqcoreError,
        NotReachedError,
        OutcomeUnknownError,
        RefusedError,
        RejectedError,
    )
    from mqcore.limits import Limits

__all__ = [
    "BatchUndecodableError",
    "BufferFullError",
    "Node",
    "Client",
    "ClosedError",
    "ConfigurationError",
    "ConsumedBatch",
    "Consumer",
    "CorruptionError",
    "Delivery",
    "Limits",
    "Message",
    "MessagesMissingError",
    "MqcoreError",
    "NotReachedError",
    "OutcomeUnknownError",
    "Producer",
    "Receipt",
    "RefusedError",
    "RejectedError",
    "connect",
    "open_broker",
]

_MODULE_OF = {
    "Node": "mqcore.broker",
    "open_broker": "mqcore.broker",
    "Client": "mqcore.client",
    "ConsumedBatch": "mqcore.client",
    "Consumer": "mqcore.client",
    "Delivery": "mqcore.client",
    "Message": "mqcore.client",
    "Producer": "mqcore.client",
    "Receipt": "mqcore.client",
    "connect": "mqcore.client",
    "Limits": "mqcore.limits",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'mqcore' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF.get(name, "mqcore.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
