"""The journal in use, alone: what it covers, when it is full, and the checkpoint that sets it free."""

from __future__ import annotations

import errno

import pytest
from mmap_parts import Parts, open_parts

from mqcore.errors import StorageError
from mqcore_mmap._journal import Range
from mqcore_mmap._segment import Segment


def journaled(parts: Parts, name: str, data: bytes) -> Segment:
    """A segment whose bytes only the journal has made durable."""
    segment = parts.segment(name, 0, data)
    parts.journal.fill(4096)
    parts.journal.cover([(segment, len(data))])
    parts.journal.append([Range(segment.place, 0, len(data), [data])])
    return segment


def test_a_covered_segment_is_live_until_its_checkpoint_has_flushed_and_named_it() -> None:
    parts = open_parts()
    segment = journaled(parts, "a", b"kept")
    assert parts.journal.is_live(segment)
    assert not parts.journal.is_empty
    checkpoint = parts.journal.switch()
    assert parts.journal.is_empty
    assert parts.journal.is_live(segment), "until the checkpoint has ended"
    parts.journal.run(checkpoint)
    assert not parts.journal.is_live(segment)
    parts.disk.power_cut()
    assert not segment.is_unnamed
    assert parts.header(segment).mark == 4
    assert parts.disk.content(segment.path)[4096:4100] == b"kept"


def test_a_power_cut_before_the_checkpoint_is_made_good_by_the_journal() -> None:
    parts = open_parts()
    journaled(parts, "a", b"kept")
    parts.disk.power_cut()
    disk = parts.disk.restart()
    open_parts(disk)
    (name,) = disk.list("/s/segments")
    assert name.startswith("a@")
    assert disk.content(f"/s/segments/{name}")[4096:4100] == b"kept"


def test_a_checkpoint_without_a_descriptor_is_run_again_and_breaks_nothing() -> None:
    parts = open_parts()
    segment = journaled(parts, "a", b"kept")
    parts.handles.close(segment)
    checkpoint = parts.journal.switch()
    parts.disk.fail_next("open", error=errno.EMFILE)
    parts.journal.run(checkpoint)
    assert (checkpoint.is_short, parts.journal.broken, parts.journal.is_live(segment)) == (True, None, True)
    parts.journal.run(checkpoint)
    assert (checkpoint.is_short, parts.journal.is_live(segment)) == (False, False)


def test_g11_a_failed_flush_of_the_journal_breaks_it_for_good() -> None:
    parts = open_parts()
    parts.disk.fail_next("flush", path="*journal*", error=errno.EIO)
    with pytest.raises(OSError, match="error"):
        journaled(parts, "a", b"lost")
    with pytest.raises(StorageError, match="a flush of the journal failed"):
        journaled(parts, "b", b"lost")


@pytest.mark.parametrize("name", ["journal-0", "journal-1"])
def test_a_journal_that_was_removed_is_noticed(name: str) -> None:
    parts = open_parts()
    parts.journal.check_in_place()
    parts.disk.unlink(f"/s/{name}")
    with pytest.raises(StorageError, match=f"{name} was removed"):
        parts.journal.check_in_place()
