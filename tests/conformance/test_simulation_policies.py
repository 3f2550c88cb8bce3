"""Policies that change in a run are judged by what may have been in force, on hand-made histories good and bad."""

from __future__ import annotations

import attrs

from mqcore_conformance.checkers import check_history
from mqcore_conformance.histories import (
    Altered,
    Appended,
    Completed,
    Drained,
    Event,
    FaultInjected,
    FetchAnswered,
    Flushed,
    Invoked,
    ReadBatch,
    Setting,
    TopicSetting,
)

PARTITION = "events@12345678/0"
ASYNC = "async(max_messages=2)"


def setting(*flush: str, visible: str = "committed", total_bytes_max: int | None = None) -> Setting:
    return Setting(
        time_us=0,
        storage="mmap://{dir}",
        transport="tcp",
        append_level="page-cache",
        flush_level="disk",
        topics=(TopicSetting(name="events", partitions=1, flush=flush, visible=visible),),
        total_bytes_max=total_bytes_max,
    )


def altered(asked_at: int, outcome: str = "done", **changes: str) -> Altered:
    return Altered(time_us=1, topic="events@12345678", asked_at=asked_at, outcome=outcome, **changes)  # type: ignore[arg-type]


def sent(offset: int, level: str = "page-cache", policy: str = "topic", size_bytes: int = 100) -> list[Event]:
    """One message, sent, appended and acknowledged."""
    name = f"p.{offset}"
    return [
        Invoked(
            time_us=1,
            process="p",
            send=name,
            attempt=1,
            partition=PARTITION,
            messages=(f"m{offset}",),
            size_bytes=size_bytes,
            policy=policy,
        ),
        Appended(
            time_us=1,
            life=1,
            partition=PARTITION,
            position=offset * 100,
            end_position=offset * 100 + 100,
            base_offset=offset,
            next_offset=offset + 1,
            epoch=1,
        ),
        Completed(
            time_us=1,
            process="p",
            send=name,
            attempt=1,
            outcome="acknowledged",
            life=1,
            offset=offset,
            epoch=1,
            level=level,
        ),
    ]


def all_lost() -> list[Event]:
    return [
        FaultInjected(time_us=2, kind="power-cut", life=1, hit=9),
        Drained(time_us=3, partition=PARTITION, start_offset=0, end_offset=0),
    ]


def read(*offsets: int) -> FetchAnswered:
    return FetchAnswered(
        time_us=2,
        process="c",
        partition=PARTITION,
        asked_at=0,
        life=1,
        offset=offsets[0],
        epoch=0,
        next_offset=offsets[-1] + 1,
        start_offset=0,
        committed_offset=offsets[-1] + 1,
        batches=(ReadBatch(base_offset=offsets[0], epoch=1, messages=tuple(f"m{each}" for each in offsets)),),
    )


def broken(history: list[Event], *clauses: str) -> set[str]:
    """The clauses that ``history`` breaks, of ``clauses`` if some are named."""
    return {violation.clause for violation in check_history(history, clauses)}


def test_what_was_acknowledged_before_a_bound_was_in_force_may_be_lost_without_bound() -> None:
    history = [setting("none"), *sent(0), *sent(1), *sent(2), altered(10, flush=ASYNC), *sent(3), *sent(4), *all_lost()]
    assert broken(history) == set()


def test_what_was_acknowledged_under_a_bound_may_not_exceed_it() -> None:
    history = [setting("none"), altered(1, flush=ASYNC), *sent(0), *sent(1), *sent(2), *all_lost()]
    assert broken(history) == {"G03"}


def test_a_wider_bound_counts_while_it_may_be_in_force() -> None:
    wide = altered(4, flush="async(max_messages=3)")
    assert broken([setting(ASYNC), *sent(0), wide, *sent(1), *sent(2), *all_lost()]) == set()
    refused = attrs.evolve(wide, outcome="refused")
    assert broken([setting(ASYNC), *sent(0), refused, *sent(1), *sent(2), *all_lost()]) == {"G03"}


def test_a_change_that_nobody_knows_the_outcome_of_may_be_in_force_from_its_request_on() -> None:
    history = [setting(ASYNC), *sent(0), *sent(1), *sent(2), *all_lost()]
    lowered = attrs.evolve(altered(1, "unknown", flush="none"), topic="events")
    assert broken([history[0], lowered, *history[1:]]) == set()
    assert broken([*history[:10], attrs.evolve(lowered, asked_at=10), *history[10:]]) == {"G03"}


def test_a_receipt_under_sync_states_a_flush_unless_another_policy_may_have_answered() -> None:
    assert broken([setting("sync"), *sent(0)], "G14") == {"G14"}
    assert broken([setting("none"), *sent(0, policy="sync")], "G14") == {"G14"}
    assert broken([setting("sync"), altered(1, flush="none"), *sent(0)], "G14") == set()
    assert broken([setting("none"), altered(1, flush="sync"), *sent(0)], "G14") == {"G14"}
    assert broken([setting("none"), altered(1, "unknown", flush="sync"), *sent(0)], "G14") == set()


def test_a_weaker_send_is_judged_by_its_own_policy() -> None:
    history = [setting(ASYNC, "none"), *sent(0, policy="none"), *sent(1, policy="none"), *sent(2, policy="none")]
    assert broken([*history, *all_lost()]) == set()
    assert broken([setting(ASYNC, "none"), *sent(0), *sent(1), *sent(2), *all_lost()]) == {"G03"}


def test_a_raise_makes_visible_only_what_is_flushed_of_the_batches_after_it() -> None:
    before = [setting("none"), *sent(0), altered(4, flush="sync")]
    assert broken([*before, read(0)], "G08") == set()
    unflushed = [event for event in sent(1) if not isinstance(event, Completed)]
    assert broken([*before, *unflushed, read(1)], "G08") == {"G08"}
    flushed = Flushed(time_us=1, life=1, ends=((PARTITION, 200),))
    assert broken([*before, *unflushed, flushed, read(1)], "G08") == set()


def test_a_weakest_send_does_not_weaken_what_consumers_see() -> None:
    unflushed = [event for event in sent(0) if not isinstance(event, Completed)]
    assert broken([setting("sync", "none"), *unflushed, read(0)], "G08") == {"G08"}


def test_the_bound_of_all_logs_together_holds_for_each_life() -> None:
    lost = [*sent(0, size_bytes=600), *sent(1, size_bytes=600), *all_lost()]
    assert broken([setting("async(max_messages=9)", total_bytes_max=1_200), *lost]) == set()
    assert broken([setting("async(max_messages=9)", total_bytes_max=1_000), *lost]) == {"G03"}


def test_a_default_is_what_the_topic_began_with() -> None:
    history = [setting(ASYNC), altered(1, flush="none"), altered(2, flush=""), *sent(0), *sent(1), *sent(2)]
    assert broken([*history, *all_lost()]) == {"G03"}
