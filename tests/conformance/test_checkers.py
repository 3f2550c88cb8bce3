"""Each checker finds its bad history and leaves the good one alone (Jepsen's names of the anomalies)."""

from __future__ import annotations

import attrs
import pytest

from mqcore.errors import ConfigurationError
from mqcore.guarantees import CLAUSES
from mqcore_conformance.checkers import CHECKERS, NOT_BUILT, check_history
from mqcore_conformance.histories import (
    DRAIN,
    Appended,
    Completed,
    Drained,
    Event,
    FaultInjected,
    Fetched,
    FetchFailed,
    Flushed,
    Invoked,
    LivenessObserved,
    Probed,
    ReadBatch,
    Recovered,
    Seeked,
    Setting,
    Started,
    TopicSetting,
    history_digest,
    read_history,
    write_history,
)
from mqcore_conformance.verdicts import Anomaly

P = "t@1/0"


class Story:
    """A history told step by step; virtual time goes on by 1 ms an event."""

    def __init__(
        self, flush: str = "sync", append: str = "page-cache", reach: str = "disk", visible: str = "committed"
    ):
        topic = TopicSetting(name="t", partitions=1, flush=(flush,), visible=visible)
        self.events: list[Event] = [
            Setting(time_us=0, storage="s", transport="c", append_level=append, flush_level=reach, topics=(topic,))
        ]
        self.life = 0
        self.start()

    def add(self, kind, /, **fields):
        self.events.append(kind(time_us=len(self.events) * 1000, **fields))
        return self

    def start(self):
        self.life += 1
        return self.add(Started, life=self.life, node="n", epoch=self.life)

    def fault(self, kind, **fields):
        return self.add(FaultInjected, kind=kind, life=self.life, **fields)

    def invoke(self, send, *messages, attempt=1, **fields):
        return self.add(
            Invoked,
            process="p",
            send=send,
            attempt=attempt,
            partition=P,
            messages=messages or (send,),
            **{"size_bytes": 100, **fields},
        )

    def ack(self, send, offset, level="disk", attempt=1, **fields):
        return self.add(
            Completed,
            process="p",
            send=send,
            attempt=attempt,
            outcome="acknowledged",
            offset=offset,
            level=level,
            **{"life": self.life, "epoch": self.life, **fields},
        )

    def end(self, send, outcome, attempt=1, code=""):
        return self.add(Completed, process="p", send=send, attempt=attempt, outcome=outcome, code=code)

    def send(self, send, offset, level="disk", **fields):
        return self.invoke(send, **fields).ack(send, offset, level)

    def append(self, base, until, size=100):
        return self.add(
            Appended,
            life=self.life,
            partition=P,
            position=base * size,
            end_position=until * size,
            base_offset=base,
            next_offset=until,
            epoch=self.life,
        )

    def flush(self, until, size=100, failed=False):
        return self.add(Flushed, life=self.life, ends=((P, until * size),), failed=failed)

    def fetch(self, process, offset, *batches, epoch=1, asked_at=None):
        until = max([b + len(m) for b, _, m in batches], default=offset)
        return self.add(
            Fetched,
            process=process,
            partition=P,
            asked_at=len(self.events) if asked_at is None else asked_at,
            life=self.life,
            offset=offset,
            epoch=epoch,
            next_offset=until,
            start_offset=0,
            committed_offset=until,
            batches=tuple(ReadBatch(base_offset=b, epoch=e, messages=tuple(m)) for b, e, m in batches),
        )

    def drain(self, *batches, start=0, end=None):
        until = max([b + len(m) for b, _, m in batches], default=start) if end is None else end
        self.fetch(DRAIN, start, *batches)
        return self.add(Drained, partition=P, start_offset=start, end_offset=until)


def found(story: Story, clause: str) -> list[Anomaly]:
    return [violation.anomaly for violation in check_history(story.events, [clause])]


def only(story: Story, clause: str, anomaly: Anomaly) -> None:
    violations = check_history(story.events)
    assert {violation.clause for violation in violations} == {clause}, [str(one) for one in violations]
    assert {violation.anomaly for violation in violations} == {anomaly}
    assert all("\n" not in str(one) and len(str(one)) < 400 for one in violations)


