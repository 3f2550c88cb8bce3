"""What stands for a range that no node has whole is read like any other batch, and says what was there."""

from __future__ import annotations

import pytest

from mqcore.batch import HEADER_BYTES
from mqcore.limits import Limits
from mqcore.log import UNKNOWN_REIGN, Damage, EpochEntry, LogPoint
from mqcore.log._control import EPOCH_BATCH_BYTES, LOST_BATCH_BYTES_MIN
from mqcore.log._lost import lost_batches
from mqcore.log._scan import BatchScanner
from mqcore.log._state import DAMAGES_KEPT_MAX, LOST_TEXT, LogState

SALT = 7
FIRST = EpochEntry(1, b"first reign, an.", 0, 0)


def read(batches: bytes, begin: LogPoint, history: list[EpochEntry]) -> LogState:
    """The state of a log that goes on with ``batches`` after what ``history`` says."""
    state = LogState(Limits())
    state.end_position, state.end_offset = begin
    for each in history:
        state.open_epoch(*each)
    scanner = BatchScanner(state, SALT, "log")
    scanner.feed(memoryview(batches))
    assert scanner.invalid == ""
    return state


def made(begin: LogPoint, end: LogPoint, history: list[EpochEntry], batch_bytes_max: int = 1 << 20) -> bytes | None:
    return lost_batches(begin, end, history, salt=SALT, appended_ms=5, batch_bytes_max=batch_bytes_max)


@pytest.mark.parametrize("size", [LOST_BATCH_BYTES_MIN, 300, 1000, 1001, 5000, 63_999])
def test_g12_they_fill_the_range_and_take_its_offsets(size: int) -> None:
    begin, end = LogPoint(400, 20), LogPoint(400 + size, 32)
    batches = made(begin, end, [FIRST], batch_bytes_max=1000)
    assert batches is not None
    state = read(batches, begin, [FIRST])
    assert state.end == end
    assert len(state.damages) == -(-size // 1000), "none is longer than a batch may be"
    assert all(damage.is_given_up for damage in state.damages.values())
    assert [each[2:4] for each in sorted(state.damages.values())] == [(20, 32)] + [(32, 32)] * (len(state.damages) - 1)


def test_g12_what_is_given_up_keeps_no_damage_from_being_looked_after() -> None:
    state = LogState(Limits())
    for number in range(DAMAGES_KEPT_MAX):
        state.note_damage(Damage(number, number + 1, number, number + 1, LOST_TEXT, is_given_up=True))
    new = Damage(1000, 1001, 1000, 1001, "rotten")
    state.note_damage(new)
    state.note_damage(Damage(2000, 2001, 2000, 2001, LOST_TEXT, is_given_up=True))
    assert new in state.damages.values()
    assert len(state.damages) == DAMAGES_KEPT_MAX


def test_r5_each_reign_that_was_opened_in_the_range_is_opened_again_where_it_was() -> None:
    history = [
        FIRST,
        EpochEntry(3, b"the third reign.", 700, 25),
        EpochEntry(4, b"the fourth one..", 700 + EPOCH_BATCH_BYTES, 25),
    ]
    begin, end = LogPoint(400, 20), LogPoint(2000, 32)
    batches = made(begin, end, history)
    assert batches is not None
    state = read(batches, begin, [FIRST])
    assert state.history.entries() == history
    assert (state.epoch, state.end) == (4, end)


def test_r5_the_beginning_of_a_log_opens_its_first_reign() -> None:
    batches = made(LogPoint(0, 0), LogPoint(EPOCH_BATCH_BYTES, 0), [FIRST])
    assert batches is not None
    assert read(batches, LogPoint(0, 0), []).history.entries() == [FIRST]


@pytest.mark.parametrize(
    ("begin", "end", "history"),
    [
        (LogPoint(400, 20), LogPoint(400 + HEADER_BYTES, 21), [FIRST]),
        (LogPoint(0, 0), LogPoint(LOST_BATCH_BYTES_MIN + 8, 0), [FIRST]),
        (LogPoint(400, 20), LogPoint(900, 21), [FIRST, EpochEntry(2, UNKNOWN_REIGN, 400, 20)]),
        (LogPoint(400, 20), LogPoint(900, 21), []),
        (LogPoint(400, 20), LogPoint(900, 19), [FIRST]),
        (LogPoint(400, 20), LogPoint(900, 20 + (1 << 32)), [FIRST]),
    ],
    ids=["too short", "too short to open a reign", "of a reign not known", "of no reign", "back", "too many offsets"],
)
def test_g12_where_none_can_stand_nothing_is_made_up(begin: LogPoint, end: LogPoint, history: list[EpochEntry]) -> None:
    assert made(begin, end, history) is None
