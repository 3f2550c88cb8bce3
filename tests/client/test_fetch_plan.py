"""What a consumer asks for and what it makes of the answers (clauses G06, G12), without a broker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqcore.batch import control_batch, encode_batch, stamp
from mqcore.client._fetch_plan import Chunk, FetchCursor, FetchPlan
from mqcore.errors import BatchUndecodableError, MessagesMissingError, RejectedError
from mqcore.limits import Limits
from mqcore.log._history import EpochHistory
from mqcore.protocol import Code, Failed, Fetch, Fetched

LIMITS = Limits()
TOPIC = b"t" * 16


def batch(base_offset: int, count: int, epoch: int = 1) -> bytes:
    data = encode_batch([b"%d" % (base_offset + index) for index in range(count)], created_ms=0, limits=LIMITS)
    stamp(data, base_offset=base_offset, epoch=epoch, appended_ms=0, salt=0)
    return bytes(data)


class Reader:
    """A plan of one partition, and the requests that it makes."""

    def __init__(self, partitions: list[int] | None = None) -> None:
        self.plan = FetchPlan("t", TOPIC, bytes_max=1024 * 1024, wait_ms=20_000)
        for partition in partitions or [0]:
            self.plan.add(FetchCursor(partition))
        self.ids = iter(range(1, 1_000_000))

    def ask(self) -> list[Fetch]:
        fetches = []
        while (fetch := self.plan.next_fetch(next(self.ids))) is not None:
            fetches.append(fetch)
        return fetches

    def answer(self, fetch: Fetch, *batches: bytes, next_offset: int) -> list[tuple[int, int]]:
        """Take the batches in and deliver them; (first, next) offset of each."""
        self.plan.fetched(Fetched(fetch.request_id, next_offset, 0, next_offset, (b"".join(batches),)))
        return self.deliver()

    def deliver(self) -> list[tuple[int, int]]:
        delivered = []
        while self.plan.chunks:
            chunk = self.chunk()
            assert chunk.header is not None
            delivered.append((chunk.header.base_offset, chunk.header.end_offset))
        return delivered

    def chunk(self) -> Chunk:
        chunk = self.plan.chunks.popleft()
        self.plan.deliver(chunk)
        return chunk

    def position(self, partition: int = 0) -> tuple[int, int]:
        cursor = self.plan.cursors[partition]
        return cursor.offset, cursor.epoch


def test_it_goes_on_behind_the_last_batch_under_its_epoch() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    assert (fetch.topic_id, fetch.offset, fetch.epoch) == (TOPIC, 0, 0)
    assert reader.ask() == []
    assert reader.answer(fetch, batch(0, 3, 1), batch(3, 2, 2), next_offset=5) == [(0, 3), (3, 5)]
    (fetch,) = reader.ask()
    assert (fetch.offset, fetch.epoch) == (5, 2)


def test_the_next_request_goes_out_before_what_was_received_is_delivered() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.plan.fetched(Fetched(fetch.request_id, 3, 0, 3, (batch(0, 3),)))
    assert [fetch.offset for fetch in reader.ask()] == [3]
    assert reader.position() == (0, 0)
    reader.deliver()
    assert reader.position() == (3, 1)


def test_what_was_not_delivered_when_the_stream_broke_is_asked_for_again() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.plan.fetched(Fetched(fetch.request_id, 5, 0, 5, (batch(0, 3) + batch(3, 2),)))
    reader.chunk()
    reader.ask()
    reader.plan.broken()
    assert not reader.plan.chunks
    assert [(fetch.offset, fetch.epoch) for fetch in reader.ask()] == [(3, 1)]


def test_control_batches_and_what_is_below_the_position_are_not_delivered() -> None:
    reader = Reader()
    reader.plan.seek(0, 4, 1)
    (fetch,) = reader.ask()
    control = control_batch(b"epoch", created_ms=0)
    assert reader.answer(fetch, batch(0, 3), bytes(control), batch(3, 3), next_offset=6) == [(3, 6)]


def test_an_answer_to_a_position_that_was_left_is_dropped() -> None:
    reader = Reader()
    (old,) = reader.ask()
    reader.plan.seek(0, 10, 1)
    (new,) = reader.ask()
    assert new.offset == 10
    assert reader.answer(old, batch(0, 3), next_offset=3) == []
    assert reader.answer(new, batch(10, 1), next_offset=11) == [(10, 11)]


def test_seek_drops_what_was_received_for_that_partition_only() -> None:
    reader = Reader([0, 1])
    first, second = reader.ask()
    reader.plan.fetched(Fetched(first.request_id, 3, 0, 3, (batch(0, 3),)))
    reader.plan.fetched(Fetched(second.request_id, 2, 0, 2, (batch(0, 2),)))
    reader.plan.seek(0, 1, 0)
    assert reader.deliver() == [(0, 2)]
    assert reader.position(1) == (2, 1)


def test_g06_a_trimmed_position_is_told_once_and_reading_goes_on_at_the_start() -> None:
    reader = Reader()
    reader.plan.seek(0, 5, 0)
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.BELOW_START, "below", {"start_offset": 9}))
    error = reader.chunk().error
    assert isinstance(error, MessagesMissingError)
    assert (error.reason, error.position) == ("retention", 9)
    assert "5 to 8" in str(error)
    assert [fetch.offset for fetch in reader.ask()] == [9]


def test_a_start_that_moved_on_is_no_gap_for_who_begins_at_the_start() -> None:
    reader = Reader()
    reader.plan.seek(0, 0, 0, follows_log_start=True)
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.BELOW_START, "below", {"start_offset": 9}))
    assert not reader.plan.chunks
    assert [fetch.offset for fetch in reader.ask()] == [9]


def test_g06_a_permitted_loss_is_told_once_and_reading_goes_on_at_the_divergence_point() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.answer(fetch, batch(0, 5), next_offset=5)
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.DIVERGED, "diverged", {"offset": 3}))
    error = reader.chunk().error
    assert isinstance(error, MessagesMissingError)
    assert (error.reason, error.position) == ("loss", 3)
    assert [(fetch.offset, fetch.epoch) for fetch in reader.ask()] == [(3, 0)]


GAPS = (
    (Code.DIVERGED, {"offset": 3}, MessagesMissingError),
    (Code.BELOW_START, {"start_offset": 9}, MessagesMissingError),
    (Code.DAMAGED, {"offset": 5, "next_offset": 8}, BatchUndecodableError),
)


@pytest.mark.parametrize(("code", "facts", "kind"), GAPS, ids=lambda value: getattr(value, "label", None))
def test_g06_a_gap_that_nobody_was_told_of_before_the_stream_broke_is_asked_for_again(
    code: Code, facts: dict[str, int], kind: type[Exception]
) -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.answer(fetch, batch(0, 5), next_offset=5)
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, code, "gone", facts))
    reader.ask()
    assert reader.position() == (5, 1)
    reader.plan.broken()
    (fetch,) = reader.ask()
    assert (fetch.offset, fetch.epoch) == (5, 1)
    reader.plan.failed(Failed(fetch.request_id, code, "gone", facts))
    assert isinstance(reader.chunk().error, kind)


def test_g06_a_refusal_that_tells_of_no_gap_leaves_the_epoch_by_which_a_loss_is_seen() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.answer(fetch, batch(0, 5, 2), next_offset=5)
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.UNKNOWN_TOPIC, "deleted", {}))
    assert isinstance(reader.chunk().error, RejectedError)
    assert reader.position() == (5, 2)
    assert [(fetch.offset, fetch.epoch) for fetch in reader.ask()] == [(5, 2)]


def test_g06_offsets_that_the_broker_passed_over_are_told() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.plan.fetched(Fetched(fetch.request_id, 7, 0, 7, (batch(5, 2),)))
    error = reader.chunk().error
    assert isinstance(error, MessagesMissingError)
    assert "0 to 4" in str(error)
    assert reader.deliver() == [(5, 7)]


def test_g12_damage_that_the_broker_tells_of_is_one_error_that_names_its_offsets() -> None:
    reader = Reader()
    reader.plan.seek(0, 2, 0)
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.DAMAGED, "bad sector", {"offset": 2, "next_offset": 6}))
    error = reader.chunk().error
    assert isinstance(error, BatchUndecodableError)
    assert (error.topic, error.partition, error.first_offset, error.next_offset) == ("t", 0, 2, 6)
    assert [fetch.offset for fetch in reader.ask()] == [6]


@pytest.mark.parametrize("damage", ["magic", "size", "short"])
def test_an_answer_that_cannot_be_cut_apart_is_one_error_up_to_its_end(damage: str) -> None:
    broken = bytearray(batch(3, 2))
    if damage == "magic":
        broken[0] ^= 1
    elif damage == "size":
        broken[15] = 0x7F
    else:
        del broken[50:]
    reader = Reader()
    (fetch,) = reader.ask()
    reader.plan.fetched(Fetched(fetch.request_id, 9, 0, 9, (batch(0, 3) + bytes(broken),)))
    assert reader.chunk().header is not None
    error = reader.chunk().error
    assert isinstance(error, BatchUndecodableError)
    assert (error.first_offset, error.next_offset) == (3, 9)
    assert [fetch.offset for fetch in reader.ask()] == [9]


def test_a_refusal_that_passes_is_asked_again_after_a_pause_and_others_are_raised() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.STORAGE_FULL, "busy", {}))
    assert reader.plan.must_pause
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.UNKNOWN_TOPIC, "deleted", {}))
    assert isinstance(reader.chunk().error, RejectedError)


def test_a_round_without_a_message_is_told_once_all_partitions_were_answered() -> None:
    reader = Reader([0, 1])
    for _ in range(3):
        for number, fetch in enumerate(reader.ask()):
            assert not reader.plan.is_round_empty
            reader.plan.fetched(Fetched(fetch.request_id, 0, 0, 0, ()))
            assert reader.plan.is_round_empty == (number == 1)
        reader.plan.is_round_empty = False


def test_a_partition_that_moved_is_left_to_the_shell_and_goes_on_elsewhere_where_it_was() -> None:
    reader, elsewhere = Reader([0, 1]), Reader([2])
    fetch, _ = reader.ask()
    assert reader.answer(fetch, batch(0, 3), next_offset=3) == [(0, 3)]
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.NOT_PRIMARY, "elsewhere", {"urls": ["tcp://b:1"]}))
    assert reader.plan.moved == [(0, {"urls": ["tcp://b:1"]})]
    elsewhere.plan.add(reader.plan.remove(0))
    assert reader.ask() == []
    assert [(fetch.partition, fetch.offset, fetch.epoch) for fetch in elsewhere.ask()] == [(2, 0, 0), (0, 3, 1)]


def test_g19_a_replica_is_asked_only_where_it_may_answer_and_says_how_old_its_knowledge_is() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    assert not fetch.from_replica
    cursor = reader.plan.cursors[0]
    cursor.from_replica = True
    reader.plan.fetched(Fetched(fetch.request_id, 0, 0, 0, ()))
    assert cursor.known_age_ms is None
    (fetch,) = reader.ask()
    assert fetch.from_replica
    reader.plan.fetched(Fetched(fetch.request_id, 0, 0, 0, (), 70))
    assert cursor.known_age_ms == 70


def test_g06_a_reader_of_reigns_that_the_log_has_not_goes_back_to_where_it_read_the_first_of_them() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.answer(fetch, batch(0, 5), batch(5, 2, epoch=2), next_offset=7)
    (fetch,) = reader.ask()
    reader.plan.fetched(Fetched(fetch.request_id, 9, 0, 9, (batch(7, 2, epoch=3),)))  # received, and not delivered yet
    (fetch,) = reader.ask()
    # The log has reign 1 up to 8, and the reader has of it what is below 5.
    reader.plan.failed(Failed(fetch.request_id, Code.DIVERGED, "diverged", {"offset": 8, "epoch": 1}))
    assert reader.chunk().header is not None
    error = reader.chunk().error
    assert isinstance(error, MessagesMissingError)
    assert (error.reason, error.position) == ("loss", 5)
    assert reader.position() == (5, 1)
    (fetch,) = reader.ask()
    assert (fetch.offset, fetch.epoch) == (5, 1)
    assert reader.answer(fetch, batch(5, 3), next_offset=8) == [(5, 8)]
    reader.plan.broken()
    assert reader.position() == (8, 1)


def test_g06_a_server_that_names_no_epoch_is_believed_as_to_the_offset() -> None:
    reader = Reader()
    (fetch,) = reader.ask()
    reader.answer(fetch, batch(0, 5, epoch=3), next_offset=5)
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.DIVERGED, "diverged", {"offset": 5}))
    assert reader.chunk().error is not None
    assert [(fetch.offset, fetch.epoch) for fetch in reader.ask()] == [(5, 0)]
    reader.plan.broken()
    assert reader.position() == (5, 0)


COUNTS = st.lists(st.integers(1, 3), max_size=4)
"""How many messages each of some reigns wrote."""


def epochs_of(first: int, counts: list[int]) -> list[int]:
    """The epoch of each message that every second reign from ``first`` on wrote."""
    return [first + 2 * place for place, count in enumerate(counts) for _ in range(count)]


def runs(epochs: list[int]) -> list[tuple[int, int, int]]:
    """Epoch, first offset and number of messages of each reign, by the epoch of each message."""
    starts = [at for at, epoch in enumerate(epochs) if not at or epochs[at - 1] != epoch]
    return [(epochs[at], at, epochs.count(epochs[at])) for at in starts]


@given(common=COUNTS, read=COUNTS, kept=COUNTS, more=st.tuples(st.integers(0, 2), st.integers(0, 2)))
def test_g06_a_reader_goes_on_where_its_history_leaves_that_of_the_log(
    common: list[int], read: list[int], kept: list[int], more: tuple[int, int]
) -> None:
    """Two logs that were one up to a point, where one may have more of the last common reign than the other."""
    both = epochs_of(1, common)
    last, following = both[-1:], len(common) * 2 + 1
    mine = both + last * more[0] + epochs_of(following, read)
    theirs = both + last * more[1] + epochs_of(following + 1, kept)
    log = EpochHistory()
    for epoch, first, _ in runs(theirs):
        log.note(epoch, bytes([epoch]) * 16, first, first)
    reader = Reader()
    (fetch,) = reader.ask()
    batches = [batch(first, count, epoch=epoch) for epoch, first, count in runs(mine)]
    reader.answer(fetch, *batches, next_offset=len(mine))
    told = []
    while True:
        (fetch,) = reader.ask()
        parts_at = log.divergence(fetch.offset, fetch.epoch, len(theirs)) if fetch.epoch else None
        if parts_at is None:
            break
        facts = {"offset": parts_at, "epoch": log.number_up_to(fetch.epoch)}
        reader.plan.failed(Failed(fetch.request_id, Code.DIVERGED, "diverged", facts))
        error = reader.chunk().error
        assert isinstance(error, MessagesMissingError)
        told.append(error.position)
    alike = next((at for at, (one, other) in enumerate(zip(mine, theirs, strict=False)) if one != other), None)
    if alike is None and len(mine) <= len(theirs):
        assert (told, reader.position()[0]) == ([], len(mine))
    elif alike is None:
        assert reader.position()[0] in (len(theirs), len(mine))
    else:
        assert reader.position()[0] == alike
        assert told
    assert told == sorted(told, reverse=True)


# tags


class Chooser(Reader):
    """The same, of a plan that asks for tags."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = FetchPlan("t", TOPIC, bytes_max=1024 * 1024, wait_ms=20_000, tags=(b"x", b"y"))
        self.plan.add(FetchCursor(0))

    def chosen(self, fetch: Fetch, *batches: bytes, next_offset: int, next_epoch: int | None) -> list[Chunk]:
        """Take in an answer; what it makes, delivered."""
        chunks = (b"".join(batches),) if batches else ()
        self.plan.fetched(Fetched(fetch.request_id, next_offset, 0, next_offset, chunks, None, next_epoch))
        found = []
        while self.plan.chunks:
            found.append(self.chunk())
        return found


