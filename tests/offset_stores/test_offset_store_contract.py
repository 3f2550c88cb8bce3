"""The suite's contract checks on the offset stores that need no server, and on ones that lie: they are found out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from mqcore.abc import CommitStamp, Cursor, CursorKey, GroupCursors, OffsetStore
from mqcore.registry import register, unregister
from mqcore_conformance.contract import CHECKS, check_part, checks_of
from mqcore_conformance.verdicts import Status
from mqcore_file_offsets import FileOffsetStore

OF_A_SERVER = "mqcore_conformance.contract._offset_store_servers"
ALONE = [one.name for one in checks_of("offset_store") if one.function.__module__ != OF_A_SERVER]


@pytest.mark.parametrize("part", ["file", "sqlite"])
@pytest.mark.parametrize("name", ALONE)
def test_the_offset_store_check_passes(part: str, name: str) -> None:
    result = check_part(CHECKS[name], part)
    assert result.status is Status.PASS, result.text


def test_without_a_server_of_its_own_the_other_checks_are_not_claimed() -> None:
    result = check_part(CHECKS["what_a_killed_store_answered_is_there"], "file")
    assert result.status is Status.NOT_CLAIMED


class Unfenced(FileOffsetStore):
    """Takes the commits of any generation, one after the other."""

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        last = (await self.load(group)).stamp
        await super().commit(group, max(stamp, CommitStamp(last.generation, last.number + 1)), cursors)


class Halving(FileOffsetStore):
    """Commits in two steps."""

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        half = len(cursors) // 2
        if half and stamp > (await self.load(group)).stamp:
            between = CommitStamp(stamp.generation, stamp.number - 1)
            if between > (await self.load(group)).stamp:
                await super().commit(group, between, dict(list(cursors.items())[:half]))
        await super().commit(group, stamp, dict(list(cursors.items())[half:]))


class Forgetting(FileOffsetStore):
    """Loads no partition beyond those that it thinks there are."""

    async def load(self, group: str) -> GroupCursors:
        found = await super().load(group)
        return GroupCursors(found.stamp, {key: each for key, each in found.cursors.items() if key.partition < 2**40})


class Late(FileOffsetStore):
    """Answers a commit before it is done, and does it with the next call."""

    waiting: tuple[str, CommitStamp, Mapping[CursorKey, Cursor]] | None = None

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        self.check_commit(group, cursors)
        waiting, self.waiting = self.waiting, (group, stamp, cursors)
        if waiting is not None:
            await super().commit(*waiting)


class Keeping(FileOffsetStore):
    """Says that a topic is deleted, and keeps it."""

    async def delete(self, group: str, stamp: CommitStamp, topic: str | None = None) -> None:
        if topic is None:
            await super().delete(group, stamp)
        else:
            await super().commit(group, stamp, {})


class Repeating(FileOffsetStore):
    """Does a commit with the stamp of the last one again, with what it brings."""

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        found = await self.load(group)
        if stamp == found.stamp and stamp > CommitStamp():
            await super().delete(group, CommitStamp(stamp.generation, stamp.number + 1))
            await super().commit(group, stamp, {**found.cursors, **cursors})
        else:
            await super().commit(group, stamp, cursors)


class Listing(FileOffsetStore):
    """Leaves the last group out of the list."""

    async def groups(self) -> Sequence[str]:
        return (await super().groups())[:-1]


LIARS: dict[type[OffsetStore], str] = {
    Unfenced: "an_earlier_stamp_is_fenced",
    Halving: "each_commit_is_seen_whole_and_at_once",
    Forgetting: "cursors_come_back_as_they_were_committed",
    Late: "an_earlier_stamp_is_fenced",
    Keeping: "what_is_deleted_is_gone",
    Repeating: "a_commit_that_is_repeated_is_done_once",
    Listing: "groups_are_those_that_were_committed",
}


@pytest.fixture(params=LIARS, ids=lambda liar: liar.__name__)
def liar(request: pytest.FixtureRequest) -> Iterator[type[OffsetStore]]:
    register("offset_stores", "liar", request.param)
    yield request.param
    unregister("offset_stores", "liar")


def test_an_offset_store_that_lies_is_found_out(liar: type[OffsetStore]) -> None:
    result = check_part(CHECKS[LIARS[liar]], "liar://{dir}")
    assert result.status is Status.FAIL, f"{liar.__name__} passes"
    assert "hangs" not in result.text
