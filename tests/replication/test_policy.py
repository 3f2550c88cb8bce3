"""What a topic's policy asks of a commit, and which policies of a send's own it takes."""

from __future__ import annotations

import pytest

from mqcore.guarantees import (
    AsyncFlush,
    AsyncReplication,
    FlushPolicy,
    Level,
    NoFlush,
    NoReplication,
    SyncFlush,
    SyncReplication,
)
from mqcore.protocol import Code, SendPolicy
from mqcore.replication import CommitPolicy

pytestmark = pytest.mark.quick

BOUNDS = AsyncFlush(max_messages=10)


@pytest.mark.parametrize(
    ("send", "topic", "weakest", "flush_level", "expected"),
    [
        (SendPolicy.TOPIC, SyncFlush(), None, Level.DISK, None),
        (SendPolicy.SYNC, BOUNDS, None, Level.DISK, None),
        (SendPolicy.ASYNC, BOUNDS, None, Level.DISK, None),
        (SendPolicy.ASYNC, SyncFlush(), BOUNDS, Level.DISK, None),
        (SendPolicy.NONE, SyncFlush(), NoFlush(), Level.DISK, None),
        (SendPolicy.NONE, BOUNDS, None, Level.DISK, Code.POLICY_TOO_WEAK),
        (SendPolicy.ASYNC, SyncFlush(), None, Level.DISK, Code.POLICY_TOO_WEAK),
        (SendPolicy.NONE, SyncFlush(), BOUNDS, Level.DISK, Code.POLICY_TOO_WEAK),
        (SendPolicy.SYNC, NoFlush(), None, Level.MEMORY, Code.POLICY_TOO_STRONG),
        (SendPolicy.ASYNC, NoFlush(), None, Level.DISK, Code.POLICY_TOO_STRONG),
        (SendPolicy.ASYNC, SyncFlush(), NoFlush(), Level.DISK, Code.POLICY_TOO_STRONG),
    ],
)
def test_g18_a_sends_own_policy_is_taken_as_it_is_or_refused_by_name(
    send: int, topic: FlushPolicy, weakest: FlushPolicy | None, flush_level: Level, expected: Code | None
) -> None:
    refusal = CommitPolicy(flush=topic, weakest_send=weakest).refusal(send, flush_level)
    assert (refusal and refusal[0]) == expected


@pytest.mark.parametrize(
    ("replication", "copies_min", "level"),
    [
        (NoReplication(), 1, Level.NONE),
        (AsyncReplication(on_exceeded="report"), 1, Level.NONE),
        (AsyncReplication(on_exceeded="throttle"), 2, Level.NONE),
        (SyncReplication(copies=3, level=Level.DISK), 3, Level.DISK),
    ],
)
def test_r8_what_a_replication_policy_asks_of_the_set(replication: object, copies_min: int, level: Level) -> None:
    policy = CommitPolicy(flush=SyncFlush(), replication=replication)  # type: ignore[arg-type]
    assert (policy.copies_min, policy.level) == (copies_min, level)