def test_tags_are_named_to_a_server_that_chooses_by_them_only() -> None:
    reader = Chooser()
    assert [fetch.tags for fetch in reader.ask()] == [(b"x", b"y")]
    reader = Chooser()
    reader.plan.names_tags = False
    assert [fetch.tags for fetch in reader.ask()] == [()]


def test_what_is_passed_over_counts_as_read_before_between_and_behind_batches() -> None:
    reader = Chooser()
    (fetch,) = reader.ask()
    found = reader.chosen(fetch, batch(3, 2, epoch=4), batch(8, 1, epoch=4), next_offset=12, next_epoch=4)
    assert [(each.header and each.header.base_offset, each.passed) for each in found] == [
        (None, (0, 3)),
        (3, (0, 0)),
        (None, (5, 8)),
        (8, (0, 0)),
        (None, (9, 12)),
    ]
    assert all(each.error is None for each in found)
    assert reader.position() == (12, 4)
    (fetch,) = reader.ask()
    assert (fetch.offset, fetch.epoch) == (12, 4)


def test_g06_the_next_request_comes_with_the_reign_of_what_was_passed_over() -> None:
    reader = Chooser()
    (fetch,) = reader.ask()
    reader.chosen(fetch, batch(0, 2, epoch=4), next_offset=5, next_epoch=4)
    (fetch,) = reader.ask()
    reader.chosen(fetch, next_offset=9, next_epoch=6)
    (fetch,) = reader.ask()
    assert (fetch.offset, fetch.epoch) == reader.position() == (9, 6)


