"""What a degraded mirror still acknowledges: what the operator said, else what the build promises (decision 0020)."""

from __future__ import annotations

import pytest

from mqcore.guarantees import Build, Fault, Level, SyncReplication, least_level
from mqcore.guarantees.policies import AsyncReplication, NoReplication

SYNC = SyncReplication(copies=2, level=Level.DISK)
ASYNC = AsyncReplication(max_delay_ms=100, on_exceeded="throttle")


def build(said=None, *, survive=(), replication=None, reached=Level.MIRROR) -> Build:
    return Build(
        storage="raid:///d1,/d2",
        append_level=Level.PAGE_CACHE,
        flush_level=reached,
        survive=survive,
        on_degraded=said,
        replication=replication or NoReplication(),
    )


@pytest.mark.parametrize(
    ("said", "survive", "replication", "least"),
    [
        (None, (), NoReplication(), Level.NONE),
        (None, (Fault.DISK_LOSS,), NoReplication(), Level.MIRROR),
        (None, (Fault.DISK_LOSS,), ASYNC, Level.MIRROR),
        (None, (Fault.DISK_LOSS,), SYNC, Level.NONE),
        (None, (Fault.POWER_CUT,), NoReplication(), Level.NONE),
        ("continue", (Fault.DISK_LOSS,), NoReplication(), Level.NONE),
        ("continue", (), SYNC, Level.NONE),
        ("read-only", (), NoReplication(), Level.MIRROR),
        ("read-only", (Fault.DISK_LOSS,), SYNC, Level.MIRROR),
        ("require-sync-replication", (), NoReplication(), Level.MIRROR),
        ("require-sync-replication", (), ASYNC, Level.MIRROR),
        ("require-sync-replication", (Fault.DISK_LOSS,), SYNC, Level.NONE),
    ],
)
def test_what_was_said_decides_and_else_the_promise(said, survive, replication, least):
    assert least_level(build(said, survive=survive), replication) is least
    assert least_level(build(said, survive=survive, replication=replication)) is least


def test_a_topic_of_its_own_policy_counts_by_that():
    assert least_level(build("require-sync-replication", replication=SYNC), NoReplication()) is Level.MIRROR


def test_stripes_without_copies_are_whole_at_what_they_reach():
    assert least_level(build("read-only", reached=Level.DISK)) is Level.DISK
