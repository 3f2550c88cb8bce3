"""A batch on its way, and what becomes of it: the unit of sending, of retries and of outcomes.

Outcomes are those of the specification (guarantees, section 1): acknowledged with a receipt, rejected, or unknown.
No I/O, no trio: whoever waits for a batch is an opaque token that the shell wakes.
"""

from __future__ import annotations

import copy
import enum
from typing import TYPE_CHECKING, Any, NamedTuple

from mqcore.errors import MqcoreError, RejectedError
from mqcore.guarantees import Copy, Level
from mqcore.ports import Buffer

if TYPE_CHECKING:
    from mqcore.batch import MessageHeaders
    from mqcore.client._partition_queue import PartitionQueue

__all__ = ["Receipt", "PendingBatch", "BatchState"]


class Receipt(NamedTuple):
    """What was reached for a message, or for ``count`` messages of one batch from ``offset`` on.

    ``topic``, ``partition``: where it was appended. ``epoch``: number of the reign that appended it, which makes the
    offset unique for ever. ``copies``: the nodes that hold it, each with its incarnation and level, as the broker
    stated when it answered. ``duplicate``: the log held it already, from an earlier attempt of the same send.
    """

    topic: str
    partition: int
    offset: int
    epoch: int
    copies: tuple[Copy, ...]
    duplicate: bool
    count: int = 1  # type: ignore[assignment]  # hides tuple.count, which nobody wants of a receipt

    @property
    def level(self) -> Level:
        """Level of the weakest of the copies."""
        return min(copy.level for copy in self.copies)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Ids of the nodes that hold a copy, in hexadecimal."""
        return tuple(copy.node_id.hex() for copy in self.copies)


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

    ``receipt`` or ``error`` is set once its outcome is known. ``in_doubt``: some attempt may have reached the log.
    ``abandoned``: its senders were told "unknown", it is still retried because later sequences need it.
    """

    __slots__ = (
        "abandoned",
        "created_ms",
        "data",
        "deadline",
        "error",
        "first_sequence",
        "headers",
        "in_doubt",
        "keys",
        "last_refusal",
        "one_way",
        "opened_at",
        "owner",
        "policy",
        "queue",
        "receipt",
        "size",
        "state",
        "values",
        "waiters",
        "was_sent",
    )

    def __init__(
        self,
        queue: PartitionQueue,
        *,
        owner: Any,
        policy: int,
        one_way: bool,
        opened_at: float,
        created_ms: int,
        deadline: float,
    ) -> None:
        self.queue = queue
        self.owner = owner
        self.policy = policy
        self.one_way = one_way
        self.opened_at = opened_at
        self.created_ms = created_ms
        self.deadline = deadline
        self.values: list[Buffer] = []
        self.keys: list[Buffer | None] | None = None
        self.headers: list[MessageHeaders] | None = None
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

    @property
    def is_settled(self) -> bool:
        """Whether the outcome is known, or known to be unknown."""
        return self.receipt is not None or self.error is not None

    def receipt_of(self, index: int, count: int = 1) -> Receipt:
        """Receipt of ``count`` messages from the ``index``-th on; raises the error that settled the batch."""
        receipt = self.receipt
        if receipt is None:
            if self.error is None:
                raise RuntimeError("the outcome is not known yet")
            raise copy.copy(self.error)
        return Receipt(
            receipt.topic, receipt.partition, receipt.offset + index, receipt.epoch, receipt.copies,
            receipt.duplicate, count,
        )  # fmt: skip


def not_sent(text: str) -> RejectedError:
    """The rejection of something that never left this client."""
    return RejectedError(text, name="not-sent", retryable=True)
