"""What a replica takes in of the metadata log that it copies (R13)."""

from __future__ import annotations

import pytest
import trio
from alone import alone

from mqcore.broker._topics import Topics
from mqcore.config import TopicConfig
from mqcore.errors import StorageError
from mqcore.limits import Limits
from mqcore.log import MetadataLog
from mqcore.testing import run_simulation

TOPICS = 1_000


def test_g12_what_a_replica_does_not_understand_is_met_again_and_never_passed_over() -> None:
    """It would count as a member that has the log, and could never reign: a reign reads the log to its end."""

    async def main() -> None:
        async with alone() as setup:
            written = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append)
            await written.create("before", TopicConfig())
            copied = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append)
            await copied.take_committed(setup.store.metadata.end_offset)
            assert set(copied.by_name) == {"before"}
            await MetadataLog(setup.store).append([{"type": "of-a-later-release"}])
            await written.create("after", TopicConfig())
            for _ in range(3):
                with pytest.raises(StorageError, match="of-a-later-release") as caught:
                    await copied.take_committed(setup.store.metadata.end_offset)
                assert caught.value.kind == "foreign"
            assert set(copied.by_name) == {"before"}

    run_simulation(main, seed=1)


def test_r13_a_snapshot_is_taken_in_at_once_and_others_run_meanwhile() -> None:
    """What it says of thousands of topics takes a second of the processor, and a replica would have to be let go."""

    async def main() -> None:
        async with alone() as setup, trio.open_nursery() as nursery:
            written = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append, is_copied=True)
            await written.create("old", TopicConfig())
            copied = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append)
            await copied.take_committed(setup.store.metadata.end_offset)
            await written.delete("old")
            for number in range(TOPICS):
                await written.create(f"topic-{number}", TopicConfig())
            await written.write_snapshot()
            seen: list[set[str]] = []

            async def watch() -> None:
                while True:
                    seen.append(set(copied.by_name) | {each.name for each in copied.by_id.values()})
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(watch)
            await copied.take_committed(setup.store.metadata.end_offset)
            nursery.cancel_scope.cancel()
            assert set(copied.by_name) == set(written.by_name)
            assert copied.by_id == written.by_id
            assert len(copied.gone) == 1
            assert len(seen) > 2 * TOPICS // 100, "in turns: to read what it says, and to take it in"
            assert {frozenset(each) for each in seen} <= {frozenset({"old"}), frozenset(written.by_name)}

    run_simulation(main, seed=1)


def test_r13_a_snapshot_that_is_not_taken_in_to_its_end_changes_nothing() -> None:
    async def main() -> None:
        async with alone() as setup:
            written = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append, is_copied=True)
            await written.create("old", TopicConfig())
            copied = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append)
            await copied.take_committed(setup.store.metadata.end_offset)
            await written.delete("old")
            for number in range(TOPICS):
                await written.create(f"topic-{number}", TopicConfig())
            await written.write_snapshot()
            for turns in (1, 5, 20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(copied.take_committed, setup.store.metadata.end_offset)
                    for _ in range(turns):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
                assert (set(copied.by_name), len(copied.gone)) == ({"old"}, 0)
            await copied.take_committed(setup.store.metadata.end_offset)
            assert set(copied.by_name) == set(written.by_name)

    run_simulation(main, seed=1)
