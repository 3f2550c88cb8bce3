"""The folder of local recovery on a model disk: what was kept outlives every power cut, until it is settled."""

from __future__ import annotations

import contextlib
import random

import pytest

from mqcore.client import Message
from mqcore.client._recovery import RecoveryFolder, RecoveryFull
from mqcore.delivery import HandlingFailure
from mqcore.errors import ConfigurationError
from mqcore.testing import ModelDisk, seeded

FAILURE = HandlingFailure(attempts=3, first_ms=1, last_ms=2, error="no\nway")


def message(number: int) -> Message:
    return Message(
        "t", 0, number, 1, b"value %d\xff" % number, b"\0", (("h", b"\xff"),), 5, "größe" if number % 2 else None
    )


def folder(disk: ModelDisk, bytes_max: int = 10**6, slots: int = 2) -> RecoveryFolder:
    return RecoveryFolder(disk, "/kept", bytes_max, slots)


def kept(found: RecoveryFolder) -> list[int]:
    return [each.message.offset for each in found.kept.values()]


def test_a_power_cut_at_any_call_loses_nothing_that_was_kept_and_revives_nothing_that_was_settled() -> None:
    for calls in range(1, 70):
        disk = ModelDisk(seeded(calls, "disk"))
        disk.kill_at(calls, power_cut=True)
        held: set[int] = set()
        doing: set[int] = set()
        with contextlib.suppress(OSError, ConfigurationError):
            opened = folder(disk)
            for number in range(1, 9):
                doing = {number}
                opened.keep(message(number), FAILURE)
                held.add(number)
                if number % 3 == 0:
                    doing = {number - 1}
                    opened.settle(number - 1)
                    held.discard(number - 1)
                doing = set()
        disk.power_cut(random.Random(calls))
        found = set(kept(folder(disk.restart())))
        assert held - doing <= found <= held | doing


def test_what_is_kept_comes_back_as_it_was() -> None:
    disk = ModelDisk(seeded(1, "disk"))
    opened = folder(disk)
    opened.keep(message(7), FAILURE)
    opened.close()
    (entry,) = folder(disk).kept.values()
    assert (entry.message, entry.failure) == (message(7), FAILURE)


def test_beyond_its_limit_nothing_is_written_and_there_is_room_again_when_all_is_settled() -> None:
    opened = folder(ModelDisk(seeded(1, "disk")), bytes_max=700)
    opened.keep(message(1), FAILURE)

    def fill() -> None:
        for number in range(2, 9):
            opened.keep(message(number), FAILURE)

    with pytest.raises(RecoveryFull, match="more than 700 bytes"):
        fill()
    for number in list(opened.kept):
        opened.settle(number)
    opened.keep(message(9), FAILURE)
    assert kept(opened) == [9]


def test_after_a_failed_flush_the_file_is_written_anew() -> None:
    disk = ModelDisk(seeded(1, "disk"))
    opened = folder(disk)
    opened.keep(message(1), FAILURE)
    disk.fail_next_flush(path="*")
    with pytest.raises(OSError, match="Input/output"):
        opened.keep(message(2), FAILURE)
    opened.keep(message(3), FAILURE)
    opened.close()
    for state in disk.crash_states():
        assert set(kept(folder(state))) >= {1, 3}


def test_what_was_in_hand_when_the_process_ended_has_had_an_attempt_more() -> None:
    disk = ModelDisk(seeded(1, "disk"))
    opened = folder(disk)
    slot = opened.begin(message(1), 0)
    opened.begin(message(2), 4)
    assert opened.begin(message(3), 0) is None  # no room for the note
    opened.end(slot)
    disk.process_kill()
    again = folder(disk.restart())
    assert [again.attempts_of(message(number)) for number in (1, 2, 3)] == [0, 5, 0]
    assert again.attempts_of(message(2)) == 0
