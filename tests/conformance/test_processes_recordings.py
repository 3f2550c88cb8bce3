"""T1: how the suite follows what a recorder writes, and which life of the broker is meant."""

from __future__ import annotations

import json
from pathlib import Path

from mqcore_conformance.checkers import check_history
from mqcore_conformance.histories import Completed, Event, FaultInjected, Invoked, Phase, Setting, TopicSetting, to_json
from mqcore_conformance.processes._printed import tell_end
from mqcore_conformance.processes._recordings import Life, Recording, merged

SETTING = Setting(
    time_us=0,
    storage="mmap://",
    transport="tcp",
    append_level="page-cache",
    flush_level="disk",
    topics=(TopicSetting(name="events", partitions=1, flush=("sync",)),),
)


def invoked(at_us: int) -> Invoked:
    return Invoked(
        time_us=at_us, process="p", send="p.0", attempt=1, partition="events@1/0", messages=("m",), size_bytes=1
    )


def acknowledged(at_us: int, life: int) -> Completed:
    return Completed(
        time_us=at_us, process="p", send="p.0", attempt=1, outcome="acknowledged", life=life, offset=0, epoch=2
    )


def met(number: int, node: str, epoch: int) -> str:
    return json.dumps({"recorder": "met", "as": number, "node": node, "epoch": epoch})


def recorded(path: Path, *lines: Event | str) -> Recording:
    path.write_text("".join((line if isinstance(line, str) else to_json(line)) + "\n" for line in lines))
    recording = Recording(path)
    recording.read()
    return recording


def test_a_line_that_is_not_finished_is_read_once_it_is(tmp_path: Path) -> None:
    path = tmp_path / "recorded"
    recording = Recording(path)
    recording.read()
    line = to_json(invoked(5)) + "\n"
    path.write_text(line + line[:20])
    recording.read()
    assert recording.events == [invoked(5)]
    with path.open("a") as file:
        file.write(line[20:] + '{"recorder":"done"}\n')
    recording.read()
    assert recording.events == [invoked(5), invoked(5)]
    assert recording.done


def test_events_of_all_processes_are_put_in_order_behind_the_setting(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "recorded", invoked(5), met(-1, "n", 2), acknowledged(20, -1))
    assert recording.acknowledgements == 1
    history = merged(
        [SETTING, Phase(time_us=10, name="healing")], recording, [Life(number=1, began_us=0, names=("n",), epoch=2)]
    )
    assert [event.time_us for event in history] == [0, 5, 10, 20]


def test_lives_are_told_by_node_and_epoch(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "recorded", met(-1, "n", 2), invoked(5), acknowledged(90, -1))
    lives = [
        Life(number=1, began_us=0, names=("n",), epoch=1),
        Life(number=2, began_us=10, names=("n",), epoch=2),
        Life(number=3, began_us=50, names=("n",), epoch=3),
    ]
    assert merged([SETTING], recording, lives)[-1] == acknowledged(90, 2)


def test_of_two_lives_that_cannot_be_told_apart_the_newer_one_that_had_begun_is_meant(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "recorded", met(-1, "n", 2), invoked(5), acknowledged(40, -1))
    lives = [Life(number=number, began_us=at_us, names=("n",), epoch=2) for number, at_us in ((1, 0), (2, 30), (3, 50))]
    assert merged([SETTING], recording, lives)[-1] == acknowledged(40, 2)


def test_a_life_that_answered_and_died_before_it_said_who_it_is_is_found_by_its_time(tmp_path: Path) -> None:
    recording = recorded(tmp_path / "recorded", met(-1, "n", 2), invoked(5), acknowledged(40, -1))
    lives = [
        Life(number=1, began_us=0, names=("n",), epoch=1),
        Life(number=2, began_us=30),
        Life(number=3, began_us=45, names=("n",), epoch=3),
    ]
    assert merged([SETTING], recording, lives)[-1] == acknowledged(40, 2)


def test_the_error_of_a_child_is_told_in_one_line(tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    printed.write_text(
        "  + Exception Group Traceback (most recent call last):\n"
        "  | ExceptionGroup: Exceptions from Trio nursery (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n"
        "    | mqcore.errors.CorruptionError: damaged segment header\n"
        "    +------------------------------------\n"
    )
    assert tell_end(1, printed) == "exit status 1: mqcore.errors.CorruptionError: damaged segment header"
    printed.write_text("")
    assert tell_end(-7, printed) == "signal SIGBUS"


def flush_error(at_us: int, life: int) -> FaultInjected:
    return FaultInjected(time_us=at_us, kind="flush-error", life=life, detail="events@1/0", hit=1)


def test_a_send_after_a_failed_flush_that_the_same_life_acknowledges_breaks_g11() -> None:
    history: list[Event] = [SETTING, flush_error(5, life=1), invoked(10), acknowledged(20, life=1)]
    assert [violation.clause for violation in check_history(history, ["G11"])] == ["G11"]


def test_what_was_sent_before_the_flush_failed_or_acknowledged_by_the_next_life_breaks_nothing() -> None:
    before: list[Event] = [SETTING, invoked(1), flush_error(5, life=1), acknowledged(20, life=1)]
    later: list[Event] = [SETTING, flush_error(5, life=1), invoked(10), acknowledged(20, life=2)]
    assert check_history(before, ["G11"]) == check_history(later, ["G11"]) == []
