"""Cursors of groups in an offset store: shared out by set, fenced by reign, written again until the store answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from mqcore.abc import CommitStamp, Cursor, CursorKey, Notice, OffsetStore, OffsetStoreContext
from mqcore.broker._cursor_store import StoredCursors
from mqcore.errors import (
    MqcoreError,
    OffsetStoreError,
    OffsetStoreFencedError,
    OffsetStoreForeignError,
    OffsetStoreOutcomeUnknownError,
    OffsetStoreUnavailableError,
)
from mqcore.groups import CursorTable, pack_cursors, pack_place
from mqcore.ports import system_ports
from mqcore.registry import create_offset_store

LINES, JOBS = bytes([1]) * 16, bytes([2]) * 16
TOPICS = {LINES: "lines", JOBS: "jobs"}


class Failing:
    """A store whose next calls of a verb do what ``plan`` says, before or after they reach the real one."""

    def __init__(self, store: OffsetStore) -> None:
        self._store = store
        self.plan: list[tuple[str, str, Exception]] = []
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name not in ("load", "commit", "delete", "groups"):
            return real

        async def call(*arguments: Any) -> Any:
            self.calls.append(name)
            found = next((each for each in self.plan if each[0] == name), None)
            if found is not None:
                self.plan.remove(found)
                if found[1] == "after":
                    await real(*arguments)
                raise found[2]
            return await real(*arguments)

        return call


class Reign:
    """One reign's cursors in the store below ``folder``."""

    def __init__(self, folder: Path, generation: int = 1, set_id: bytes = bytes(16)) -> None:
        context = OffsetStoreContext(ports=system_ports(), call_timeout_ms=30_000)
        self.store = Failing(create_offset_store(f"file://{folder}", context))
        self.table = CursorTable(1_000)
        self.notices: list[Notice] = []
        self.topics = dict(TOPICS)
        self.cursors = StoredCursors(
            self.store,  # type: ignore[arg-type]
            self.table,
            set_id=set_id,
            reign=(generation, bytes([generation]) * 16),
            topic_name=lambda topic_id: self.topics.get(topic_id),
            report=self.notices.append,
        )

    async def put(self, group: str, offsets: dict[int, int] | None, topic: bytes = LINES) -> None:
        """Put cursors, or end the group in the topic; return when it is done. Raises what it ends with."""
        done = trio.Event()
        errors: list[MqcoreError] = []

        def answered(error: MqcoreError | None) -> None:
            errors.extend([error] if error else [])
            done.set()

        entries = None if offsets is None else [(partition, offset, 7) for partition, offset in offsets.items()]
        self.cursors.write(group, topic, entries, answered)
        await done.wait()
        if errors:
            raise errors[0]

    @property
    def known(self) -> dict[str, dict[int, int]]:
        """Offsets by group and topic, as the table has them."""
        return {
            f"{group} {self.topics.get(topic, '?')}": {partition: offset for partition, offset, _ in each.items()}
            for (group, topic), each in self.table.topics.items()
        }


def reigning(
    main: Callable[[Reign], Awaitable[None]], folder: Path, known: CursorTable | None = None, **options: Any
) -> Reign:
    """Load, run ``main`` beside the writer, and end as a reign that is left."""
    folder.mkdir(exist_ok=True)
    reign = Reign(folder, **options)

    async def run() -> None:
        with trio.fail_after(60):
            if known is not None:
                reign.table.apply(b"".join(known.records()), "log")
                await reign.cursors.take_over()
                reign.table.apply(pack_place(is_elsewhere=True), "log")
            await reign.cursors.load()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reign.cursors.run)
                await main(reign)
                nursery.cancel_scope.cancel()
            await reign.store.aclose()

    trio.run(run)
    return reign


async def nothing(reign: Reign) -> None:
    """Only load."""


def test_the_next_reign_reads_what_was_put(tmp_path: Path) -> None:
    async def first(reign: Reign) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reign.put, "g1", {0: 5, 3: 9})
            nursery.start_soon(reign.put, "g1", {0: 8}, JOBS)
            nursery.start_soon(reign.put, "g2", {1: 2})
        await reign.put("g1", {0: 6})
        assert reign.known == {"g1 lines": {0: 6, 3: 9}, "g1 jobs": {0: 8}, "g2 lines": {1: 2}}

    reigning(first, tmp_path / "o")
    second = reigning(nothing, tmp_path / "o", generation=2)
    assert second.known == {"g1 lines": {0: 6, 3: 9}, "g1 jobs": {0: 8}, "g2 lines": {1: 2}}
    assert second.table.topics["g1", LINES].get(3) == (9, 7)


def test_brokers_of_two_sets_share_a_store_and_nothing_in_it(tmp_path: Path) -> None:
    reigning(lambda reign: reign.put("g1", {0: 5}), tmp_path / "o", generation=9)
    other = reigning(lambda reign: reign.put("g1", {0: 1}), tmp_path / "o", set_id=bytes([3]) * 16)
    assert other.known == {"g1 lines": {0: 1}}
    assert reigning(nothing, tmp_path / "o", generation=10).known == {"g1 lines": {0: 5}}