def test_every_clause_has_a_checker_or_a_reason() -> None:
    assert sorted([*CHECKERS, *NOT_BUILT]) == sorted(CLAUSES)


def test_a_good_history_has_no_violation() -> None:
    story = Story().append(0, 0).invoke("a").append(0, 1).flush(1).ack("a", 0)
    story.fetch("c", 0, (0, 1, ["a"])).fault("power-cut").start().append(1, 1).invoke("b").append(1, 2).flush(2)
    story.ack("b", 1).fetch("c", 1, (1, 2, ["b"])).drain((0, 1, ["a"]), (1, 2, ["b"]))
    assert check_history(story.events) == []


def test_g01_lost_write() -> None:
    story = Story().send("a", 0).fault("power-cut").start().drain(end=0)
    only(story, "G01", Anomaly.LOST_WRITE)


def test_g01_another_message_in_its_place_is_lost_too() -> None:
    story = Story().send("a", 0).fault("power-cut").start().send("b", 0).drain((0, 2, ["b"]))
    assert found(story, "G01") == [Anomaly.LOST_WRITE]


def test_g01_the_page_cache_survives_a_kill_and_not_a_power_cut() -> None:
    killed = Story("none").send("a", 0, "page-cache").fault("process-kill").start().drain(end=0)
    only(killed, "G01", Anomaly.LOST_WRITE)
    cut = Story("none").send("a", 0, "page-cache").fault("power-cut").start().drain(end=0)
    assert check_history(cut.events) == []


def test_g01_what_was_never_drained_is_lost() -> None:
    assert found(Story().send("a", 0), "G01") == [Anomaly.LOST_WRITE]


def test_g01_retention_takes_what_lies_below_the_start() -> None:
    story = Story().send("a", 0).send("b", 1).drain((1, 1, ["b"]), start=1)
    assert check_history(story.events) == []


def test_g01_unknown_is_not_lost() -> None:
    story = Story().invoke("a").end("a", "unknown").fault("power-cut").start().drain(end=0)
    assert check_history(story.events) == []


def test_g02_hole_below_a_surviving_message_of_the_same_epoch() -> None:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").fault("power-cut").start()
    story.drain((1, 1, ["b"]), end=2)
    only(story, "G02", Anomaly.HOLE)


def test_g02_hole_in_the_drain() -> None:
    story = Story("none").invoke("a", "a1", "a2", "a3").end("a", "unknown").drain((0, 1, ["a1"]), (2, 1, ["a3"]))
    only(story, "G02", Anomaly.HOLE)


def test_g02_a_lost_suffix_is_allowed() -> None:
    story = Story("none").send("a", 0, "page-cache").send("b", 1, "page-cache").fault("power-cut").start()
    assert check_history(story.drain((0, 1, ["a"])).events) == []


@pytest.mark.parametrize("bound", ["max_messages=1", "max_bytes=150 B", "max_interval=1 ms"])
def test_g03_loss_beyond_a_bound(bound: str) -> None:
    story = (
        Story(f"async({bound})").send("a", 0, "page-cache").send("b", 1, "page-cache").send("c", 2, "page-cache")
    )
    story.fault("power-cut").start().drain(end=0)
    only(story, "G03", Anomaly.UNBOUNDED_LOSS)


def test_g03_loss_within_every_bound() -> None:
    story = Story("async(max_messages=2, max_bytes=200 B, max_interval=10 ms)")
    story.send("a", 0, "page-cache").send("b", 1, "page-cache").fault("power-cut").start().drain(end=0)
    assert check_history(story.events) == []


def test_g03_each_power_cut_has_its_own_bound() -> None:
    story = Story("async(max_messages=1)").send("a", 0, "page-cache").fault("power-cut").start()
    story.send("b", 0, "page-cache").fault("power-cut").start().drain(end=0)
    assert check_history(story.events) == []


def test_g04_phantom() -> None:
    only(Story().drain((0, 1, ["x"])), "G04", Anomaly.PHANTOM)


def test_g04_a_message_of_another_partition_is_a_phantom() -> None:
    story = Story().invoke("a").end("a", "unknown")
    story.events[-2] = attrs.evolve(story.events[-2], partition="t@1/1")
    only(story.drain((0, 1, ["a"])), "G04", Anomaly.PHANTOM)


