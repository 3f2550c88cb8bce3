"""The producer's state machine against a model of the log: order, retries, outcomes (section 1, R12, G15)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import attrs
import hypothesis.strategies as st
import pytest
from crc32c import crc32c
from hypothesis import given, settings

from mqcore.batch import BatchHeader, decode_batch, unpack_header
from mqcore.client._accumulator import Accumulator
from mqcore.client._backoff import Backoff
from mqcore.client._lane import Lane
from mqcore.client._options import ProducerOptions
from mqcore.client._partition_queue import PartitionQueue
from mqcore.client._pending_batch import PendingBatch
from mqcore.client._producer_state import Loss, ProducerState
from mqcore.errors import ConfigurationError, OutcomeUnknownError, RejectedError
from mqcore.guarantees import Copy, Level
from mqcore.limits import Limits
from mqcore.log import ACCEPT, Duplicate, Fenced, Gap, ProducerTable
from mqcore.protocol import Code, Produced

LIMITS = Limits()
COPIES = (Copy(b"n" * 16, 1, Level.PAGE_CACHE),)


class Wire:
    """A producer's state machines with a hand-cranked clock, and the batches that it sent. It is their outlet too."""

    def __init__(self, partitions: int = 1, limits: Limits = LIMITS, **options: Any) -> None:
        self.now = 0.0
        self.wall_ms = 0
        self.sent: list[PendingBatch] = []
        self.losses: list[Loss] = []
        self.defects: list[Exception] = []
        self.credit = 1_000
        self.batch_bytes_max = 1_000_000
        self.limits = limits
        self.in_flight: list[PendingBatch] = []
        state = ProducerState(
            "t",
            ProducerOptions(**options),
            producer_id=7,
            limits=limits,
            backoff=Backoff(100, 1_000),
            random=random.Random(1),
            lost=self.losses.append,
        )
        self.lane = Lane(
            b"t" * 16,
            state.completed,
            on_reply=lambda queue, batch, message: None,
            on_settled=lambda: None,
            on_defect=self.defects.append,
            on_limits=lambda limits: None,
        )
        self.accumulator = Accumulator(
            state,
            partitions,
            now=lambda: self.now,
            wall_ns=lambda: self.wall_ms * 1_000_000,
            line_of=lambda partition: self.lane.line,
            own_limits=LIMITS,
        )

    @property
    def bytes_held(self) -> int:
        return self.accumulator.state.bytes_held

    def queue_of(self, batch: PendingBatch) -> PartitionQueue:
        return self.accumulator.queue(batch.partition)

    def add(self, value: bytes, key: bytes | None = None, **arguments: Any) -> PendingBatch:
        part = self.accumulator.add(value, key, None, arguments.pop("partition", None), **arguments)
        return part[0]

    def may_send(self, size: int) -> bool:
        return self.credit > 0

    def produce(
        self,
        topic_id: bytes,
        partition: int,
        policy: int,
        data: bytearray,
        on_reply: Callable[..., None] | None,
        claim: bytes,
    ) -> None:
        self.credit -= 1
        queue = self.accumulator.queue(partition)
        batch = next(each for each in (*queue.unacked, *queue.gathered) if each.data is data)
        self.sent.append(batch)
        if on_reply is not None:
            self.in_flight.append(batch)

    def pump(self) -> list[PendingBatch]:
        before = len(self.sent)
        credit = self.credit
        self.again = self.lane.pump(self, self.now)
        self.credit = credit
        return self.sent[before:]

    def acknowledge(self, batch: PendingBatch, offset: int = 0) -> None:
        self.in_flight.remove(batch)
        queue = self.queue_of(batch)
        queue.produced(batch, Produced(1, offset, 1, False, COPIES))
        queue.enlist_if_busy()

    def fail(self, batch: PendingBatch, code: Code, **facts: object) -> None:
        self.in_flight.remove(batch)
        queue = self.queue_of(batch)
        queue.failed(batch, code, "refused", facts, self.now)
        queue.enlist_if_busy()

    def breaks(self) -> None:
        """Break the connection: what is in flight on it is never answered."""
        in_flight, self.in_flight = self.in_flight, []
        for batch in in_flight:
            self.queue_of(batch).unanswered(batch)
            self.queue_of(batch).enlist_if_busy()


def header_of(batch: PendingBatch) -> BatchHeader:
    assert batch.data is not None
    return unpack_header(batch.data)


