"""T1: what a child process that ended has to say, and a failed flush of which only the fault is known."""

from __future__ import annotations

from pathlib import Path

from mqcore_conformance.checkers import check_history
from mqcore_conformance.histories import Completed, Event, FaultInjected, Invoked, Setting, TopicSetting
from mqcore_conformance.worlds.processes._children import describe_end

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


def test_the_error_of_a_child_is_one_line(tmp_path: Path) -> None:
    printed = tmp_path / "printed"
    printed.write_text(
        "  + Exception Group Traceback (most recent call last):\n"
        "  | ExceptionGroup: Exceptions from Trio nursery (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n"
        "    | mqcore.errors.CorruptionError: damaged segment header\n"
        "    +------------------------------------\n"
    )
    assert describe_end(1, printed) == "exit status 1: mqcore.errors.CorruptionError: damaged segment header"
    printed.write_text("")
    assert describe_end(-7, printed) == "signal SIGBUS"


def flush_error(at_us: int, life: int) -> FaultInjected:
    return FaultInjected(time_us=at_us, kind="flush-error", life=life, detail="events@1/0", hit=1)


def test_a_send_after_a_failed_flush_that_the_same_life_acknowledges_breaks_g11() -> None:
    history: list[Event] = [SETTING, flush_error(5, life=1), invoked(10), acknowledged(20, life=1)]
    assert [violation.clause for violation in check_history(history, ["G11"])] == ["G11"]


def test_what_was_sent_before_the_flush_failed_or_acknowledged_by_the_next_life_breaks_nothing() -> None:
    before: list[Event] = [SETTING, invoked(1), flush_error(5, life=1), acknowledged(20, life=1)]
    later: list[Event] = [SETTING, flush_error(5, life=1), invoked(10), acknowledged(20, life=2)]
    assert check_history(before, ["G11"]) == check_history(later, ["G11"]) == []