def test_g05_inconsistent_offset() -> None:
    story = Story("none").invoke("a").end("a", "unknown").invoke("b").end("b", "unknown")
    story.fetch("c", 0, (0, 1, ["a"])).fault("power-cut").start().drain((0, 1, ["b"]))
    assert found(story, "G05") == [Anomaly.INCONSISTENT_OFFSET]


def test_g06_nonmonotonic_and_skipped_polls() -> None:
    story = Story().send("a", 0).send("b", 1).send("c", 2)
    rest = (0, 1, ["a", "b", "c"])
    back = Story()
    back.events = [*story.events]
    back.fetch("r", 0, (0, 1, ["a", "b"])).fetch("r", 2, (0, 1, ["a"])).drain(rest)
    only(back, "G06", Anomaly.NONMONOTONIC_POLL)
    story.fetch("r", 0, (0, 1, ["a"])).fetch("r", 1, (2, 1, ["c"])).drain(rest)
    only(story, "G06", Anomaly.SKIPPED_POLL)


def test_g06_a_seek_may_go_anywhere() -> None:
    story = Story().send("a", 0).send("b", 1).fetch("r", 0, (0, 1, ["a", "b"]))
    story.add(Seeked, process="r", partition=P, offset=0, why="asked").fetch("r", 0, (0, 1, ["a", "b"]))
    assert check_history(story.drain((0, 1, ["a", "b"])).events) == []


def test_g06_a_loss_has_to_be_reported_to_who_had_read_it() -> None:
    story = Story("none").send("a", 0, "page-cache").fetch("r", 0, (0, 1, ["a"])).fault("power-cut").start()
    story.send("b", 0, "page-cache").send("c", 1, "page-cache")
    silent = Story("none")
    silent.events = [*story.events]
    silent.life = 2
    silent.fetch("r", 1, (1, 2, ["c"])).drain((0, 2, ["b", "c"]))
    only(silent, "G06", Anomaly.SKIPPED_POLL)
    story.add(
        FetchFailed, process="r", partition=P, asked_at=0, life=2, offset=1, epoch=1, code="diverged", point=0
    ).add(Seeked, process="r", partition=P, offset=0, why="diverged")
    story.fetch("r", 0, (0, 2, ["b", "c"])).drain((0, 2, ["b", "c"]))
    assert check_history(story.events) == []


def test_g07_aborted_read() -> None:
    story = Story().invoke("a").end("a", "rejected", code="storage-full").drain((0, 1, ["a"]))
    only(story, "G07", Anomaly.ABORTED_READ)


def test_g07_a_rejected_retry_of_an_unknown_attempt_may_be_there() -> None:
    story = Story().invoke("a").end("a", "unknown").invoke("a", attempt=2).end("a", "rejected", attempt=2)
    assert check_history(story.drain((0, 1, ["a"])).events) == []


def test_g08_what_was_read_is_gone() -> None:
    story = Story().invoke("a").end("a", "unknown").fetch("r", 0, (0, 1, ["a"])).fault("power-cut").start()
    only(story.drain(end=0), "G08", Anomaly.UNSTABLE_READ)


def test_g08_what_was_read_was_not_flushed() -> None:
    story = Story().append(0, 0).invoke("a").append(0, 1).fetch("r", 0, (0, 1, ["a"])).flush(1).ack("a", 0)
    only(story.drain((0, 1, ["a"])), "G08", Anomaly.UNSTABLE_READ)


def test_g11_a_failed_flush_is_final() -> None:
    story = Story().append(0, 0).invoke("a").append(0, 1).flush(1, failed=True).flush(1).ack("a", 0)
    assert found(story.drain((0, 1, ["a"])), "G11") == [Anomaly.FAILED_FLUSH_TRUSTED]


def test_g11_a_log_that_has_to_stop_goes_on() -> None:
    story = Story("none").append(0, 0).flush(0, failed=True).invoke("a").append(0, 1).ack("a", 0, "page-cache")
    only(story.drain((0, 1, ["a"])), "G11", Anomaly.FAILED_FLUSH_TRUSTED)


def test_g11_what_the_failed_flush_covered_is_served() -> None:
    story = Story("none").append(0, 0).invoke("a").append(0, 1).ack("a", 0, "page-cache").flush(1, failed=True)
    story.fetch("r", 0, (0, 1, ["a"]))
    only(story.drain((0, 1, ["a"])), "G11", Anomaly.FAILED_FLUSH_TRUSTED)


