"""A set without a coordinator keeps its record in the metadata log: a snapshot never says an older one (R13, R16)."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio
from alone import alone
from trio.testing import wait_all_tasks_blocked

from mqcore.broker._topics import Topics
from mqcore.limits import Limits
from mqcore.log import IncomingBatch, MetadataLog
from mqcore.log._metadata import take_records
from mqcore.replication import Member, SetRecord
from mqcore.testing import run_simulation

NODE = b"n" * 16
FIRST = SetRecord(
    set_id=b"s" * 16, epoch=1, reign_id=b"r" * 16, primary=NODE, members=[Member(NODE, 1)], names={NODE: "a"}
)
SECOND = attrs.evolve(FIRST, copies_min=2)


class Commits:
    """The commit of a metadata log whose batches get their turn, and are committed, when the test says so."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[Callable[[], IncomingBatch], Callable[[], None], trio.Event]] = deque()
        self.appended: list[IncomingBatch] = []
        self.committed = trio.Event()

    async def __call__(self, make: Callable[[], IncomingBatch], appended: Callable[[], None]) -> int:
        turn = trio.Event()
        self.waiting.append((make, appended, turn))
        await turn.wait()
        await self.committed.wait()
        return 0

    def append_next(self) -> None:
        make, appended, turn = self.waiting.popleft()
        self.appended.append(make())
        appended()
        turn.set()

    def last_said(self) -> str:
        """The record of the set that a replay of all that was appended ends with."""
        records: list[dict[str, str]] = []
        for batch in self.appended:
            take_records(batch.data, records, "metadata")
        return [each["record"] for each in records if each["type"] == "set-record"][-1]


@pytest.mark.parametrize("order", ["record-first", "snapshot-first"])
def test_r16_a_record_that_is_being_written_beside_a_snapshot_is_the_one_that_stands(order: str) -> None:
    async def main() -> None:
        async with alone() as setup, trio.open_nursery() as nursery:
            commits = Commits()
            metadata = MetadataLog(setup.store, commits)
            topics = Topics(metadata, Limits(), setup.ports, setup.notices.append, is_copied=True)
            nursery.start_soon(topics.write_set_record, FIRST)
            await wait_all_tasks_blocked()
            commits.append_next()
            writes: list[Callable[[], Awaitable[None]]] = [
                lambda: topics.write_set_record(SECOND),
                topics.write_snapshot,
            ]
            for write in writes if order == "record-first" else reversed(writes):
                nursery.start_soon(write)
                await wait_all_tasks_blocked()
            commits.append_next()
            commits.append_next()
            assert commits.last_said() == SECOND.pack().decode()
            commits.committed.set()

    run_simulation(main, seed=1)