def values_of(batch: PendingBatch) -> list[bytes]:
    assert batch.data is not None
    return decode_batch(batch.data, LIMITS).values


def test_what_was_added_since_the_last_pump_is_one_batch_and_receipts_count_from_its_offset() -> None:
    wire = Wire()
    batches = {wire.add(b"%d" % number) for number in range(64)}
    (batch,) = batches
    assert wire.pump() == [batch]
    assert values_of(batch) == [b"%d" % number for number in range(64)]
    wire.acknowledge(batch, offset=100)
    assert batch.receipt_of(63).offset == 163
    assert batch.receipt_of(0).copies == COPIES
    assert wire.bytes_held == 0
    assert wire.pump() == []


def test_a_batch_is_full_at_its_bytes_and_at_its_messages() -> None:
    wire = Wire(batch_bytes=10, batch_messages=3)
    for value in (b"12345", b"12345", b"1", b"2", b"3", b"4", b"a message larger than a batch", b"5"):
        wire.add(value)
    assert [len(batch.values) for batch in wire.pump()] == [2, 3, 1, 1, 1]


def test_add_many_cuts_at_the_same_limits_and_keeps_the_order() -> None:
    wire = Wire(batch_bytes=100, batch_messages=7)
    values = [bytes([number % 250]) * (number % 40) for number in range(200)]
    parts = wire.accumulator.add_many(values, None, None)
    assert [value for batch, _, _ in parts for value in batch.values] == values
    assert all(len(batch.values) <= 7 for batch, _, _ in parts)
    assert all(sum(map(len, batch.values)) <= 100 for batch, _, _ in parts)
    assert [count for _, _, count in parts] == [len(batch.values) for batch, _, _ in parts]


def test_linger_holds_a_batch_back_until_its_time_or_until_it_is_full() -> None:
    wire = Wire(linger_ms=5, batch_messages=2)
    wire.add(b"1")
    assert wire.pump() == []
    assert wire.again == pytest.approx(0.005)
    wire.now = 0.005
    assert len(wire.pump()) == 1
    wire.add(b"2")
    wire.add(b"3")
    wire.add(b"4")
    assert [values_of(batch) for batch in wire.pump()] == [[b"2", b"3"]]
    wire.accumulator.flush()
    assert [values_of(batch) for batch in wire.pump()] == [[b"4"]]


def test_a_key_goes_to_crc32c_mod_partitions_others_change_partition_by_batch() -> None:
    wire = Wire(partitions=5)
    for key in (b"a", b"b", b"c", b"a"):
        assert wire.add(b"x", key).partition == crc32c(key) % 5
    wire.pump()
    partitions = []
    for _ in range(10):
        first, second = wire.add(b"x"), wire.add(b"y")
        assert first is second
        partitions.append(first.partition)
        wire.pump()
    assert sorted(partitions) == sorted([*range(5), *range(5)])
    assert wire.add(b"x", partition=3).partition == 3
    with pytest.raises(ConfigurationError, match="partitions 0 to 4, not 5"):
        wire.add(b"x", partition=5)


def test_a_message_above_a_limit_is_rejected_alone() -> None:
    wire = Wire()
    wire.add(b"before")
    for value, key, headers, word in (
        (bytes(LIMITS.message_bytes_max + 1), None, None, "message of"),
        (b"", bytes(LIMITS.key_bytes_max + 1), None, "key of"),
        (b"", None, {"h": bytes(LIMITS.headers_bytes_max)}, "headers of"),
    ):
        with pytest.raises(RejectedError, match=word):
            wire.accumulator.add(value, key, headers, None)
    with pytest.raises(TypeError, match="encode it first"):
        wire.accumulator.add("text", None, None, None)  # type: ignore[arg-type]
    assert wire.add(bytes(LIMITS.message_bytes_max)).values


def test_a_batch_that_the_broker_does_not_take_is_rejected_alone() -> None:
    wire = Wire(batch_messages=1)
    small, large, last = wire.add(b"1"), wire.add(bytes(1_000_000)), wire.add(b"3")
    assert wire.pump() == [small, last]
    assert header_of(last).first_sequence == 1
    with pytest.raises(RejectedError) as caught:
        large.receipt_of(0)
    assert caught.value.name == "batch-too-large"
    wire.acknowledge(small)
    wire.acknowledge(last)
    assert wire.bytes_held == 0


