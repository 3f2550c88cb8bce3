"""Clients under test in a simulation: what they do is told, judged like anybody's, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import attrs
import pytest

from mqcore.client._partition_queue import PartitionQueue
from mqcore_conformance.checkers import check_history
from mqcore_conformance.histories import Altered, Completed, Event, FetchAnswered, FetchFailed, Invoked, Probed, Seeked
from mqcore_conformance.plans import (
    AlterPlan,
    ConsumerPlan,
    FaultPlan,
    LibraryPlan,
    ProducerPlan,
    RunPlan,
    SeekPlan,
    SendPlan,
    plan_to_json,
)
from mqcore_conformance.play import run_plan

REPLAY = (
    "import sys; from mqcore_conformance.plans import plan_from_json;"
    "from mqcore_conformance.play import run_plan;"
    "print(run_plan(plan_from_json(sys.stdin.read())).digest)"
)
SENDS = tuple(SendPlan(sizes=(20, 100, 0), pause_us=2_000) for _ in range(12))


def producer(name: str = "producer-0", **changes: object) -> ProducerPlan:
    plain = ProducerPlan(
        name=name, partition=0, idempotent=True, window=3, retries=True, sends=SENDS, library=LibraryPlan()
    )
    return attrs.evolve(plain, **changes)


def consumer(name: str = "consumer-0", **changes: object) -> ConsumerPlan:
    plain = ConsumerPlan(name=name, partition=0, bytes_max=100_000, pause_us=0, library=True)
    return attrs.evolve(plain, **changes)


def plan(**changes: object) -> RunPlan:
    plain = RunPlan(
        seed=7,
        family="none",
        storage="mmap://{dir}?segment_bytes=16384&first_extent_bytes=4096&extent_bytes_max=4096&journal_bytes=65536",
        transport="tcp",
        flush="sync",
        partitions=2,
        producers=(producer(),),
        consumers=(consumer(),),
    )
    return attrs.evolve(plain, **changes)


def run(one: RunPlan) -> list[Event]:
    """The history of a run that keeps every clause."""
    result = run_plan(one)
    assert result.error == ""
    assert [str(violation) for violation in check_history(result.history)] == []
    return result.history


def outcomes(history: list[Event], process: str = "producer-0") -> list[str]:
    return [event.outcome for event in history if isinstance(event, Completed) and event.process == process]


def test_a_producer_of_the_library_has_one_outcome_for_each_send() -> None:
    history = run(plan())
    assert outcomes(history) == ["acknowledged"] * len(SENDS)
    sent = [event for event in history if isinstance(event, Invoked) and event.process == "producer-0"]
    assert [len(event.messages) for event in sent] == [3] * len(SENDS)
    receipts = [event for event in history if isinstance(event, Completed) and event.process == "producer-0"]
    assert {(event.life, event.level) for event in receipts} == {(1, "disk")}


def test_a_producer_may_send_message_by_message_and_let_them_linger() -> None:
    library = LibraryPlan(singly=True, linger_ms=5, batch_messages=2, codec="zlib")
    history = run(plan(producers=(producer(library=library),)))
    assert outcomes(history) == ["acknowledged"] * 3 * len(SENDS)


def test_retries_of_the_library_are_answered_as_duplicates_when_connections_break_under_it() -> None:
    faults = tuple(FaultPlan(kind="reset", trigger="time", when=at_us) for at_us in (230_000, 275_000, 330_000))
    slow = {"flush": 20_000, "flush_many": 20_000}
    history = run(plan(faults=faults, disk_latency_us=slow))
    assert outcomes(history) == ["acknowledged"] * len(SENDS)
    assert any(isinstance(event, Completed) and event.duplicate for event in history)


def test_a_consumer_of_the_library_reads_everything_over_all_partitions() -> None:
    producers = (producer(), producer("producer-1", partition=1, library=None))
    history = run(plan(producers=producers, consumers=(consumer(every=True, singly=True),)))
    read = [event for event in history if isinstance(event, FetchAnswered) and event.process == "consumer-0"]
    assert {event.partition.rpartition("/")[2] for event in read} == {"0", "1"}
    assert sum(len(batch.messages) for event in read for batch in event.batches) >= 2 * 3 * len(SENDS)


@pytest.mark.parametrize("library", [True, False])
def test_consumers_come_go_and_seek(library: bool) -> None:
    seeks = (SeekPlan(after=2, to="start"), SeekPlan(after=4, to="end"), SeekPlan(after=5, to="1"))
    one = consumer(library=library, stays_us=5_000, away_us=2_000, seeks=seeks)
    history = run(plan(consumers=(one,)))
    asked = [event.offset for event in history if isinstance(event, Seeked) and event.why == "asked"]
    assert asked[0] == 0
    assert asked[2] == 1
    assert asked[1] > 1


def test_a_loss_that_is_allowed_is_reported_by_the_library_and_no_clause_is_broken() -> None:
    fault = FaultPlan(kind="power-cut", trigger="acks", when=9)
    history = run(plan(flush="none", faults=(fault,), seed=3))
    told = [event for event in history if isinstance(event, FetchFailed) and event.process == "consumer-0"]
    assert {event.code for event in told} == {"diverged"}


def test_a_client_that_tells_of_an_outcome_before_it_knows_it_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = PartitionQueue.produced

    def off_by_one(self, batch, reply):  # type: ignore[no-untyped-def]
        original(self, batch, reply._replace(base_offset=reply.base_offset + 1))

    monkeypatch.setattr(PartitionQueue, "produced", off_by_one)
    result = run_plan(plan())
    assert {violation.clause for violation in check_history(result.history)} & {"G01", "G05"}


def test_a_batch_that_is_spoiled_on_its_way_is_refused_and_never_read() -> None:
    sends = (*SENDS[:3], attrs.evolve(SENDS[3], spoiled=True), *SENDS[4:])
    history = run(plan(producers=(producer(library=None, sends=sends),)))
    assert [event.code for event in history if isinstance(event, Completed) and event.outcome == "rejected"][:1] == [
        "checksum"
    ]
    assert outcomes(history).count("acknowledged") == len(SENDS) - 1


def test_policies_change_while_the_topic_is_used_and_receipts_tell_which_was_in_force() -> None:
    alters = (
        AlterPlan(at_us=15_000, flush="none"),
        AlterPlan(at_us=20_000, flush="async(max_messages=40)"),
        AlterPlan(at_us=25_000, flush="sync"),
        AlterPlan(at_us=25_001, flush="async(max_interval=1 ms"),
    )
    history = run(plan(alters=alters, disk_latency_us={"flush": 1_000, "flush_many": 1_000}))
    changes = [event.outcome for event in history if isinstance(event, Altered)]
    assert changes == ["done", "done", "done", "refused"]
    levels = {event.level for event in history if isinstance(event, Completed)}
    assert levels == {"page-cache", "disk"}


def test_slow_and_malicious_peers_are_let_go_and_one_that_is_kept_turns_g20_red(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds = ("garbage", "half-frame", "huge-length", "deaf", "silent", "flood")
    faults = tuple(
        FaultPlan(kind=f"peer-{kind}", trigger="time", when=1_000 + number, amount=2)
        for number, kind in enumerate(kinds)
    )
    one = plan(faults=faults, family="network")
    told = [event for event in run(one) if isinstance(event, Probed) and "peers" in event.question]
    assert [event.holds for event in told] == [True]

    from mqcore.broker._connection import ClientConnection

    monkeypatch.setattr(ClientConnection, "stalled", lambda self, now: None)
    result = run_plan(one)
    assert {violation.clause for violation in check_history(result.history)} == {"G20"}


def test_a_broker_that_keeps_what_was_a_peers_turns_g20_red(monkeypatch: pytest.MonkeyPatch) -> None:
    from mqcore.broker._sessions import Sessions

    monkeypatch.setattr(Sessions, "leave", lambda self, session: None)
    violations = check_history(run_plan(plan()).history)
    assert {violation.clause for violation in violations} == {"G20"}
    assert "sessions" in violations[0].text


def test_runs_with_these_clients_replay_bit_for_bit_under_another_hash_seed() -> None:
    one = plan(
        producers=(producer(library=LibraryPlan(linger_ms=5)), producer("producer-1", library=None)),
        consumers=(consumer(every=True, stays_us=3_000, away_us=1_000), consumer("consumer-1", library=False)),
        alters=(AlterPlan(at_us=4_000, flush="async(max_messages=9)"),),
        faults=(
            FaultPlan(kind="power-cut", trigger="acks", when=6),
            FaultPlan(kind="peer-garbage", trigger="time", when=2_000, amount=3),
            FaultPlan(kind="reset", trigger="acks", when=9),
        ),
        network_jitter_us=500,
    )
    digests = {run_plan(one).digest}
    for hash_seed in ("1", "77"):
        replay = subprocess.run(
            [sys.executable, "-c", REPLAY],
            input=plan_to_json(one),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
        )
        digests.add(replay.stdout.strip())
    assert len(digests) == 1
