"""The promise table: fault x promise for a build, in agreement with the oracle."""

import itertools
import json

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqcore.guarantees import (
    AsyncFlush,
    AsyncReplication,
    Bound,
    Build,
    Fault,
    Level,
    LossExtent,
    NoFlush,
    NoReplication,
    SendOutcome,
    Sent,
    SyncFlush,
    SyncReplication,
    TopicBuild,
    explain,
    level_for,
    must_survive,
    placements,
    promise_table,
    promise_tables,
    resolve_flush,
    weakest_receipt,
)

pytestmark = pytest.mark.quick

FILE = Build(storage="mmap:///a", append_level=Level.PAGE_CACHE, flush_level=Level.DISK)
HEAP = Build(storage="memory://", append_level=Level.MEMORY, flush_level=Level.MEMORY)
ARRAY = attrs.evolve(FILE, storage="raid:///a,/b", flush_level=Level.MIRROR)
BOUNDS = AsyncFlush(max_messages=1000, max_bytes=10**6, max_interval_ms=200)


def losses(build: Build) -> list[LossExtent]:
    """Losses under process-kill, node-power-cut, power-cut, disk-loss, host-loss."""
    return [row.loss for row in promise_table(build).promises]


NOTHING, BOUNDED = LossExtent.NOTHING, LossExtent.BOUNDED
UNBOUNDED, EVERYTHING = LossExtent.UNBOUNDED, LossExtent.EVERYTHING


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (HEAP, [EVERYTHING, EVERYTHING, EVERYTHING, NOTHING, EVERYTHING]),
        (attrs.evolve(FILE, flush=SyncFlush()), [NOTHING, NOTHING, NOTHING, EVERYTHING, EVERYTHING]),
        (attrs.evolve(FILE, flush=BOUNDS), [NOTHING, BOUNDED, BOUNDED, EVERYTHING, EVERYTHING]),
        (attrs.evolve(FILE, flush=NoFlush()), [NOTHING, UNBOUNDED, UNBOUNDED, EVERYTHING, EVERYTHING]),
        (attrs.evolve(ARRAY, flush=SyncFlush()), [NOTHING, NOTHING, NOTHING, NOTHING, EVERYTHING]),
        (attrs.evolve(ARRAY, flush=BOUNDS), [NOTHING, BOUNDED, BOUNDED, BOUNDED, EVERYTHING]),
        (
            attrs.evolve(FILE, append_level=Level.DISK, flush=NoFlush()),
            [NOTHING, NOTHING, NOTHING, EVERYTHING, EVERYTHING],
        ),
        (attrs.evolve(HEAP, append_level=Level.NONE, flush_level=Level.NONE), [EVERYTHING] * 5),
    ],
)
def test_section_4_one_node(build: Build, expected: list[LossExtent]) -> None:
    assert losses(build) == expected


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (
            attrs.evolve(FILE, flush=BOUNDS, replication=SyncReplication()),
            [NOTHING, NOTHING, BOUNDED, NOTHING, NOTHING],
        ),
        (
            attrs.evolve(FILE, flush=NoFlush(), replication=SyncReplication()),
            [NOTHING, NOTHING, UNBOUNDED, NOTHING, NOTHING],
        ),
        (attrs.evolve(FILE, flush=BOUNDS, replication=SyncReplication(level=Level.DISK)), [NOTHING] * 5),
        (attrs.evolve(FILE, flush=SyncFlush(), replication=SyncReplication()), [NOTHING] * 5),
        (
            attrs.evolve(HEAP, replication=SyncReplication(level=Level.MEMORY)),
            [NOTHING, NOTHING, EVERYTHING, NOTHING, NOTHING],
        ),
        (
            attrs.evolve(FILE, flush=SyncFlush(), replication=AsyncReplication()),
            [NOTHING, NOTHING, NOTHING, UNBOUNDED, UNBOUNDED],
        ),
        (
            attrs.evolve(
                FILE,
                flush=SyncFlush(),
                replication=AsyncReplication(max_delay_ms=500, on_exceeded="throttle"),
                failover="automatic",
                coordinator=True,
            ),
            [BOUNDED, BOUNDED, NOTHING, BOUNDED, BOUNDED],
        ),
    ],
)
def test_section_5_replicated(build: Build, expected: list[LossExtent]) -> None:
    assert losses(build) == expected


def test_g03_bounds_stand_per_log_and_over_the_partitions() -> None:
    build = attrs.evolve(
        FILE, flush=BOUNDS, topics=(TopicBuild(name="a", partitions=4), TopicBuild(name="b", partitions=2))
    )
    row = promise_tables(build)[0].promise(Fault.POWER_CUT)
    assert row.per_log == Bound(messages=1000, bytes=10**6, span_ms=200)
    assert row.total == Bound(messages=6000, bytes=6 * 10**6, span_ms=200)
    assert (
        row.text
        == "at most 1 000 messages, 1 MB, acknowledged within 200 ms, per partition; 6 000 messages, 6 MB in all"
    )
    capped = promise_tables(attrs.evolve(build, total_bytes_max=2 * 10**6))[0].promise(Fault.POWER_CUT)
    assert capped.total == Bound(messages=6000, bytes=2 * 10**6, span_ms=200)