def test_keys_and_headers_stay_with_their_message() -> None:
    wire = Wire()
    wire.add(b"1")
    wire.add(b"2", b"key", partition=0)
    wire.accumulator.add(b"3", None, {"name": b"value"}, 0)
    wire.add(b"4")
    (batch,) = wire.pump()
    assert batch.data is not None
    batch = decode_batch(batch.data, LIMITS)
    assert batch.keys == [None, b"key", None, None]
    assert batch.headers == [(), (), (("name", b"value"),), ()]


def test_tags_stay_with_their_message() -> None:
    wire = Wire()
    wire.add(b"1")
    wire.add(b"2", tag="x")
    wire.add(b"3")
    wire.accumulator.add_many([b"4", b"5"], None, None, tag="y")
    wire.add(b"6")
    wire.add(b"7", tag="x")
    wire.pump()
    decoded = [decode_batch(batch.data, LIMITS) for batch in wire.sent if batch.data is not None]
    assert [(each.values, each.tags) for each in decoded] == [
        ([b"1", b"2", b"3"], [None, "x", None]),
        ([b"4", b"5", b"6", b"7"], ["y", "y", None, "x"]),
    ]


@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 5), st.sampled_from(["x", "tag {}", "t" * 200]))
@settings(deadline=None, max_examples=50)
def test_a_batch_with_all_columns_is_never_above_the_limit(
    different: int, value_bytes: int, key_bytes: int, tag: str
) -> None:
    limits = attrs.evolve(LIMITS, batch_bytes_max=4096, batch_tags_max=different)
    wire = Wire(limits=limits)
    batches: list[PendingBatch] = []
    for number in range(200):
        wire.wall_ms = number
        headers = {"n": b""} if number % 3 == 0 else None
        part = wire.accumulator.add(bytes(value_bytes), bytes(key_bytes), headers, None, tag=tag.format(number))
        batches.append(part[0])
    while wire.pump():
        for batch in list(wire.in_flight):
            wire.acknowledge(batch)
    assert [batch.error for batch in batches if batch.receipt is None] == []


def test_the_window_and_the_credit_hold_batches_back() -> None:
    wire = Wire(batches_in_flight_max=2, batch_messages=1)
    batches = [wire.add(b"%d" % number) for number in range(4)]
    assert wire.pump() == batches[:2]
    wire.acknowledge(batches[0])
    wire.credit = 0
    assert wire.pump() == []
    wire.credit = 5
    assert wire.pump() == batches[2:3]


def test_a_broken_connection_repeats_the_same_bytes_in_order_and_later_ones_after_them() -> None:
    wire = Wire(batch_messages=1)
    first, second = wire.add(b"1"), wire.add(b"2")
    before = [bytes(batch.data or b"") for batch in wire.pump()]
    wire.breaks()
    third = wire.add(b"3")
    assert wire.pump() == [first, second, third]
    assert [bytes(first.data or b""), bytes(second.data or b"")] == before


def test_a_refusal_that_passes_is_retried_after_a_pause_and_what_followed_it_after_it() -> None:
    wire = Wire(batch_messages=1)
    first, second, third = (wire.add(b"%d" % number) for number in range(3))
    wire.pump()
    wire.fail(first, Code.STORAGE_FULL)
    wire.now = 10.0
    assert wire.pump() == []  # the answers to the others are still to come
    wire.fail(second, Code.SEQUENCE_GAP, expected_sequence=0)
    wire.fail(third, Code.SEQUENCE_GAP, expected_sequence=0)
    assert wire.pump() == [first, second, third]
    wire.fail(first, Code.STORAGE_FULL)
    wire.fail(second, Code.SEQUENCE_GAP, expected_sequence=0)
    wire.fail(third, Code.SEQUENCE_GAP, expected_sequence=0)
    assert wire.pump() == []
    assert 10.0 < wire.again <= 10.2
    wire.now = 10.2
    assert wire.pump() == [first, second, third]
    assert not wire.losses


def test_what_is_sent_after_one_that_was_refused_until_its_time_was_over_goes_out_by_itself() -> None:
    wire = Wire(batch_messages=1, delivery_timeout_ms=1_000)
    first = wire.add(b"1")
    assert wire.pump() == [first]
    wire.now = 0.99
    wire.fail(first, Code.STORAGE_FULL)
    wire.now = 1.0
    wire.accumulator.expire(wire.now)
    with pytest.raises(RejectedError):
        first.receipt_of(0)
    wire.add(b"2")
    assert wire.pump() == []  # the pause after the refusal is not over
    assert wire.again < 2.0, "nothing would send it before something else happens"
    wire.now = wire.again
    assert len(wire.pump()) == 1


