"""Delivery to a handler: which message may be handled now, when it is tried again, and what of a partition is done.

State machines: no I/O, no tasks, no clocks. A shell runs one (``mqcore.client``).
"""

from mqcore.delivery._history import (
    DEAD_LETTER_SUFFIX,
    HandlingFailure,
    Origin,
    history_of,
    history_pairs,
    original_pairs,
    settled_by,
    settled_pairs,
)
from mqcore.delivery._machine import DeliveryMachine, DeliveryRules, Ordering, Task

__all__ = [
    "DEAD_LETTER_SUFFIX",
    "DeliveryMachine",
    "DeliveryRules",
    "HandlingFailure",
    "Ordering",
    "Origin",
    "Task",
    "history_of",
    "history_pairs",
    "original_pairs",
    "settled_by",
    "settled_pairs",
]