def test_g03_a_bound_left_out_is_called_unbounded() -> None:
    row = promise_table(attrs.evolve(FILE, flush=AsyncFlush(max_interval_ms=5))).promise(Fault.POWER_CUT)
    assert row.text == "at most acknowledged within 5 ms (messages and bytes unbounded)"


def test_topics_of_one_policy_share_a_table_and_weaker_sends_have_their_own() -> None:
    build = attrs.evolve(
        FILE,
        topics=(
            TopicBuild(name="a"),
            TopicBuild(name="b", flush=BOUNDS),
            TopicBuild(name="c", partitions=3),
            TopicBuild(name="d", weakest_send=NoFlush()),
        ),
    )
    tables = [(table.topics, table.flush, table.partitions, table.weaker_sends) for table in promise_tables(build)]
    assert tables == [
        (("a", "c", "d"), SyncFlush(), 5, False),
        (("b",), BOUNDS, 1, False),
        (("d",), NoFlush(), 1, True),
    ]


def test_default_flush_is_sync_where_a_flush_reaches_disk_else_none_and_is_said() -> None:
    for level in Level:
        policy, sentence = resolve_flush(None, level)
        assert policy == (SyncFlush() if level >= Level.DISK else NoFlush())
        assert "by default" in sentence
        assert level.label in sentence
    assert resolve_flush(BOUNDS, Level.DISK)[0] is BOUNDS


def test_g14_a_receipts_level_is_what_was_reached_and_the_stronger_policy_applies() -> None:
    disk = SyncReplication(level=Level.DISK)
    assert level_for(SyncFlush(), Level.PAGE_CACHE, Level.DISK) is Level.DISK
    assert level_for(BOUNDS, Level.PAGE_CACHE, Level.DISK) is Level.PAGE_CACHE
    assert level_for(NoFlush(), Level.MEMORY, Level.MEMORY) is Level.MEMORY
    assert level_for(BOUNDS, Level.PAGE_CACHE, Level.DISK, disk) is Level.DISK
    assert level_for(SyncFlush(), Level.PAGE_CACHE, Level.DISK, SyncReplication()) is Level.DISK


levels = st.sampled_from([level for level in Level if level is not Level.NONE])
flushes = st.sampled_from([SyncFlush(), NoFlush(), BOUNDS, AsyncFlush(max_bytes=7)])
replications = st.one_of(
    st.just(NoReplication()),
    st.builds(AsyncReplication, on_exceeded=st.sampled_from(["report", "throttle"])),
    st.builds(SyncReplication, copies=st.integers(2, 4), level=levels),
)


@st.composite
def builds(draw: st.DrawFn) -> Build:
    append, flush = sorted((draw(levels), draw(levels)))
    replication = draw(replications)
    least = Build(storage="x://", append_level=append, flush_level=flush, replication=replication).node_count
    return Build(
        storage="x://",
        append_level=append,
        flush_level=flush,
        flush=draw(flushes),
        replication=replication,
        nodes=least + draw(st.integers(0, 2)) if not isinstance(replication, NoReplication) else None,
        failover=draw(st.sampled_from(["manual", "automatic"])),
        coordinator=True,
    )


quick = settings(deadline=None, max_examples=150)


@quick
@given(builds())
def test_nothing_lost_is_exactly_what_the_oracle_demands_of_a_single_batch(build: Build) -> None:
    sent = Sent(outcome=SendOutcome.ACKNOWLEDGED, receipt=weakest_receipt(build, build.flush_policy))
    for row in promise_table(build).promises:
        kept = all(must_survive(sent, events) for events in placements(build, row.fault))
        assert (row.loss is LossExtent.NOTHING) is kept
        assert row.reason
        assert row.text


@quick
@given(builds())
def test_a_stronger_flush_policy_never_promises_less(build: Build) -> None:
    order = list(LossExtent)
    ranked = [
        [order.index(row.loss) for row in promise_table(attrs.evolve(build, flush=flush)).promises]
        for flush in (SyncFlush(), BOUNDS, NoFlush())
    ]
    if build.append_level is Level.MEMORY and build.flush_level > Level.MEMORY:
        return  # what memory keeps when a disk is lost, a flush to that disk does not keep better
    for stronger, weaker in itertools.pairwise(ranked):
        assert all(left <= right for left, right in zip(stronger, weaker, strict=True))


@quick
@given(builds())
def test_an_explanation_is_plain_values_and_lines_of_bounded_width(build: Build) -> None:
    explanation = explain(build)
    read_back = json.loads(json.dumps(explanation.as_json()))
    assert read_back["starts"] is explanation.starts
    for table in read_back["tables"]:
        assert [row["fault"] for row in table["promises"]] == [fault.label for fault in Fault]
    for width in (60, 100):
        assert all(len(line) <= width for line in explanation.lines(width))


def test_the_printed_table_keeps_its_rows_and_says_what_is_assumed() -> None:
    lines = explain(attrs.evolve(FILE, flush=BOUNDS)).lines()
    text = "\n".join(lines)
    for fault in Fault:
        assert any(line.startswith(fault.label) for line in lines)
    assert "a successful flush is on stable media" in text
    assert "nothing lost" in text
    assert "refused" not in text