def test_a_position_is_moved_when_what_was_passed_over_is_delivered_and_not_before() -> None:
    reader = Chooser()
    (fetch,) = reader.ask()
    reader.plan.fetched(Fetched(fetch.request_id, 9, 0, 9, (batch(3, 2),), None, 1))
    positions = []
    while reader.plan.chunks:
        positions.append(reader.position())
        reader.chunk()
    assert positions == [(0, 0), (3, 1), (5, 1)]
    reader.plan.broken()
    (fetch,) = reader.ask()
    assert (fetch.offset, fetch.epoch) == (9, 1)


@pytest.mark.parametrize("names_tags", [True, False])
def test_g06_a_hole_in_an_answer_that_says_nothing_of_choosing_is_missing(names_tags: bool) -> None:
    reader = Chooser()
    reader.plan.names_tags = names_tags
    (fetch,) = reader.ask()
    found = reader.chosen(fetch, batch(3, 2), next_offset=5, next_epoch=None if names_tags else 1)
    assert isinstance(found[0].error, MessagesMissingError)
    assert [each.header and each.header.base_offset for each in found] == [None, 3]


def test_answers_that_move_the_position_are_no_sign_of_a_server_that_lets_no_request_wait() -> None:
    reader = Chooser()
    for step in range(1, 20):
        (fetch,) = reader.ask()
        reader.chosen(fetch, next_offset=step, next_epoch=1)
    assert not reader.plan.is_round_empty
    (fetch,) = reader.ask()
    reader.chosen(fetch, next_offset=19, next_epoch=1)
    assert reader.plan.is_round_empty


