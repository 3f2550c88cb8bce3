"""A part that hangs, raises, leaks, prints, dies or lies: a named clause, one screen, and a run that goes on.

The parts are a third party's: installed beside mqcore with entry points of their own (``bad_plugins``).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from mqcore_conformance.contract import CHECKS, check_part, explain_check, part_facts
from mqcore_conformance.contract._storage_model import compare_with_model
from mqcore_conformance.contract._storage_steps import Operation
from mqcore_conformance.verdicts import Status

PLUGINS = Path(__file__).parent / "bad_plugins"
MODEL = "any_sequence_of_operations_agrees_with_the_model"


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGINS))


def judged(check: str, does: str, where: str = "", *, own_io: bool = False, seconds_max: float = 10.0):
    """Run a check on a bad part; ``does`` may say where, as in ``hang at open``."""
    does, _, place = does.partition(" at ")
    kind = CHECKS[check].kind
    url = f"bad://{{dir}}{'/s' if kind == 'transport' else ''}?does={does}&where={where or place}"
    url += "&own_io=true" if own_io else ""
    result = check_part(CHECKS[check], url, seconds_max=seconds_max)
    screen = explain_check(url, result, Path("report/repro/7f3a90b1"))
    assert len(screen) <= 24
    assert max(map(len, screen)) <= 100
    assert screen[0].startswith(CHECKS[check].clause)
    assert screen[-1] == "replay    mqcore conformance replay report/repro/7f3a90b1"
    assert "Traceback" not in "\n".join(screen)
    assert all(line.isprintable() for line in screen)
    return result


@pytest.mark.parametrize(
    ("does", "where", "told"),
    [
        ("hang", "open", "it waits in hang (_faults.py"),
        ("hang", "aclose", "it waits in hang (_faults.py"),
        ("hang-shielded", "append", "observes no cancellation"),
        ("hang-in-thread", "append", "it is in hang_in_thread (_faults.py"),
        ("block", "constructor", "time.sleep(LONG_S)"),
        ("spin", "open_log", "it is in spin (_faults.py, line "),
    ],
)
def test_what_hangs_is_told_with_the_place_where_it_hangs(does: str, where: str, told: str) -> None:
    for seconds_max in (0.4, 4.0, 40.0):  # a loaded machine may need longer to get as far as where it hangs
        result = judged("a_flush_states_what_it_reached", does, where, seconds_max=seconds_max)
        if told in result.text:
            break
    assert result.status is Status.FAIL
    assert result.text.startswith("it hangs")
    assert told in result.text


@pytest.mark.parametrize("where", ["constructor", "aclose"])
@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("raise-os", r"it raised OSError in raise_.<locals>.function (_faults.py"),
        ("raise-group", "it raised OSError (and 1 more)"),
        ("raise-system-exit", "it raised SystemExit"),
        ("raise-keyboard-interrupt", "it raised KeyboardInterrupt"),
        ("raise-odd", "(its text raises, too)"),
        ("exit", "it ended its process with exit status 0"),
        ("segfault", "it ended its process by signal 11 (SIGSEGV)"),
    ],
)
def test_whatever_is_raised_is_one_line(does: str, where: str, told: str) -> None:
    result = judged("a_flush_states_what_it_reached", does, where)
    assert result.status is Status.FAIL
    assert told in result.text
    assert len(result.text) < 800


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("leak-descriptor", "open descriptor"),
        ("leak-thread", "leaked thread"),
        ("leak-task", "leaked task"),
        ("leak-process", "a child process"),
    ],
)
def test_what_is_left_behind_is_counted_and_named(does: str, told: str) -> None:
    result = judged("nothing_is_left_behind", does, "open")
    assert result.status is Status.FAIL
    assert "it leaves behind" in result.text
    assert told in result.text


def test_a_part_that_prints_fails_one_check_and_reaches_no_terminal(capfd) -> None:
    result = judged("nothing_is_printed", "print", "append")
    assert result.status is Status.FAIL
    assert "it printed " in result.text
    assert "raw \\xff\\xfe garbage" in result.output
    assert judged("a_flush_states_what_it_reached", "print", "append").status is Status.PASS
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("check", "does", "told"),
    [
        ("composing_does_no_io", "works-in-the-constructor", "something was made in"),
        ("composing_does_no_io", "claims-the-impossible", "declares what cannot be: flush reaches page-cache"),
        ("composing_does_no_io", "claims-garbage", "must be an mqcore.abc.Capabilities, not 'all of them'"),
        ("its_io_goes_through_the_ports", "opens-real-files", "it does I/O behind the ports: os.mkdir"),
        ("a_lost_member_takes_nothing", "claims-a-mirror", "without data 0 of 10240 bytes are there"),
        ("names_that_cannot_be_are_refused", "takes-any-name", "the log name '' is not refused"),
        ("what_was_cut_off_never_comes_back", "forgets-a-truncation", "the log ends at 18000 after a stop"),
        ("what_was_cut_off_never_comes_back", "returns-stale-bytes", "a read gives bytes that were cut off before"),
        ("claimed_levels_hold_when_the_process_is_killed", "keeps-bytes-to-itself", "8000 appended after it: 7000 of"),
    ],
)
def test_a_claim_that_does_not_hold_is_told_beside_what_was_seen(check: str, does: str, told: str) -> None:
    result = judged(check, does)
    assert result.status is Status.FAIL
    assert told in result.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "told", "steps_max"),
    [
        ("reorders", "holds other bytes than were appended", 2),
        ("reports-a-wrong-end", "ends at ", 1),
        ("acknowledges-before-flushing", "power-cut: ", 6),  # what a cut takes changes with each step
        ("hang at flush", "step 1, flush: it hangs", 1),
        ("trims-in-memory-only", " starts at 0 after a restart, not ", 3),
        ("overstates-what-is-durable", "power-cut: ", 6),  # seen in more ways than one: shrinking ends with its time
    ],
)
def test_a_storage_that_lies_is_found_with_the_fewest_steps(does: str, told: str, steps_max: int) -> None:
    result = judged(MODEL, does)
    assert result.status is Status.FAIL
    assert told in result.text
    assert 1 <= len(result.steps) <= steps_max


def test_the_steps_that_were_found_show_it_again_and_pass_when_it_is_mended() -> None:
    steps = [
        {"kind": "append", "log": 0, "where": 0.0, "sizes": [513]},
        {"kind": "flush", "log": 0, "where": 0.0, "sizes": []},
        {"kind": "power-cut", "log": 0, "where": 0.0, "sizes": []},
    ]
    for does, status in (("acknowledges-before-flushing", Status.FAIL), ("nothing", Status.PASS)):
        result = check_part(CHECKS[MODEL], f"bad://{{dir}}?does={does}", steps=steps, seed=2)
        assert result.status is status


def test_a_storage_with_io_of_its_own_meets_the_model_too_and_each_kill_is_a_process() -> None:
    steps = [
        {"kind": "append", "log": 0, "where": 0.0, "sizes": [100, 0, 5000]},
        {"kind": "kill", "log": 0, "where": 0.0, "sizes": []},
        {"kind": "append", "log": 0, "where": 0.0, "sizes": [1]},
        {"kind": "reopen", "log": 0, "where": 0.0, "sizes": []},
        {"kind": "kill", "log": 0, "where": 0.0, "sizes": []},
    ]
    for does, status in (("nothing", Status.PASS), ("keeps-bytes-to-itself", Status.FAIL)):
        result = check_part(CHECKS[MODEL], f"bad://{{dir}}?does={does}&own_io=true", steps=steps)
        assert result.status is status, result.text
    assert result.text == "step 2, open: a ends at 0 after a restart; 5100 bytes had to stay"


def test_a_durable_end_that_is_true_after_a_kill_is_no_lie_whatever_was_flushed() -> None:
    steps = [
        {"kind": "append", "log": 0, "where": 0.0, "sizes": [5000]},
        {"kind": "kill", "log": 0, "where": 0.0, "sizes": []},
        {"kind": "append", "log": 0, "where": 0.0, "sizes": [1]},
        {"kind": "reopen", "log": 0, "where": 0.0, "sizes": []},
    ]
    for own_io in ("&own_io=true", ""):
        result = check_part(CHECKS[MODEL], f"bad://{{dir}}?does=states-what-it-flushed-at-open{own_io}", steps=steps)
        assert result.status is Status.PASS, result.text


class RecordingGround:
    """Plays nothing, and notes what it was asked to play."""

    url, power_cuts = "", True
    played: ClassVar[list[tuple[Operation, ...]]] = []

    def play(self, steps, play) -> None:
        self.played.append(tuple(steps))


def test_the_seed_decides_which_sequences_are_played_and_the_verdict_counts_them(tmp_path, monkeypatch) -> None:
    played = []
    for seed in (1, 1, 2):
        monkeypatch.setattr(RecordingGround, "played", [])
        tried = compare_with_model(RecordingGround, examples=20, folder=str(tmp_path), seed=seed)
        cuts = sum(step.kind == "power-cut" for steps in RecordingGround.played for step in steps)
        assert tried.startswith("26 sequences with "), "six of every run, and the drawn ones"
        assert tried.endswith(f" and {cuts} power cuts")
        assert all(steps[-1].kind == "power-cut" for steps in RecordingGround.played[6:])
        played.append(RecordingGround.played)
    assert played[0] == played[1] != played[2]


@pytest.mark.parametrize("where", ["constructor", "append"])
@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("change-a-function", "contract._checks._judge"),
        ("change-the-code", "contract._checks._judge"),
        ("change-a-table", "CHECKS.views_stay_valid"),
        ("change-a-method", "mqcore.testing._disk.ModelDisk.power_cut"),
        ("shadow-a-builtin", "contract._checks.any"),
    ],
)
def test_a_part_that_changes_the_suite_ends_in_an_error_that_names_what(does: str, told: str, where: str) -> None:
    result = judged("a_flush_states_what_it_reached", does, where)
    assert result.status is Status.ERROR
    assert result.text.startswith("the part changed mqcore")
    assert result.text.endswith(f"{told} of the suite")


def test_that_nothing_is_claimed_is_not_for_a_part_to_say() -> None:
    result = judged("a_flush_states_what_it_reached", "raise-not-applicable", "open")
    assert result.status is Status.FAIL
    assert "it raised NotApplicable in raise_not_applicable (_faults.py" in result.text


def test_steps_that_block_the_process_are_shown_and_cut_to_the_one_that_does() -> None:
    steps = [{"kind": kind, "log": 0, "where": 0.0, "sizes": [10]} for kind in ("read", "append", "read", "flush")]
    result = check_part(CHECKS[MODEL], "bad://{dir}?does=spin&where=flush", steps=steps, seconds_max=0.5)
    assert [step["kind"] for step in result.steps] == ["flush"]
    assert "it is in spin" in result.text


def test_the_same_part_without_a_fault_passes_everything_quickly_enough() -> None:
    names = ("a_flush_states_what_it_reached", "nothing_is_left_behind", "nothing_is_printed", "composing_does_no_io")
    for name in names:
        assert judged(name, "nothing").text == ""
    for name in ("no_socket_is_left_behind", "trios_own_stream_checks_pass", "nothing_is_printed_by_a_transport"):
        assert judged(name, "nothing").text == ""


@pytest.mark.parametrize(
    ("check", "does", "told"),
    [
        ("trios_own_stream_checks_pass", "hang at listen", "it waits in hang (_faults.py"),
        ("no_socket_is_left_behind", "hang at aclose", "it waits in hang (_faults.py"),
        ("trios_own_stream_checks_pass", "raise-odd at send", "(its text raises, too)"),
        ("bytes_arrive_in_order_and_unchanged", "spin at receive", "it is in spin (_faults.py"),
        ("bytes_arrive_in_order_and_unchanged", "loses-bytes", "; the check waits in bytes_arrive"),
        ("a_frame_cut_at_every_byte_arrives_as_its_beginning", "reorders", "cut at 2, the reader got 2 bytes"),
        ("bytes_arrive_in_order_and_unchanged", "duplicates", "the bytes that arrived are not those that were sent"),
        ("a_send_that_was_cut_short_tears_the_stream_down", "ignores-cancellation", "observes no cancellation"),
        ("a_reader_that_stops_holds_its_writer_up", "buffers-without-bound", "bytes were taken in while"),
        ("a_closed_stream_takes_and_gives_nothing", "answers-after-close", "of a closed stream is not refused"),
        ("no_socket_is_left_behind", "leaks-sockets", "open descriptors (socket:["),
        ("an_address_in_use_is_refused", "takes-an-address-in-use", "a second listener at one address is not"),
        ("an_address_is_free_after_the_close", "keeps-its-address", "choose another path"),
        ("streams_of_a_link_are_as_many_as_claimed", "claims-to-multiplex", "it claims multiplexed, and"),
        ("streams_of_a_link_are_as_many_as_claimed", "claims-a-limit-it-does-not-keep", "streams_max is 10"),
        ("its_sockets_are_trios", "claims-model-sockets", "it does I/O of its own: open"),
        ("nothing_is_printed_by_a_transport", "print at send", "it printed "),
    ],
)
def test_a_transport_that_misbehaves_is_named(check: str, does: str, told: str) -> None:
    seconds_max = 0.6 if told.startswith(("it waits", "it is in", "observes")) else 10.0
    result = judged(check, does, seconds_max=seconds_max)
    assert result.status is Status.FAIL
    assert told in result.text


def test_what_is_not_claimed_is_probed_and_listed() -> None:
    result = judged("its_io_goes_through_the_ports", "nothing", own_io=True)
    assert result.status is Status.NOT_CLAIMED
    assert "probed: it does I/O behind the ports: os.mkdir" in result.text
    result = check_part(CHECKS["claimed_levels_hold_when_the_process_is_killed"], "memory://")
    assert result.status is Status.NOT_CLAIMED
    assert "0 of them are there after SIGKILL" in result.text


def test_a_part_is_asked_what_it_is_without_being_able_to_do_harm() -> None:
    assert part_facts("storage", "bad://{dir}").capabilities is not None
    assert "SystemExit" in part_facts("storage", "bad://{dir}?does=raise-system-exit&where=capabilities").problem
    assert part_facts("transport", "nosuch://x").unknown