def test_a_final_refusal_is_told_at_once_and_the_rest_goes_on_under_a_new_epoch() -> None:
    wire = Wire(batch_messages=1)
    first, second, third = (wire.add(b"%d" % number) for number in range(3))
    wire.pump()
    wire.acknowledge(first)
    wire.fail(second, Code.BATCH_TOO_LARGE)
    with pytest.raises(RejectedError) as caught:
        second.receipt_of(0)
    assert caught.value.name == "batch-too-large"
    wire.fail(third, Code.SEQUENCE_GAP, expected_sequence=1)
    assert wire.pump() == [third]
    assert (header_of(third).producer_epoch, header_of(third).first_sequence) == (1, 0)
    fourth = wire.add(b"4")
    assert wire.pump() == [fourth]
    assert (header_of(fourth).producer_epoch, header_of(fourth).first_sequence) == (1, 1)
    assert not wire.losses


def test_a_gap_before_the_first_in_line_is_a_loss_that_is_told() -> None:
    wire = Wire(batch_messages=5)
    for _ in range(5):
        first = wire.add(b"x")
    wire.pump()
    wire.acknowledge(first)
    second = wire.add(b"y")
    wire.pump()
    wire.fail(second, Code.SEQUENCE_GAP, expected_sequence=2)
    assert wire.losses == [Loss("t", 0, 3)]
    assert wire.pump() == [second]
    assert (header_of(second).producer_epoch, header_of(second).first_sequence) == (1, 0)


def test_a_gap_that_asks_for_later_sequences_is_no_loss() -> None:
    wire = Wire()
    batch = wire.add(b"x")
    wire.pump()
    wire.breaks()
    wire.pump()
    wire.fail(batch, Code.SEQUENCE_GAP, expected_sequence=1)
    wire.now = 1.0
    assert wire.pump() == [batch]
    assert header_of(batch).producer_epoch == 0
    assert not wire.losses


def test_time_over_what_never_left_is_rejected_and_what_may_have_arrived_is_unknown() -> None:
    wire = Wire(batches_in_flight_max=1, batch_messages=1, delivery_timeout_ms=1_000)
    first, second = wire.add(b"1"), wire.add(b"2")
    wire.pump()
    wire.now = 1.0
    assert wire.accumulator.deadline == 1.0
    wire.accumulator.expire(1.0)
    with pytest.raises(OutcomeUnknownError):
        first.receipt_of(0)
    with pytest.raises(RejectedError, match="never sent"):
        second.receipt_of(0)
    third = wire.add(b"3")
    wire.breaks()
    assert wire.pump() == [first]  # still repeated: the log may wait for its sequence
    wire.acknowledge(first)
    assert wire.pump() == [third]
    assert header_of(third).first_sequence == 1
    with pytest.raises(OutcomeUnknownError):
        first.receipt_of(0)


def test_a_refusal_after_an_attempt_in_doubt_is_unknown_and_not_rejected() -> None:
    wire = Wire()
    batch = wire.add(b"x")
    wire.pump()
    wire.breaks()
    wire.pump()
    wire.fail(batch, Code.UNKNOWN_TOPIC)
    with pytest.raises(OutcomeUnknownError):
        batch.receipt_of(0)


def test_one_way_has_no_sequence_no_answer_and_holds_no_memory_once_sent() -> None:
    wire = Wire()
    wire.add(b"1")
    batch = wire.add(b"2", one_way=True)
    assert wire.pump() == [wire.sent[0], batch]
    assert header_of(wire.sent[0]).producer_id == 7
    assert batch.state.value == "finished"
    wire.acknowledge(wire.sent[0])
    assert wire.bytes_held == 0
    third = wire.add(b"3")
    wire.pump()
    assert header_of(third).first_sequence == 1


def test_sends_of_different_policies_do_not_share_a_batch() -> None:
    wire = Wire()
    assert wire.add(b"1", policy=3) is not wire.add(b"2", policy=1)
    assert [batch.policy for batch in wire.pump()] == [3, 1]


