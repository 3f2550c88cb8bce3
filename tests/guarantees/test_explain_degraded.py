"""``explain`` says what a mirror that has lost a member still acknowledges (decision 0020)."""

from __future__ import annotations

import pytest

from mqcore.guarantees import Build, Fault, Level, SyncReplication, TopicBuild, explain


def note_of(said, **keys) -> str:
    build = Build(
        storage="raid:///d1,/d2",
        append_level=Level.PAGE_CACHE,
        flush_level=Level.MIRROR,
        on_degraded=said,
        **{"survive": (Fault.DISK_LOSS,), **keys},
    )
    return explain(build).notes[0]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (None, ("is not said", "refused", "until it is whole again")),
        ("read-only", ("read-only", "refused")),
        ("continue", ("go on", "level disk", "does not survive")),
    ],
)
def test_each_way_is_told(said, words):
    assert all(word in note_of(said) for word in words)


def test_topics_of_two_kinds_are_told_apart():
    held = TopicBuild(name="held", replication=SyncReplication(copies=2, level=Level.DISK))
    note = note_of("require-sync-replication", topics=(held,), nodes=2)
    assert "sends under replication none are refused" in note
    assert "sends under replication sync(copies=2, level=disk, on_missing=block) go on" in note


def test_a_single_disk_has_no_such_note():
    build = Build(storage="mmap:///d", append_level=Level.PAGE_CACHE, flush_level=Level.DISK)
    assert explain(build).notes == ()
