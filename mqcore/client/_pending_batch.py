"""A batch on its way, and what becomes of it: the unit of sending, of retries and of outcomes.

Outcomes are those of the specification (guarantees, section 1): acknowledged with a receipt, rejected, or unknown.
No I/O, no trio: what waits for a batch is an opaque token that the shell wakes.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable
from typing import Any

from mqcore.batch import HeaderPairs
from mqcore.client._receipt import Receipt
from mqcore.errors import MqcoreError, RejectedError

__all__ = ["MESSAGE_OVERHEAD_BYTES", "BatchState", "PendingBatch", "not_sent"]

MESSAGE_OVERHEAD_BYTES = 64
"""What a message costs beside its payload, counted against the producer's buffer."""


class BatchState(enum.Enum):
    """Where a batch is."""

    GATHERING = "gathering"
    WAITING = "waiting"
    IN_FLIGHT = "in-flight"
    FINISHED = "finished"
    DEAD = "dead"
    """Will not be sent any more; its sequences stay unused."""


class PendingBatch:
    """Messages for one partition that travel as one batch.

    ``callbacks``, where there are any, are called once it is settled, beside waking the ``waiters``.
    ``receipt`` or ``error`` is set once its outcome is known. ``in_doubt``: some attempt may have reached the log.
    ``lengths``: of the first ``values``, where they are known.
    ``abandoned``: its senders were told "unknown", it is still retried because later sequences need it. ``keys``,
    ``headers``, ``timestamps_ms`` and ``tags`` are None until a message has what the batch alone does not say
    (``has_columns``); ``different_tags`` are those among ``tags``.
    """

    __slots__ = (
        "abandoned",
        "callbacks",
        "created_ms",
        "data",
        "deadline",
        "different_tags",
        "error",
        "first_sequence",
        "has_columns",
        "headers",
        "in_doubt",
        "keys",
        "last_refusal",
        "lengths",
        "one_way",
        "opened_at",
        "partition",
        "policy",
        "receipt",
        "size",
        "state",
        "tags",
        "timestamps_ms",
        "values",
        "waiters",
        "was_sent",
    )

    def __init__(
        self, partition: int, policy: int, one_way: bool, opened_at: float, created_ms: int, deadline: float
    ) -> None:
        self.partition = partition
        self.policy = policy
        self.one_way = one_way
        self.opened_at = opened_at
        self.created_ms = created_ms
        self.deadline = deadline
        self.values: list[bytes] = []
        self.lengths: list[int] = []
        self.has_columns = False
        self.keys: list[bytes | None] | None = None
        self.headers: list[HeaderPairs] | None = None
        self.timestamps_ms: list[int] | None = None
        self.tags: list[str | None] | None = None
        self.different_tags: set[str]  # made with ``tags``: most batches have none
        self.size = 0
        self.data: bytearray | None = None
        self.first_sequence = 0
        self.state = BatchState.GATHERING
        self.was_sent = False
        self.in_doubt = False
        self.abandoned = False
        self.last_refusal: MqcoreError | None = None
        self.receipt: Receipt | None = None
        self.error: MqcoreError | None = None
        self.waiters: list[Any] = []
        self.callbacks: list[Callable[[], object]] | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is known, or known to be unknown."""
        return self.receipt is not None or self.error is not None

    @property
    def bytes_held(self) -> int:
        """What the batch counts against the producer's buffer until its outcome."""
        return self.size + MESSAGE_OVERHEAD_BYTES * len(self.values)

    def call_back(self) -> None:
        """Call everyone who asked to be called; once."""
        callbacks, self.callbacks = self.callbacks or (), None
        for callback in callbacks:
            callback()

    def add_columns(self, key: bytes | None, headers: HeaderPairs, created_ms: int, tag: str | None = None) -> None:
        """Keep what only the newest message has; those before it had none when a column is new."""
        self.has_columns = True
        before = len(self.values) - 1
        if self.keys is None and key is not None:
            self.keys = list[bytes | None]((None,)) * before
        if self.keys is not None:
            self.keys.append(key)
        if self.headers is None and headers:
            self.headers = list[HeaderPairs](((),)) * before
        if self.headers is not None:
            self.headers.append(headers)
        if self.timestamps_ms is None and created_ms != self.created_ms:
            self.timestamps_ms = [self.created_ms] * before
        if self.timestamps_ms is not None:
            self.timestamps_ms.append(created_ms)
        if self.tags is None and tag is not None:
            self.tags = list[str | None]((None,)) * before
            self.different_tags = set()
        if self.tags is not None:
            self.tags.append(tag)
            if tag is not None:
                self.different_tags.add(tag)

    def add_tag(self, tag: str) -> None:
        """Have every message so far have ``tag``, where none has a column yet."""
        self.has_columns = True
        self.tags = list[str | None]((tag,)) * len(self.values)
        self.different_tags = {tag}

    def has_room_for(self, tag: str, tags_max: int) -> bool:
        """Whether a message with ``tag`` leaves the batch with at most ``tags_max`` different ones."""
        return self.tags is None or tag in self.different_tags or len(self.different_tags) < tags_max

    def receipt_of(self, index: int, count: int = 1) -> Receipt:
        """Receipt of ``count`` messages from the ``index``-th on; raises the error that settled the batch."""
        receipt = self.receipt
        if receipt is None:
            if self.error is None:
                raise RuntimeError("the outcome is not known yet")
            # A copy for each caller: a traceback that one of them adds is not the others'.
            raise copy.copy(self.error)
        if index == 0 and count == 1:
            return receipt
        # As ``_replace``, which costs as much as all the rest of a message that is posted.
        topic, partition, offset, epoch, copies, duplicate, _ = receipt
        return Receipt(topic, partition, offset + index, epoch, copies, duplicate, count)


def not_sent(text: str) -> RejectedError:
    """The rejection of something that never left this client."""
    return RejectedError(text, name="not-sent", retryable=True)