def test_a_reign_that_was_replaced_writes_nothing(tmp_path: Path) -> None:
    async def old(reign: Reign) -> None:
        await reign.put("g1", {0: 5})
        later = Reign(tmp_path / "o", generation=2)
        await later.cursors.load()
        assert later.known == {"g1 lines": {0: 5}}
        with pytest.raises(OffsetStoreFencedError, match="a later reign has the cursors"):
            await reign.put("g1", {0: 6})
        with pytest.raises(OffsetStoreFencedError):
            await reign.put("g2", {0: 1})  # nothing of it is believed any more
        await later.store.aclose()
        assert [notice.kind for notice in reign.notices] == ["cursors-not-kept"]
        assert reign.known == {"g1 lines": {0: 5}}

    reigning(old, tmp_path / "o")
    assert reigning(nothing, tmp_path / "o", generation=3).known == {"g1 lines": {0: 5}}


@pytest.mark.parametrize("error", [OffsetStoreUnavailableError, OffsetStoreOutcomeUnknownError])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_without_an_answer_is_sent_again_and_done_once(
    tmp_path: Path, error: type[OffsetStoreError], when: str
) -> None:
    async def main(reign: Reign) -> None:
        reign.store.plan = [("commit", when, error("the server is away")) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reign.put, "g1", {0: 5})
            while not reign.cursors.is_down:  # noqa: ASYNC110 - a flag of the machine itself
                await trio.sleep(0.001)
            assert reign.known == {}  # not acknowledged before it is there
        assert reign.known == {"g1 lines": {0: 5}}
        found = await reign.store.load("g1/" + bytes(16).hex())
        assert found.stamp == CommitStamp(1, 1)

    reign = reigning(main, tmp_path / "o")
    assert [notice.kind for notice in reign.notices] == ["offset-store-down", "offset-store-answers"]


def test_a_store_that_is_down_at_the_start_is_waited_for(tmp_path: Path) -> None:
    reigning(lambda reign: reign.put("g1", {0: 5}), tmp_path / "o")
    reign = Reign(tmp_path / "o", generation=2)
    away = OffsetStoreUnavailableError("away")
    reign.store.plan = [("groups", "before", away), ("commit", "before", away), ("load", "before", away)]

    async def main() -> None:
        await reign.cursors.load()
        await reign.store.aclose()

    trio.run(main)
    assert reign.known == {"g1 lines": {0: 5}}
    assert reign.cursors.failure is None


def test_a_store_that_answers_some_and_not_others_is_told_once(tmp_path: Path) -> None:
    """As one that is full, which takes no new rows: a line for each call that it answers would never end."""

    async def main(reign: Reign) -> None:
        commit = reign.store._store.commit
        failures = 0

        async def full_for_g1(group: str, *arguments: Any) -> None:
            nonlocal failures
            if group.startswith("g1/") and failures < 3:
                failures += 1
                raise OffsetStoreUnavailableError("it is full")
            await commit(group, *arguments)

        reign.store._store.commit = full_for_g1  # type: ignore[method-assign]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reign.put, "g1", {0: 5})
            while not reign.cursors.is_down:
                await trio.lowlevel.checkpoint()
            for offset in range(5):
                await reign.put("g2", {0: offset})
            assert reign.cursors.is_down
        assert not reign.cursors.is_down

    reign = reigning(main, tmp_path / "o")
    assert [notice.kind for notice in reign.notices] == ["offset-store-down", "offset-store-answers"]


def test_what_is_not_ours_in_the_store_stops_groups_and_says_so(tmp_path: Path) -> None:
    async def foreign(reign: Reign) -> None:
        reign.store.plan = [("commit", "before", OffsetStoreForeignError("it is another program's"))]
        with pytest.raises(OffsetStoreForeignError):
            await reign.put("g1", {0: 5})

    reign = reigning(foreign, tmp_path / "o")
    assert [notice.kind for notice in reign.notices] == ["cursors-not-kept"]
    assert "another program's" in reign.notices[0].text


@pytest.mark.parametrize("partition", [1_000, 2**32 - 1, 2**32, 2**62])
def test_g20_a_partition_that_no_topic_can_have_stops_groups_and_not_the_broker(tmp_path: Path, partition: int) -> None:
    async def write(reign: Reign) -> None:
        await reign.put("g1", {0: 5})
        key = CursorKey(f"lines/{LINES.hex()}", partition)
        await reign.store.commit(f"g1/{bytes(16).hex()}", CommitStamp(1, 9), {key: Cursor(1, 1)})

    reigning(write, tmp_path / "o")
    reign = reigning(nothing, tmp_path / "o", generation=2)
    assert isinstance(reign.cursors.failure, OffsetStoreForeignError)
    assert f"a cursor of partition {partition} of 'lines/" in str(reign.cursors.failure)