def test_a_send_under_the_producers_own_policy_does_not_join_a_weaker_batch() -> None:
    wire = Wire()
    weaker = wire.add(b"1", policy=1)
    assert wire.add(b"2") is not weaker
    assert [batch.policy for batch in wire.pump()] == [1, 0]


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_g15_whatever_breaks_nothing_is_doubled_lost_or_out_of_order(data: st.DataObject) -> None:
    """A log with the broker's producer table; connections break and requests are refused at any moment."""
    wire = Wire(batch_messages=2, batches_in_flight_max=3, delivery_timeout_ms=1_000_000)
    table = ProducerTable(LIMITS)
    log: list[bytes] = []
    refused: set[bytes] = set()
    on_the_way: list[tuple[PendingBatch, bytes]] = []
    late: list[tuple[PendingBatch, bytes]] = []  # still arrives, although the connection that carried it is gone
    replies: list[tuple[PendingBatch, Code | None, object]] = []
    batches: list[PendingBatch] = []
    numbers = iter(range(1_000_000))

    def arrive(batch: PendingBatch, arrived: bytes) -> None:
        header = unpack_header(arrived)
        verdict = table.check(header)
        if isinstance(verdict, Duplicate):
            replies.append((batch, None, verdict.base_offset))
        elif isinstance(verdict, Gap):
            replies.append((batch, Code.SEQUENCE_GAP, verdict.expected_sequence))
        elif isinstance(verdict, Fenced):
            replies.append((batch, Code.SEQUENCE_FENCED, None))
        else:
            assert verdict is ACCEPT, verdict
            code = data.draw(st.sampled_from([None, None, None, Code.STORAGE_FULL, Code.MESSAGE_TOO_LARGE]))
            if code is None:
                table.record(
                    header.producer_id, header.producer_epoch, header.first_sequence, header.count,
                    header.body_checksum, len(log), 0,
                )  # fmt: skip
                replies.append((batch, None, len(log)))
                log.extend(decode_batch(arrived, LIMITS).values)
            else:
                replies.append((batch, code, None))

    def answer() -> None:
        batch, code, fact = replies.pop(0)
        if code is None:
            assert isinstance(fact, int)
            wire.acknowledge(batch, fact)
        else:
            wire.fail(batch, code, **({} if fact is None else {"expected_sequence": fact}))

    def step(action: str) -> None:
        if action == "add":
            batches.append(wire.add(b"%d" % next(numbers)))
        elif action == "pump":
            on_the_way.extend((batch, bytes(batch.data or b"")) for batch in wire.pump())
        elif action == "arrive" and on_the_way:
            arrive(*on_the_way.pop(0))
        elif action == "answer" and replies:
            answer()
        elif action == "late" and late:
            answers = len(replies)
            arrive(*late.pop(0))
            del replies[answers:]
        elif action == "break":
            late.extend(on_the_way)
            on_the_way.clear()
            replies.clear()
            wire.breaks()
        wire.now += 0.5

    actions = ["add", "add", "pump", "arrive", "arrive", "answer", "answer", "break", "late"]
    for action in data.draw(st.lists(st.sampled_from(actions), max_size=60)):
        step(action)
    for _ in range(400):
        for action in ("pump", "arrive", "answer", "late"):
            step(action)
    assert all(batch.is_settled for batch in batches)
    assert not wire.losses
    assert wire.bytes_held == 0
    assert len(set(log)) == len(log), "doubled"
    assert [int(value) for value in log] == sorted(map(int, log)), "out of order"
    for batch in batches:
        if isinstance(batch.error, RejectedError):
            refused.update(bytes(value) for value in batch.values)
        elif batch.receipt is not None:
            offset = batch.receipt.offset
            assert log[offset : offset + len(batch.values)] == batch.values
    assert refused.isdisjoint(log), "rejected is invisible (G07)"


def test_a_message_above_a_limit_of_the_broker_only_is_refused_alone_as_its_outcome() -> None:
    wire = Wire()
    wire.accumulator.set_limits(Limits(message_bytes_max=100, batch_messages_max=2))
    values = [b"1", bytes(101), b"2", b"3"]
    parts = [wire.accumulator.add(value, None, None, None)[0] for value in values]
    with pytest.raises(RejectedError, match="message of 101 bytes"):
        parts[1].receipt_of(0)
    assert [values_of(batch) for batch in wire.pump()] == [[b"1", b"2"], [b"3"]]
    parts = [part[0] for part in wire.accumulator.add_many(values, None, None)]
    assert [batch.error is not None for batch in parts] == [False, True, False]
    assert sum(len(batch.values) for batch in wire.pump()) == 3