def test_g06_a_reign_of_which_everything_was_passed_over_is_told_as_lost_from_its_beginning() -> None:
    reader = Chooser()
    for batches, next_offset, epoch in (((batch(0, 2, epoch=1),), 4, 1), ((), 7, 2), ((batch(7, 1, epoch=3),), 8, 3)):
        (fetch,) = reader.ask()
        reader.chosen(fetch, *batches, next_offset=next_offset, next_epoch=epoch)
    assert reader.position() == (8, 3)
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.DIVERGED, "gone", {"offset": 8, "epoch": 1}))
    chunk = reader.chunk()
    assert isinstance(chunk.error, MessagesMissingError)
    assert chunk.error.position == 4  # the second reign began there for this reader, although it got nothing of it
    assert reader.position() == (4, 1)


def test_g06_what_was_passed_over_and_not_delivered_yet_counts_when_the_history_leaves_the_log() -> None:
    reader = Chooser()
    (fetch,) = reader.ask()
    reader.chosen(fetch, batch(0, 2, epoch=1), next_offset=4, next_epoch=1)
    (fetch,) = reader.ask()
    reader.plan.fetched(Fetched(fetch.request_id, 7, 0, 7, (), None, 2))
    (fetch,) = reader.ask()
    reader.plan.failed(Failed(fetch.request_id, Code.DIVERGED, "gone", {"offset": 6, "epoch": 2}))
    assert reader.chunk().error is None
    assert isinstance(reader.chunk().error, MessagesMissingError)
    assert reader.position() == (6, 2)
