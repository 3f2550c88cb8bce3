"""The partitions of one producer that one server owns, and their turns to send there. No I/O, no clock, no trio."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from mqcore.client._message_checks import too_large
from mqcore.client._partition_queue import PartitionQueue
from mqcore.client._pending_batch import PendingBatch
from mqcore.limits import Limits
from mqcore.protocol import Code, Message

__all__ = ["Lane", "Outlet"]


class Outlet(Protocol):
    """Where batches go: a stream to the server."""

    batch_bytes_max: int
    """Largest batch that the server takes."""
    limits: Limits
    """What the client and the server both allow."""

    def may_send(self, size: int) -> bool:
        """Whether the credit allows a request of ``size`` bytes now."""
        ...

    def produce(
        self,
        topic_id: bytes,
        partition: int,
        policy: int,
        batch: bytearray,
        on_reply: Callable[[Message | None], None] | None,
        claim: bytes,
    ) -> None:
        """Queue a batch; ``on_reply`` gets the reply, None a connection that broke before it. One-way without it.

        ``claim``: of a named producer, else empty.
        """
        ...


class Lane:
    """Queues that wait for their turn at one server, in ``line``.

    ``on_reply(queue, batch, message)`` is called with every reply, ``on_settled()`` when a turn settled batches,
    ``on_defect(error)`` when it raised what it never should. ``is_blocked``: the credit ended before the line did.
    """

    def __init__(
        self,
        topic_id: bytes,
        completed: list[PendingBatch],
        *,
        on_reply: Callable[[PartitionQueue, PendingBatch, Message | None], None],
        on_settled: Callable[[], None],
        on_defect: Callable[[Exception], None],
        on_limits: Callable[[Limits], None],
        claim: bytes = b"",
    ) -> None:
        self.line: deque[PartitionQueue] = deque()
        self.is_blocked = False
        self._topic_id = topic_id
        self._claim = claim
        self._completed = completed
        self._on_reply = on_reply
        self._on_settled = on_settled
        self._on_defect = on_defect
        self._on_limits = on_limits

    def connected(self, outlet: Outlet) -> None:
        """Take note of a new connection, and of what its server allows."""
        self._on_limits(outlet.limits)

    def pump(self, outlet: Outlet, now: float) -> float:
        """Hand every batch whose turn it is to ``outlet``, as far as its credit allows.

        Return when to call again if nothing else happens; infinity when only a reply or a message changes anything.
        """
        line = self.line
        again = math.inf
        self.is_blocked = False
        try:
            for _ in range(len(line)):
                queue = line[0]
                while (batch := queue.next_to_send(now)) is not None:
                    data = batch.data
                    assert data is not None
                    if len(data) > outlet.batch_bytes_max:
                        most = outlet.batch_bytes_max
                        queue.refuse(batch, too_large("batch", len(data), most, Code.BATCH_TOO_LARGE))
                        continue
                    if not outlet.may_send(len(data)):
                        # It stays first in line: what is large gets its turn once what is in flight was answered.
                        self.is_blocked = True
                        return again
                    on_reply = None if batch.one_way else partial(self._on_reply, queue, batch)
                    outlet.produce(self._topic_id, queue.partition, batch.policy, data, on_reply, self._claim)
                    queue.sent(batch)
                    if not queue.waiting and not queue.gathered:
                        break
                line.popleft()
                due = queue.due if queue.waiting or queue.gathered else math.inf
                if due < math.inf:
                    line.append(queue)
                    again = min(again, due)
                else:
                    queue.is_listed = False
        except Exception as error:  # a defect ends this producer, loudly, and no other of the client
            self._on_defect(error)
            return math.inf
        finally:
            if self._completed:
                self._on_settled()
        return again
