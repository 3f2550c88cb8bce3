"""The flush planner alone: which way each log goes, what a flush proves, and whom a failed one stops (G11)."""

from __future__ import annotations

import errno

import pytest
from mmap_parts import FakeLog, Parts, open_parts

from mqcore.errors import StorageError
from mqcore_mmap._flusher import FlushJob, FlushPlan


def run(parts: Parts, jobs: list[FlushJob]) -> FlushPlan:
    plan = parts.planner.plan(jobs)
    if plan.journaled:
        parts.journal.fill(plan.set_bytes)
        parts.planner.cover(plan)
    parts.planner.execute(plan)
    plan.finish()
    return plan


def log_of(job: FlushJob) -> FakeLog:
    assert isinstance(job.log, FakeLog)
    return job.log


def test_one_log_goes_to_its_file_and_its_mark_states_the_end() -> None:
    parts = open_parts()
    job = parts.job("a", b"x" * 10)
    plan = run(parts, [job])
    assert (plan.direct, plan.journaled, plan.failure) == ([job], [], None)
    assert log_of(job).durable_end == parts.header(job.segments[0]).mark == 10
    assert not job.segments[0].is_unnamed


def test_small_ranges_share_one_set_and_what_is_not_kept_in_memory_goes_to_its_file() -> None:
    parts = open_parts()
    small = [parts.job(name, b"x") for name in "abc"]
    large = parts.job("d", b"x" * 100, kept=False)
    before = parts.disk.counts["flush"]
    plan = run(parts, [*small, large])
    assert (plan.direct, plan.journaled) == ([large], small)
    assert parts.disk.counts["flush"] - before == 2
    assert [log_of(job).durable_end for job in [*small, large]] == [1, 1, 1, 100]
    assert all(job.segments[0].is_unnamed for job in small)


def test_what_does_not_fit_into_a_set_goes_to_its_file_the_largest_first() -> None:
    parts = open_parts()
    jobs = [parts.job(name, b"x" * size) for name, size in (("a", 10), ("b", 50_000), ("c", 20_000))]
    plan = parts.planner.plan(jobs)
    assert [job.log.name for job in plan.direct] == ["b"]
    assert {job.log.name for job in plan.journaled} == {"a", "c"}


def test_a_segment_that_is_followed_by_another_of_the_flush_says_so_durably() -> None:
    parts = open_parts()
    job = parts.job("a", b"x" * 10, b"y" * 5)
    run(parts, [job])
    parts.disk.power_cut()
    first, second = job.segments
    header = parts.header(first)
    assert (header.continued_at, header.mark) == (10, 10)
    assert parts.header(second).continued_at is None


def test_g11_a_failed_flush_of_one_file_stops_its_log_and_no_other() -> None:
    parts = open_parts()
    job, other = parts.job("a", b"x"), parts.job("b", b"x")
    parts.disk.fail_next("flush", error=errno.EIO)
    plan = run(parts, [job])
    assert plan.failure is not None
    assert plan.failure.logs == frozenset({"a"})
    assert (bool(log_of(job).failure), log_of(job).durable_end, log_of(other).failure) == (True, 0, "")


def test_g11_a_failed_flush_of_many_files_stops_every_log_of_the_storage() -> None:
    parts = open_parts(range_bytes_max=0)
    jobs = [parts.job("a", b"x"), parts.job("b", b"x")]
    bystander = parts.job("c", b"x")
    parts.disk.fail_next("flush_many", error=errno.EIO)
    plan = run(parts, jobs)
    assert plan.failure is not None
    assert plan.failure.logs == frozenset({"a", "b", "c"})
    assert log_of(bystander).failure


def test_a_plan_that_is_not_carried_out_leaves_nothing_pinned() -> None:
    parts = open_parts()
    job = parts.job("a", b"x")
    plan = parts.planner.plan([job])
    assert job.segments[0].pins == 1
    parts.planner.undo(plan)
    assert (job.segments[0].pins, job.segments[0].in_job) == (0, True)


def in_want(parts: Parts, *jobs: FlushJob) -> None:
    """Close the files of ``jobs``, and have every descriptor that is left in use."""
    for job in jobs:
        for segment in job.segments:
            parts.handles.close(segment)
    parts.handles._open_files_max = parts.handles.used


def test_where_descriptors_are_short_jobs_that_hold_theirs_go_before_those_that_need_one() -> None:
    parts = open_parts(range_bytes_max=0)
    needy, holding = parts.job("a", b"x" * 10), parts.job("b", b"y" * 10)
    holding.segments[0].keep_open = True
    in_want(parts, needy)
    plan = parts.planner.plan([needy, holding])
    assert (plan.direct, plan.left, plan.added) == ([holding], [needy], [])
    parts.planner.execute(plan)
    plan.finish()
    parts.handles.settle()
    holding.segments[0].keep_open = False
    assert run(parts, plan.left).failure is None
    assert log_of(needy).durable_end == log_of(holding).durable_end == 10


def test_where_descriptors_are_short_logs_that_nobody_asked_for_are_flushed_to_give_theirs() -> None:
    parts = open_parts(range_bytes_max=0)
    needy, other = parts.job("a", b"x" * 10), parts.job("b", b"y" * 10)
    other.segments[0].keep_open = True
    log_of(other).open_job = other
    in_want(parts, needy)
    plan = parts.planner.plan([needy])
    assert (plan.direct, plan.left, plan.added) == ([other], [needy], [other])
    with pytest.raises(StorageError, match="descriptors for segments are in use"):
        parts.planner.plan([needy])


def test_where_descriptors_are_short_mappings_of_what_has_to_stay_open_give_theirs() -> None:
    parts = open_parts(range_bytes_max=0)
    job = parts.job("a", b"x" * 10, b"y" * 10)
    first, second = job.segments
    second.keep_open = True
    parts.handles.mapping(second, 10)
    parts.handles.close(first)
    parts.handles._open_files_max = parts.handles.used
    assert run(parts, [job]).failure is None
    assert second.mapping is None
    assert log_of(job).durable_end == 20