def test_g12_silent_damage() -> None:
    story = Story().send("a", 0).send("b", 1).fault("rot", hit=1).drain((1, 1, ["b"]), end=2)
    assert found(story, "G12") == [Anomaly.SILENT_DAMAGE]
    assert found(story, "G01") == []


def test_g12_damage_reported_for_its_range() -> None:
    story = Story().send("a", 0).send("b", 1).fault("rot", hit=1)
    story.add(
        FetchFailed,
        process=DRAIN,
        partition=P,
        asked_at=0,
        life=1,
        offset=0,
        epoch=0,
        code="damaged",
        point=0,
        until=1,
    )
    assert check_history(story.drain((1, 1, ["b"]), end=2).events) == []


def test_g13_no_progress() -> None:
    story = Story().add(LivenessObserved, what="a send", took_us=-1, bound_us=1000, reason="storage-stopped")
    only(story.add(LivenessObserved, what="a drain", took_us=1000, bound_us=1000), "G13", Anomaly.NO_PROGRESS)


def test_g14_a_receipt_before_its_flush() -> None:
    story = Story().append(0, 0).invoke("a").append(0, 1).ack("a", 0).flush(1)
    only(story.drain((0, 1, ["a"])), "G14", Anomaly.UNJUSTIFIED_RECEIPT)


def test_g14_a_receipt_before_its_append() -> None:
    story = Story("none").append(0, 0).invoke("a").ack("a", 0, "page-cache").append(0, 1)
    only(story.drain((0, 1, ["a"])), "G14", Anomaly.UNJUSTIFIED_RECEIPT)


def test_g14_a_level_that_the_storage_does_not_have() -> None:
    story = Story("none", "memory", "memory").send("a", 0, "disk").drain((0, 1, ["a"]))
    only(story, "G14", Anomaly.UNJUSTIFIED_RECEIPT)


def test_g15_duplicates_of_an_idempotent_producer() -> None:
    story = Story().invoke("a", idempotent=True).end("a", "unknown").invoke("a", attempt=2, idempotent=True)
    story.ack("a", 1, attempt=2).drain((0, 1, ["a", "a"]))
    only(story, "G15", Anomaly.DUPLICATE)


def test_g15_retries_of_unknown_outcomes_may_duplicate_and_others_may_not() -> None:
    story = Story().invoke("a").end("a", "unknown").invoke("a", attempt=2).ack("a", 1, attempt=2)
    assert check_history(story.drain((0, 1, ["a", "a"])).events) == []
    only(Story().send("a", 0).drain((0, 1, ["a", "a"])), "G15", Anomaly.DUPLICATE)


def test_g17_recovering_twice_gives_something_else() -> None:
    story = Story().add(Recovered, group="1", way="once", partition=P, content="a")
    only(
        story.add(Recovered, group="1", way="twice", partition=P, content="b"), "G17", Anomaly.UNREPEATABLE_RECOVERY
    )


@pytest.mark.parametrize(("clause", "anomaly"), [("G18", Anomaly.NOT_REFUSED), ("G20", Anomaly.UNBOUNDED_RESOURCE)])
def test_probes(clause: str, anomaly: Anomaly) -> None:
    story = Story().add(Probed, clause=clause, question="an unknown option", holds=False, observed="taken")
    only(story.add(Probed, clause=clause, question="another", holds=True), clause, anomaly)


def test_a_history_is_the_same_after_a_round_trip(tmp_path) -> None:
    story = Story("async(max_messages=5)").append(0, 1).send("a", 0).flush(1).fetch("r", 0, (0, 1, ["a"]))
    story.fault("rot", hit=3, detail="é").drain((0, 1, ["a"]))
    path = tmp_path / "history.jsonl"
    write_history(path, story.events)
    assert read_history(path) == story.events
    assert history_digest(read_history(path)) == history_digest(story.events)


def test_a_broken_history_names_file_and_line(tmp_path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"event":"Phase","time_us":1,"name":"safety"}\n{"event":"Nonsense"}\n')
    with pytest.raises(ConfigurationError, match=r"history\.jsonl, line 2"):
        read_history(path)
