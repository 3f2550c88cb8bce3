"""One producer's batches for one partition, in order: sequences, retries, what a refusal means for those behind it.

Rules, which keep a retry from becoming a duplicate (R12, G15):

- a batch keeps its bytes and its sequence through all retries, and batches are sent in the order of their sequences;
- after a failure nothing is sent again before everything in flight was answered, then all of it from the first;
- a batch that is given up while it may be in the log is still retried, because the log may wait for its sequence;
- a batch that certainly is not in the log and is given up leaves a hole: the rest goes on under a new producer epoch,
  from sequence 0, once everything before it was answered; the log refuses the old epoch from then on;
- the first batch in line answered "you are ahead of the log" says that the log lost acknowledged batches (a permitted
  loss): it is told, and the rest goes on under a new producer epoch.

No I/O, no clock, no trio.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mqcore.batch import HEADER_BYTES, pack_header, seal_body, unpack_header
from mqcore.client._backoff import Backoff
from mqcore.client._pending_batch import BatchState, PendingBatch, Receipt, not_sent
from mqcore.errors import MqcoreError, OutcomeUnknownError, RejectedError
from mqcore.protocol import Code, error_for

__all__ = ["Loss", "PartitionQueue", "QueueSettings"]

SEQUENCES = 1 << 32
_WAITING, _IN_FLIGHT = BatchState.WAITING, BatchState.IN_FLIGHT


class Loss(NamedTuple):
    """Acknowledged messages that a permitted loss took from the log: their receipts are void."""

    topic: str
    partition: int
    messages: int


class QueueSettings(NamedTuple):
    """What all partitions of one producer share.

    ``encode(shipment, epoch, first_sequence)`` makes the batch; ``completed`` collects settled shipments for the shell;
    ``release`` takes back the memory of one that is done with; ``lost`` is told of losses.
    """

    topic: str
    window: int
    linger: float
    backoff: Backoff
    random: random.Random
    encode: Callable[[PendingBatch, int, int], bytearray]
    completed: list[PendingBatch]
    release: Callable[[PendingBatch], None]
    lost: Callable[[Loss], None]


class PartitionQueue:
    """The batches of one producer for one partition."""

    __slots__ = (
        "attempt",
        "epoch",
        "flush",
        "gathered",
        "in_flight",
        "is_listed",
        "must_renumber",
        "must_rewind",
        "next_sequence",
        "open",
        "partition",
        "resume_at",
        "settings",
        "unacked",
        "waiting",
    )

    def __init__(self, partition: int, settings: QueueSettings) -> None:
        self.partition = partition
        self.settings = settings
        self.open: PendingBatch | None = None
        self.gathered: deque[PendingBatch] = deque()
        self.unacked: deque[PendingBatch] = deque()
        self.in_flight = 0
        self.waiting = 0
        self.epoch = 0
        self.next_sequence = 0
        self.attempt = 0
        self.resume_at = -math.inf
        self.must_rewind = False
        self.must_renumber = False
        self.flush = False
        self.is_listed = False

    # sending

    def next_to_send(self, now: float) -> PendingBatch | None:
        """Return the batch whose turn it is, encoded, to be confirmed with ``sent``; None while there is none."""
        if now < self.resume_at:
            return None
        if self.must_rewind or self.must_renumber:
            if self.in_flight:
                return None
            self.must_rewind = False
            if self.must_renumber:
                self._renumber()
        if self.waiting:
            return next(shipment for shipment in self.unacked if shipment.state is _WAITING)
        while self.gathered and len(self.unacked) < self.settings.window:
            shipment = self.gathered[0]
            if shipment is self.open:
                if now < shipment.opened_at + self.settings.linger and not self.flush:
                    return None
                self.open = None
            self.gathered.popleft()
            if self._seal(shipment):
                return shipment
        self.flush = self.flush and bool(self.gathered)
        return None

    @property
    def due(self) -> float:
        """When ``next_to_send`` may have something that it has not now; infinity when an answer has to come first."""
        if self.must_rewind and self.in_flight:
            return math.inf
        if self.waiting:
            return self.resume_at
        if self.gathered and len(self.unacked) < self.settings.window and not self.must_renumber:
            shipment = self.gathered[0]
            is_gathering = shipment is self.open and not self.flush
            ready_at = shipment.opened_at + self.settings.linger if is_gathering else -math.inf
            return max(ready_at, self.resume_at)
        return math.inf

    def sent(self, shipment: PendingBatch) -> None:
        """Take note that ``shipment`` was handed to the connection."""
        if shipment.one_way:
            shipment.state = BatchState.FINISHED
            self.settings.release(shipment)
            return
        shipment.state = _IN_FLIGHT
        shipment.was_sent = True
        self.in_flight += 1
        self.waiting -= 1

    def refuse(self, shipment: PendingBatch, error: RejectedError) -> None:
        """Give ``shipment`` up, which ``next_to_send`` returned and which cannot be sent at all."""
        is_newest = not shipment.one_way and self.unacked[-1] is shipment and not shipment.was_sent
        if shipment.one_way or is_newest:
            if is_newest:  # nobody saw its sequences: the next batch takes them
                self.unacked.pop()
                self.waiting -= 1
                self.next_sequence = shipment.first_sequence
            shipment.state = BatchState.DEAD
            self._settle(shipment, error=error)
            self.settings.release(shipment)
        else:
            self._give_up(shipment, error)
            self._trim()

    def _seal(self, shipment: PendingBatch) -> bool:
        """Give ``shipment`` its sequence and bytes; False when it cannot be encoded, which rejects it."""
        try:
            shipment.data = self.settings.encode(shipment, self.epoch, self.next_sequence)
        except RejectedError as error:
            shipment.state = BatchState.DEAD
            self._settle(shipment, error=error)
            self.settings.release(shipment)
            return False
        if shipment.one_way:
            return True
        shipment.first_sequence = self.next_sequence
        self.next_sequence = (self.next_sequence + len(shipment.values)) % SEQUENCES
        shipment.state = _WAITING
        self.unacked.append(shipment)
        self.waiting += 1
        return True

    def _renumber(self) -> None:
        """Go on under a new producer epoch. Nothing is in flight."""
        self.must_renumber = False
        self.epoch = (self.epoch + 1) % SEQUENCES
        self.next_sequence = 0
        for shipment in list(self.unacked):
            if shipment.state is BatchState.FINISHED:  # behind one that was lost: sequences are for what goes out
                self.unacked.remove(shipment)
                self._forget(shipment)
                continue
            if shipment.abandoned or shipment.state is BatchState.DEAD:
                self._drop(shipment)
                continue
            assert shipment.data is not None
            header = unpack_header(shipment.data)._replace(
                producer_epoch=self.epoch, first_sequence=self.next_sequence
            )
            data = bytearray(shipment.data)
            data[:HEADER_BYTES] = pack_header(header)
            seal_body(data)
            shipment.data = data
            shipment.first_sequence = self.next_sequence
            self.next_sequence = (self.next_sequence + len(shipment.values)) % SEQUENCES

    # answers

    def produced(self, shipment: PendingBatch, receipt: Receipt) -> None:
        """Take in the acknowledgement of ``shipment``."""
        self.in_flight -= 1
        self.attempt = 0
        shipment.state = BatchState.FINISHED
        self._settle(shipment, receipt=receipt)
        self._trim()

    def failed(self, shipment: PendingBatch, code: int, text: str, facts: Mapping[str, object], now: float) -> None:
        """Take in a refusal of ``shipment``: retried, told to its senders, or the sign of a loss."""
        self.in_flight -= 1
        shipment.state = _WAITING
        self.waiting += 1
        self.must_rewind = True
        if code == Code.SEQUENCE_GAP:
            self._failed_by_gap(shipment, facts, now)
            return
        error = error_for(code, text, dict(facts))
        if code == Code.SEQUENCE_TOO_OLD and not shipment.in_doubt:
            # Nothing of it was ever in the log: the broker has forgotten this producer.
            self.must_renumber = True
            return
        retryable = code in Code._value2member_map_ and Code(code).retryable
        if not isinstance(error, RejectedError):
            shipment.in_doubt = True
            retryable = code != Code.SEQUENCE_TOO_OLD
        if retryable:
            shipment.last_refusal = error
            self._back_off(now)
        else:
            self._give_up(shipment, error)
            self._trim()

    def broken(self) -> None:
        """Take note that the connection broke: everything in flight is in doubt and goes out again, in order."""
        for shipment in self.unacked:
            if shipment.state is _IN_FLIGHT:
                shipment.state = _WAITING
                shipment.in_doubt = True
                self.waiting += 1
        self.in_flight = 0
        self.must_rewind = False

    def end(self, shipment: PendingBatch, why: str) -> None:
        """End ``shipment``, which nobody waits for any longer: unknown when it may be in the log, else rejected."""
        text = f"topic {self.settings.topic!r} partition {self.partition}: {why}"
        if shipment.state is BatchState.GATHERING:
            self.gathered.remove(shipment)
            if shipment is self.open:
                self.open = None
            shipment.state = BatchState.DEAD
            self._settle(shipment, error=not_sent(f"{text}, and never sent: is the broker reachable?"))
            self.settings.release(shipment)
        elif shipment.state is _IN_FLIGHT or shipment.in_doubt:
            self._settle(shipment, error=OutcomeUnknownError(f"{text}: it may or may not be in the log"))
            shipment.abandoned = True
        elif shipment.state is _WAITING:
            refusal = shipment.last_refusal
            error = refusal if refusal is not None else not_sent(f"{text}, and never taken in")
            self._give_up(shipment, error)
            self._trim()

    def _failed_by_gap(self, shipment: PendingBatch, facts: Mapping[str, object], now: float) -> None:
        expected = facts.get("expected_sequence")
        if self.must_renumber or self.unacked[0] is not shipment:
            return
        missing = (shipment.first_sequence - expected) % SEQUENCES if isinstance(expected, int) else 0
        if shipment.in_doubt and (missing == 0 or missing >= SEQUENCES // 2):
            # The log is not behind: an earlier attempt was being appended meanwhile. It will be told as a duplicate.
            self._back_off(now)
            return
        self.must_renumber = True
        self.settings.lost(Loss(self.settings.topic, self.partition, missing))

    def _give_up(self, shipment: PendingBatch, error: MqcoreError) -> None:
        """Settle ``shipment`` for good; it holds its place until those before it are answered."""
        if shipment.in_doubt and not isinstance(error, OutcomeUnknownError):
            error = OutcomeUnknownError(f"an earlier attempt may be in the log; the last one was refused: {error}")
        self.waiting -= 1
        shipment.state = BatchState.DEAD
        self._settle(shipment, error=error)

    def _back_off(self, now: float) -> None:
        self.attempt += 1
        self.resume_at = now + self.settings.backoff.pause(self.attempt, self.settings.random)

    def _settle(
        self, shipment: PendingBatch, *, receipt: Receipt | None = None, error: MqcoreError | None = None
    ) -> None:
        if shipment.is_settled:
            return
        shipment.receipt, shipment.error = receipt, error
        self.settings.completed.append(shipment)

    def _trim(self) -> None:
        """Drop what is done with from the head of the line."""
        unacked = self.unacked
        while unacked:
            shipment = unacked[0]
            if shipment.state is BatchState.DEAD:
                self.must_renumber = True
            elif shipment.state is not BatchState.FINISHED:
                return
            unacked.popleft()
            self._forget(shipment)

    def _drop(self, shipment: PendingBatch) -> None:
        self.unacked.remove(shipment)
        if shipment.state is _WAITING:
            self.waiting -= 1
        shipment.state = BatchState.DEAD
        self._forget(shipment)

    def _forget(self, shipment: PendingBatch) -> None:
        self.settings.release(shipment)