def test_a_part_that_raises_what_it_may_not_ends_groups_and_not_the_broker(tmp_path: Path) -> None:
    async def main(reign: Reign) -> None:
        reign.store.plan = [("commit", "before", KeyError("oops"))]
        with pytest.raises(OffsetStoreError, match="it raised KeyError: 'oops'"):
            await reign.put("g1", {0: 5})

    reigning(main, tmp_path / "o")


def test_what_waits_while_the_reign_ends_is_told_once(tmp_path: Path) -> None:
    async def main(reign: Reign) -> None:
        told: list[MqcoreError | None] = []
        reign.store.plan = [("commit", "before", OffsetStoreUnavailableError("away"))]
        for number in range(3):
            reign.cursors.write("g1", LINES, [(number, 1, 1)], told.append)
        while not reign.cursors.is_down:  # noqa: ASYNC110 - a flag of the machine itself
            await trio.sleep(0.001)
        over = MqcoreError("the reign is over")
        reign.cursors.close(over)
        while reign.cursors.is_down:  # noqa: ASYNC110 - a flag of the machine itself
            await trio.sleep(0.001)
        await trio.testing.wait_all_tasks_blocked()
        assert told == [over] * 3

    reigning(main, tmp_path / "o")


def test_what_a_log_had_replaces_what_the_store_has_of_the_set(tmp_path: Path) -> None:
    async def before(reign: Reign) -> None:
        await reign.put("g1", {0: 5})
        await reign.put("g1", {0: 5}, JOBS)
        await reign.put("gone", {0: 5})

    reigning(before, tmp_path / "o")
    reigning(lambda reign: reign.put("g1", {0: 1}), tmp_path / "o", set_id=bytes([3]) * 16)
    log = CursorTable(1_000)
    log.apply(pack_cursors("g1", LINES, [(0, 99, 1), (1, 98, 1)]), "log")
    log.apply(pack_cursors("g2", LINES, [(0, 7, 1)]), "log")
    log.apply(pack_cursors("g2", JOBS, [(0, 8, 1)]), "log")
    taken = {"g1 lines": {0: 99, 1: 98}, "g2 lines": {0: 7}, "g2 jobs": {0: 8}}
    assert reigning(nothing, tmp_path / "o", log, generation=2).known == taken
    assert reigning(nothing, tmp_path / "o", generation=3).known == taken
    assert reigning(nothing, tmp_path / "o", set_id=bytes([3]) * 16, generation=2).known == {"g1 lines": {0: 1}}


def test_cursors_of_topics_that_are_gone_and_groups_without_any_are_removed(tmp_path: Path) -> None:
    async def main(reign: Reign) -> None:
        await reign.put("g1", {0: 5})
        await reign.put("g1", {0: 5}, JOBS)
        await reign.put("g2", {0: 5}, JOBS)
        await reign.put("g3", {0: 5})
        await reign.put("g3", None)
        assert reign.known == {"g1 lines": {0: 5}, "g1 jobs": {0: 5}, "g2 jobs": {0: 5}}

    reigning(main, tmp_path / "o")
    reign = Reign(tmp_path / "o", generation=2)
    del reign.topics[JOBS]

    async def again() -> None:
        await reign.cursors.load()
        assert await reign.store.groups() == ["g1/" + bytes(16).hex()]
        await reign.store.aclose()

    trio.run(again)
    assert reign.known == {"g1 lines": {0: 5}}


def test_r13_what_a_deletion_that_may_be_taken_back_is_about_stays_in_the_store(tmp_path: Path) -> None:
    """A reign that has not committed the deletion of a topic may be followed by one that does not know of it."""

    async def first(reign: Reign) -> None:
        await reign.put("g1", {0: 5}, JOBS)
        await reign.put("g2", {0: 6}, JOBS)
        await reign.put("g2", {0: 7})

    def gone(generation: int, *, settled: bool) -> Reign:
        reign = Reign(tmp_path / "o", generation)
        del reign.topics[JOBS]
        reign.cursors._is_settled = lambda: settled
        trio.run(reign.cursors.load)
        return reign

    reigning(first, tmp_path / "o")
    assert gone(2, settled=False).known == {"g2 lines": {0: 7}}
    assert reigning(nothing, tmp_path / "o", generation=3).known == {
        "g1 jobs": {0: 5}, "g2 jobs": {0: 6}, "g2 lines": {0: 7},
    }  # fmt: skip
    gone(4, settled=True)
    assert reigning(nothing, tmp_path / "o", generation=5).known == {"g2 lines": {0: 7}}


def test_many_cursors_are_put_in_parts_that_the_store_takes(tmp_path: Path) -> None:
    async def main(reign: Reign) -> None:
        most = reign.store.capabilities.commit_cursors_max
        reign.table = reign.cursors._table = CursorTable(3 * most)
        await reign.put("g1", dict.fromkeys(range(2 * most + 1), 4))
        assert reign.store.calls.count("commit") == 3

    reigning(main, tmp_path / "o")
