"""One producer's batches for one partition, in order: sequences, retries, what a refusal means for those behind it.

Rules, which keep a retry from becoming a duplicate (R12, G15):

- a batch keeps its bytes and its sequence through all retries, and batches are sent in the order of their sequences;
- after a failure nothing is sent again before everything in flight was answered, then all of it from the first;
- a batch that is given up while it may be in the log is still retried, because the log may wait for its sequence;
- a batch that certainly is not in the log and is given up leaves a hole: the rest goes on under a new producer epoch,
  from sequence 0, once everything before it was answered; the log refuses the old epoch from then on;
- the first batch in line answered "you are ahead of the log", or "lost from" a sequence, says that the log lost
  acknowledged batches (a permitted loss): it is reported, and the rest goes on under a new producer epoch.

Sequences belong to the partition and not to the connection, so the queue can go on at another server as it is.
No I/O, no clock, no trio.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from mqcore.batch import HEADER_BYTES, encode_batch, pack_header, seal_body, unpack_header
from mqcore.client._pending_batch import MESSAGE_OVERHEAD_BYTES, BatchState, PendingBatch, not_sent
from mqcore.client._producer_state import Loss, ProducerState
from mqcore.client._receipt import Receipt
from mqcore.errors import MqcoreError, OutcomeUnknownError, RejectedError
from mqcore.protocol import Code, Produced, error_for

__all__ = ["PartitionQueue"]

SEQUENCES = 1 << 32
_WAITING, _IN_FLIGHT = BatchState.WAITING, BatchState.IN_FLIGHT
_FINISHED, _DEAD = BatchState.FINISHED, BatchState.DEAD


class PartitionQueue:
    """The batches of one producer for one partition.

    ``gathered`` have no sequence yet; the newest of them may be ``open`` for more messages. ``unacked`` have one and
    wait or are in flight. ``line`` is where the queue waits for its turn to send, with those of other partitions.
    """

    __slots__ = (
        "attempt",
        "doubts_end",
        "epoch",
        "flush",
        "gathered",
        "in_flight",
        "is_listed",
        "line",
        "must_renumber",
        "must_rewind",
        "next_sequence",
        "open",
        "partition",
        "resume_at",
        "state",
        "unacked",
        "waiting",
        "was_unanswered",
    )

    def __init__(self, partition: int, state: ProducerState, line: deque[PartitionQueue]) -> None:
        self.partition = partition
        self.state = state
        self.line = line
        self.open: PendingBatch | None = None
        self.gathered: deque[PendingBatch] = deque()
        self.unacked: deque[PendingBatch] = deque()
        self.in_flight = 0
        self.waiting = 0
        self.epoch = state.claimed.first_epochs.get(partition, 0) % SEQUENCES
        self.next_sequence = 0
        self.attempt = 0
        self.resume_at = -math.inf
        self.must_rewind = False
        self.must_renumber = False
        self.doubts_end = False
        self.flush = False
        self.is_listed = False
        self.was_unanswered = False

    def enlist(self) -> None:
        """Wait in the line for a turn to send."""
        if not self.is_listed:
            self.is_listed = True
            self.line.append(self)

    def enlist_if_busy(self) -> None:
        """Wait in the line if there is anything that may be sent, now or after a pause."""
        if self.waiting or self.gathered or self.must_renumber:
            self.enlist()

    @property
    def has_ended_in_order(self) -> bool:
        """Whether everything that was sent, and something was, has been answered: nothing of it can arrive later.

        An attempt that broke off may still lie in a buffer and be appended after its retry: that has to be remembered.
        """
        return bool(self.next_sequence) and not (self.unacked or self.gathered or self.was_unanswered)

    def move_to(self, line: deque[PartitionQueue]) -> None:
        """Wait in another line from now on: that of the server that owns the partition now."""
        if self.is_listed:
            self.line.remove(self)
            line.append(self)
        self.line = line

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
            return next(batch for batch in self.unacked if batch.state is _WAITING)
        while self.gathered and len(self.unacked) < self.state.window:
            batch = self.gathered[0]
            if batch is self.open:
                if now < batch.opened_at + self.state.linger and not self.flush:
                    return None
                self.open = None
            if batch.data is not None or self._seal(batch):
                return batch
        self.flush = self.flush and bool(self.gathered)
        return None

    @property
    def due(self) -> float:
        """When ``next_to_send`` may have something that it has not now; infinity when an answer has to come first."""
        if (self.must_rewind or self.must_renumber) and self.in_flight:
            return math.inf
        if self.waiting:
            return self.resume_at
        if self.gathered and len(self.unacked) < self.state.window:
            batch = self.gathered[0]
            is_gathering = batch is self.open and not self.flush
            ready_at = batch.opened_at + self.state.linger if is_gathering else -math.inf
            return max(ready_at, self.resume_at)
        return math.inf

    def sent(self, batch: PendingBatch) -> None:
        """Take note that ``batch`` was handed to the connection."""
        if batch.one_way:
            self.gathered.popleft()
            batch.state = _FINISHED
            self._release(batch)
            return
        batch.state = _IN_FLIGHT
        batch.was_sent = True
        self.in_flight += 1
        self.waiting -= 1

    def refuse(self, batch: PendingBatch, error: RejectedError) -> None:
        """Give ``batch`` up, which ``next_to_send`` returned and which cannot be sent at all."""
        if batch.one_way:
            self.gathered.popleft()
        elif self.unacked[-1] is batch and not batch.was_sent:
            # Its sequences were never seen outside: the next batch takes them.
            self.unacked.pop()
            self.waiting -= 1
            self.next_sequence = batch.first_sequence
        else:
            self._give_up(batch, error)
            self._trim()
            return
        self._drop_unsent(batch, error)

    def _drop_unsent(self, batch: PendingBatch, error: MqcoreError) -> None:
        """End a batch that is out of the queue already and was never sent."""
        batch.state = _DEAD
        self._settle(batch, error)
        self._release(batch)

    def _seal(self, batch: PendingBatch) -> bool:
        """Give ``gathered[0]`` its sequence and bytes; False when it cannot be encoded, which rejects it.

        A one-way batch stays at the head until it was sent: it has no sequence that would hold its place.
        """
        state = self.state
        one_way = batch.one_way
        try:
            batch.data = encode_batch(
                batch.values,
                lengths=batch.lengths if len(batch.lengths) == len(batch.values) else None,
                keys=batch.keys,
                headers=batch.headers,
                timestamps_ms=batch.timestamps_ms,
                tags=batch.tags,
                created_ms=batch.created_ms,
                producer_id=0 if one_way else state.producer_id,
                producer_epoch=0 if one_way else self.epoch,
                first_sequence=0 if one_way else self.next_sequence,
                codec=state.codec,
                limits=state.limits,
            )
        except (RejectedError, ValueError, TypeError) as error:
            self.gathered.popleft()
            if not isinstance(error, RejectedError):
                error = RejectedError(f"the batch cannot be encoded: {error}", name="malformed-batch")
            self._drop_unsent(batch, error)
            return False
        if one_way:
            return True
        self.gathered.popleft()
        batch.first_sequence = self.next_sequence
        self.next_sequence = (self.next_sequence + len(batch.values)) % SEQUENCES
        batch.state = _WAITING
        self.unacked.append(batch)
        self.waiting += 1
        return True

    def _renumber(self) -> None:
        """Go on under a new producer epoch. Nothing is in flight."""
        self.must_renumber = False
        self.epoch = (self.epoch + 1) % SEQUENCES
        self.next_sequence = 0
        for batch in list(self.unacked):
            if batch.state is _FINISHED:  # behind one that was lost: sequences are for what goes out
                self.unacked.remove(batch)
                self._release(batch)
                continue
            if batch.in_doubt and self.doubts_end:
                # The one that was given up may be in the log, and so may this one: again it could be a duplicate (G15).
                text = "it may be in the log, and one before it that may be, too, was refused when it was sent again"
                self._settle(batch, OutcomeUnknownError(f"topic {self.state.topic!r}: {text}"))
                batch.abandoned = True
            if batch.abandoned or batch.state is _DEAD:
                self._drop(batch)
                continue
            assert batch.data is not None
            header = unpack_header(batch.data)._replace(producer_epoch=self.epoch, first_sequence=self.next_sequence)
            # A copy: the bytes of the last attempt may still wait in the connection's buffers.
            data = bytearray(batch.data)
            data[:HEADER_BYTES] = pack_header(header)
            seal_body(data)
            batch.data = data
            batch.first_sequence = self.next_sequence
            self.next_sequence = (self.next_sequence + len(batch.values)) % SEQUENCES
        self.doubts_end = False

    # replies

    def produced(self, batch: PendingBatch, reply: Produced) -> None:
        """Take in the acknowledgement of ``batch``: its receipt says what the broker stated, and nothing else."""
        self.in_flight -= 1
        self.attempt = 0
        batch.state = _FINISHED
        if batch.error is None:
            _, offset, epoch, duplicate, copies = reply
            batch.receipt = Receipt(self.state.topic, self.partition, offset, epoch, copies, duplicate)
            self.state.completed.append(batch)
        if len(self.unacked) > 1:
            self._trim()
        else:
            self.unacked.popleft()
            self.state.bytes_held -= batch.size + MESSAGE_OVERHEAD_BYTES * len(batch.values)
            batch.data = None

    def failed(self, batch: PendingBatch, code: int, text: str, facts: Mapping[str, object], now: float) -> None:
        """Take in a refusal of ``batch``: retried, reported to its senders, or the sign of a loss."""
        self._returned(batch)
        self.must_rewind = True
        if code in (Code.SEQUENCE_GAP, Code.LOST_FROM):
            is_loss = code == Code.LOST_FROM
            self._failed_by_gap(batch, facts.get("sequence" if is_loss else "expected_sequence"), is_loss, now)
            return
        error = error_for(code, text, dict(facts))
        if code == Code.SEQUENCE_TOO_OLD and not batch.in_doubt:
            # Nothing of it was ever in the log: the broker has forgotten this producer.
            self.must_renumber = True
            return
        retryable = code in Code._value2member_map_ and Code(code).retryable
        if not isinstance(error, RejectedError):
            batch.in_doubt = True
            retryable = code != Code.SEQUENCE_TOO_OLD
        if retryable:
            batch.last_refusal = error
            self._back_off(now)
        else:
            self._give_up(batch, error)
            self._trim()

    def redirected(self, batch: PendingBatch, now: float) -> None:
        """Take in that the server does not own the partition: ``batch`` was not appended, it goes out again, elsewhere.

        The first redirection costs no pause; servers that send it to and fro do.
        """
        self._returned(batch)
        self.must_rewind = True
        if self.unacked[0] is batch:
            self.attempt += 1
            if self.attempt > 1:
                self.resume_at = now + self.state.backoff.redirect_pause(self.attempt - 1, self.state.random)

    def unanswered(self, batch: PendingBatch) -> None:
        """Take note that the connection broke before ``batch`` was answered: it is in doubt and goes out again."""
        self._returned(batch)
        batch.in_doubt = True
        self.was_unanswered = True
        if not self.in_flight:
            self.must_rewind = False

    def _returned(self, batch: PendingBatch) -> None:
        self.in_flight -= 1
        self.waiting += 1
        batch.state = _WAITING

    def end(self, batch: PendingBatch, why: str) -> None:
        """End ``batch``, whose time is over: unknown when it may be in the log, else rejected."""
        text = f"topic {self.state.topic!r} partition {self.partition}: {why}"
        if batch.state is BatchState.GATHERING:
            self.gathered.remove(batch)
            if batch is self.open:
                self.open = None
            self._drop_unsent(batch, not_sent(f"{text}, and never sent: is the broker reachable?"))
        elif batch.state is _IN_FLIGHT or batch.in_doubt:
            self._settle(batch, OutcomeUnknownError(f"{text}: it may or may not be in the log"))
            batch.abandoned = True
        elif batch.state is _WAITING:
            refusal = batch.last_refusal
            self._give_up(batch, refusal if refusal is not None else not_sent(f"{text}, and never taken in"))
            self._trim()

    def _failed_by_gap(self, batch: PendingBatch, expected: object, is_loss: bool, now: float) -> None:
        """Take in that the log ends before ``batch``, at the sequence ``expected``: what was between is lost."""
        if self.must_renumber or self.unacked[0] is not batch:
            return
        missing = (batch.first_sequence - expected) % SEQUENCES if isinstance(expected, int) else 0
        if batch.in_doubt and not is_loss and (missing == 0 or missing >= SEQUENCES // 2):
            # The log is not behind: an earlier attempt was being appended meanwhile. The next answer: a duplicate.
            self._back_off(now)
            return
        self.must_renumber = True
        self.state.lost(Loss(self.state.topic, self.partition, missing))

    def _give_up(self, batch: PendingBatch, error: MqcoreError) -> None:
        """Settle ``batch`` for good; it holds its place until those before it are answered."""
        if batch.in_doubt and not isinstance(error, OutcomeUnknownError):
            error = OutcomeUnknownError(f"an earlier attempt may be in the log; the last one was refused: {error}")
        self.waiting -= 1
        batch.state = _DEAD
        self._settle(batch, error)

    def _back_off(self, now: float) -> None:
        self.attempt += 1
        self.resume_at = now + self.state.backoff.pause(self.attempt, self.state.random)

    def _settle(self, batch: PendingBatch, error: MqcoreError) -> None:
        if not batch.is_settled:
            batch.error = error
            self.state.completed.append(batch)

    def _trim(self) -> None:
        """Drop what is done with from the head of the line."""
        unacked = self.unacked
        while unacked:
            batch = unacked[0]
            if batch.state is _DEAD:
                self.must_renumber = True
                self.doubts_end = self.doubts_end or batch.in_doubt
            elif batch.state is not _FINISHED:
                return
            unacked.popleft()
            # Written out as in ``_release``: this is the way of every batch.
            self.state.bytes_held -= batch.size + MESSAGE_OVERHEAD_BYTES * len(batch.values)
            batch.data = None

    def _drop(self, batch: PendingBatch) -> None:
        self.unacked.remove(batch)
        if batch.state is _WAITING:
            self.waiting -= 1
        batch.state = _DEAD
        self._release(batch)

    def _release(self, batch: PendingBatch) -> None:
        """Take back the memory of a batch that is done with."""
        self.state.bytes_held -= batch.bytes_held
        batch.data = None
