"""A partition's queue alone: how it goes on at another server, with its sequences and in its order (R12, G15)."""

from __future__ import annotations

import random
from collections import deque

from mqcore.batch import unpack_header
from mqcore.client._backoff import Backoff
from mqcore.client._options import ProducerOptions
from mqcore.client._partition_queue import PartitionQueue
from mqcore.client._pending_batch import PendingBatch
from mqcore.client._producer_state import Loss, ProducerState
from mqcore.errors import OutcomeUnknownError, RejectedError
from mqcore.guarantees import Copy, Level
from mqcore.limits import Limits
from mqcore.protocol import Code, Produced

COPIES = (Copy(b"n" * 16, 1, Level.DISK),)


def queue_with(count: int) -> tuple[PartitionQueue, list[PendingBatch], list[Loss]]:
    """A queue with so many batches of one message, all of them gathered."""
    losses: list[Loss] = []
    state = ProducerState(
        "t", ProducerOptions(), producer_id=1, limits=Limits(), backoff=Backoff(100, 1_000), random=random.Random(1),
        lost=losses.append,
    )  # fmt: skip
    queue = PartitionQueue(0, state, deque())
    batches = []
    for number in range(count):
        batch = PendingBatch(0, 0, False, 0.0, 0, 10.0)
        batch.values.append(b"%d" % number)
        batches.append(batch)
    queue.gathered.extend(batches)
    queue.enlist()
    return queue, batches, losses


def send_all(queue: PartitionQueue, now: float = 0.0) -> list[PendingBatch]:
    sent = []
    while (batch := queue.next_to_send(now)) is not None:
        queue.sent(batch)
        sent.append(batch)
    return sent


def test_g13_servers_that_answer_not_primary_again_and_again_are_asked_at_least_ten_times_a_second() -> None:
    """For as long as a set takes for another primary: the pause does not grow as it does for a failure."""
    queue, (batch,), _ = queue_with(1)
    now = 0.0
    for _ in range(16):
        assert send_all(queue, now) == [batch]
        queue.redirected(batch, now)
        assert queue.resume_at <= now + 0.1
        now += 0.1


def test_batches_that_another_server_owns_go_out_there_once_all_were_answered_with_the_same_bytes() -> None:
    queue, batches, losses = queue_with(3)
    assert send_all(queue) == batches
    before = [bytes(batch.data or b"") for batch in batches]
    elsewhere: deque[PartitionQueue] = deque()
    queue.redirected(batches[0], 0.0)
    queue.move_to(elsewhere)
    assert list(elsewhere) == [queue]
    assert send_all(queue) == [], "those behind it are still on their way at the first server"
    for batch in batches[1:]:
        queue.redirected(batch, 0.0)
    assert send_all(queue) == batches, "the first redirection costs no pause"
    assert [bytes(batch.data or b"") for batch in batches] == before
    for number, batch in enumerate(batches):
        queue.produced(batch, Produced(1, number, 1, False, COPIES))
    assert not losses
    assert not any(batch.in_doubt for batch in batches)


def test_servers_that_send_a_batch_to_and_fro_make_it_wait_ever_longer() -> None:
    queue, (batch,), _ = queue_with(1)
    now, pauses = 0.0, []
    for _ in range(22):
        assert send_all(queue, now) == [batch]
        queue.redirected(batch, now)
        pauses.append(max(0.0, queue.due - now))
        now = max(now, queue.due)
    assert pauses[0] == 0.0
    assert 0.05 <= pauses[1] <= 0.1
    assert pauses[21] > 2 * pauses[1]


def test_a_batch_without_a_reply_is_in_doubt_and_what_follows_keeps_its_sequences() -> None:
    queue, batches, _ = queue_with(2)
    send_all(queue)
    queue.produced(batches[0], Produced(1, 0, 1, False, COPIES))
    queue.unanswered(batches[1])
    assert [batch.in_doubt for batch in batches] == [False, True]
    queue.move_to(deque())
    (again,) = send_all(queue)
    assert unpack_header(again.data or b"").first_sequence == 1
    queue.produced(again, Produced(1, 1, 2, True, COPIES))
    receipt = again.receipt_of(0)
    assert (receipt.offset, receipt.epoch, receipt.duplicate, receipt.copies) == (1, 2, True, COPIES)
    assert (receipt.level, receipt.nodes) == (Level.DISK, (b"n".hex() * 16,))
    assert not queue.unacked


def test_g15_what_may_be_in_the_log_behind_a_batch_that_may_be_is_not_sent_again_under_another_number() -> None:
    queue, (first, second, third), _ = queue_with(3)
    for batch in (first, second):
        assert queue.next_to_send(0.0) is batch
        queue.sent(batch)
    for batch in (first, second):
        queue.unanswered(batch)
    assert queue.next_to_send(0.0) is first
    queue.refuse(first, RejectedError("the server takes no batch so large any more"))
    assert queue.next_to_send(0.0) is third
    assert isinstance(first.error, OutcomeUnknownError)
    assert isinstance(second.error, OutcomeUnknownError)
    assert third.data is not None
    header = unpack_header(third.data)
    assert (header.producer_epoch, header.first_sequence) == (1, 0)


def test_r12_lost_from_voids_what_was_acknowledged_and_the_rest_goes_on_under_a_new_producer_epoch() -> None:
    queue, batches, losses = queue_with(5)
    send_all(queue)
    for number in range(2):
        queue.produced(batches[number], Produced(1, number, 1, False, COPIES))
    queue.unanswered(batches[2])  # may be in the log of the node that is gone: the new one says that it is not
    for batch in batches[3:]:
        queue.redirected(batch, 0.0)
    queue.move_to(deque())
    sent = send_all(queue, 10.0)
    assert sent == batches[2:]
    for batch in sent:
        queue.failed(batch, Code.LOST_FROM, "a failover took them", {"sequence": 1}, 10.0)
    assert losses == [Loss("t", 0, 1)]
    again = send_all(queue, 20.0)
    headers = [unpack_header(batch.data or b"") for batch in again]
    assert [(header.producer_epoch, header.first_sequence) for header in headers] == [(1, 0), (1, 1), (1, 2)]


def test_r12_a_queue_has_ended_in_order_only_if_every_attempt_was_answered() -> None:
    queue, (batch,), _ = queue_with(1)
    assert not queue.has_ended_in_order
    send_all(queue)
    assert not queue.has_ended_in_order
    queue.produced(batch, Produced(1, 0, 1, False, COPIES))
    assert queue.has_ended_in_order
    queue, (batch,), _ = queue_with(1)
    send_all(queue)
    queue.unanswered(batch)
    assert send_all(queue) == [batch]
    queue.produced(batch, Produced(1, 0, 1, True, COPIES))
    assert not queue.has_ended_in_order, "the first attempt may still lie in a buffer of the broken connection"
    assert not queue_with(0)[0].has_ended_in_order, "nothing was sent"