def test_batches_of_many_small_messages_fit_the_brokers_limit() -> None:
    wire = Wire()
    wire.batch_bytes_max = 5_000
    wire.accumulator.set_limits(Limits(batch_bytes_max=5_000))
    for number in range(500):
        wire.wall_ms = number
        wire.accumulator.add(b"%d" % number, b"key", {"h": b"v"}, 0)
    sent = wire.pump()
    assert all(len(batch.data or b"") <= 5_000 for batch in sent)
    assert sum(len(batch.values) for batch in sent) == 500


def test_each_message_keeps_the_time_at_which_it_was_posted() -> None:
    wire = Wire()
    for wall_ms in (1_000, 1_000, 1_002, 990):
        wire.wall_ms = wall_ms
        batch = wire.add(b"x")
    wire.pump()
    assert decode_batch(batch.data or b"", LIMITS).timestamps_ms == [1_000, 1_000, 1_002, 990]
    wire.acknowledge(batch)
    alone = wire.add(b"x")
    wire.pump()
    assert header_of(alone).attributes == 0, "messages of one ms need no column"


def test_headers_are_those_at_the_time_of_posting_and_what_is_no_header_is_refused_alone() -> None:
    wire = Wire()
    headers, pairs = {"trace": b"1"}, [("a", bytearray(b"1"))]
    wire.accumulator.add(b"1", None, headers, 0)
    wire.accumulator.add(b"2", None, pairs, 0)  # type: ignore[arg-type]
    wire.accumulator.add(b"3", None, zip(["a"], [b"1"], strict=True), 0)  # type: ignore[arg-type]
    headers["trace"] = b"2"
    pairs[0][1][:] = b"2"
    pairs.append(("b", bytearray()))
    for wrong in ({"a": "text"}, {"": b"1"}, [("a",)], 7, {"x" * 65_536: b""}, {"\udcff": b""}):
        with pytest.raises(ConfigurationError):
            wire.accumulator.add(b"4", None, wrong, 0)  # type: ignore[arg-type]
    (batch,) = wire.pump()
    assert decode_batch(batch.data or b"", LIMITS).headers == [(("trace", b"1"),), (("a", b"1"),), (("a", b"1"),)]


def test_a_one_way_batch_that_the_credit_stops_is_sent_later_or_ends_with_its_time() -> None:
    wire = Wire(delivery_timeout_ms=1_000)
    wire.credit = 0
    late = wire.add(b"1", one_way=True)
    wire.now = 0.5
    soon = wire.add(b"2", policy=1)
    assert wire.pump() == []
    wire.now = 1.0
    wire.accumulator.expire(wire.now)
    assert late.is_settled
    wire.credit = 5
    assert wire.pump() == [soon]
    wire.acknowledge(soon)
    one_way = wire.add(b"3", one_way=True)
    wire.credit = 0
    assert wire.pump() == []
    wire.credit = 1
    assert wire.pump() == [one_way]
    assert wire.bytes_held == 0


def test_a_defect_in_a_turn_is_reported_and_raises_nothing() -> None:
    wire = Wire()
    wire.add(b"1").values.append("no bytes")  # type: ignore[arg-type]
    batch = wire.accumulator.by_age[0]
    wire.queue_of(batch).gathered.append(None)  # type: ignore[arg-type]
    wire.pump()
    assert isinstance(batch.error, RejectedError), "what cannot be encoded is refused, as it was"
    assert [type(error) for error in wire.defects] == [AttributeError]


@pytest.mark.parametrize("sizes", [[3, 1, 4], [1] * 50, [], [7, 7, 7, 7]])
def test_lengths_that_are_known_already_make_the_same_batches(sizes: list[int]) -> None:
    values = [bytes(size) for size in sizes]
    told, untold = (Wire(batch_bytes=10, batch_messages=20) for _ in range(2))
    for wire, known in ((told, list(sizes)), (untold, None)):
        wire.accumulator.add_many(values, None, None, None, known)
        wire.accumulator.add(b"one more", None, None, None)
    batches = [[bytes(batch.data or b"") for batch in wire.pump()] for wire in (told, untold)]
    assert batches[0] == batches[1]
    assert sum(unpack_header(batch).count for batch in batches[0]) == len(sizes) + 1
