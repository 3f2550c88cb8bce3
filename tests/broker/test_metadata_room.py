"""What a set's metadata log has to say fits into the one batch that it is made short by, and holds nobody up (G20)."""

from __future__ import annotations

import pytest
import trio
from alone import alone

from mqcore.broker._metadata_room import START_BYTES, MetadataRoom
from mqcore.broker._topics import _GONE_MAX, Topics
from mqcore.config import TopicConfig
from mqcore.errors import RejectedError
from mqcore.limits import Limits
from mqcore.log import LogStart, MetadataLog, partition_log_name
from mqcore.protocol import Code
from mqcore.testing import run_simulation

MIB = 1024 * 1024


def test_room_is_there_up_to_the_limit_and_what_is_given_back_is_there_again() -> None:
    first, second = b"1" * 16, b"2" * 16
    taken = 100 + 1 + 3 * START_BYTES
    room = MetadataRoom(1024 + 2 * taken)
    room.take(first, 100, 3)
    assert not room.refusal(second, 100, 3)
    assert "limit batch_bytes_max" in room.refusal(second, 101, 3)
    room.take(second, 100, 3)
    assert room.refusal(second, 100, 4)
    assert not room.refusal(second, 99, 3), "what takes less is taken, however full it is"
    assert not room.refusal(second, 100, 3)
    room.give_back(first)
    assert not room.refusal(second, 100, 5)
    room.give_back(first)
    room.give_back(second)
    assert room.refusal(first, 1 << 20, 0)


@pytest.mark.parametrize("is_copied", [True, False])
def test_g20_whatever_topics_a_set_takes_are_made_short_in_one_batch_with_every_partition_trimmed(
    *, is_copied: bool
) -> None:
    async def main() -> None:
        async with alone() as setup:
            limits = Limits(batch_bytes_max=64 * 1024)
            metadata = MetadataLog(setup.store)
            topics = Topics(metadata, limits, setup.ports, setup.notices.append, is_copied=is_copied)
            refused: RejectedError | None = None
            while refused is None and len(topics.by_id) < 100:
                name = f"topic-{len(topics.by_id)}-".ljust(200, "x")
                try:
                    await topics.create(name, TopicConfig(partitions=7, retention_ms=1_000, dead_letter="d" * 200))
                except RejectedError as error:
                    refused = error
            if not is_copied:
                assert refused is None, "alone it has no bound of its own"
                return
            assert refused is not None
            assert refused.code == Code.LIMIT_REACHED
            assert len(topics.by_id) > 20
            begins = LogStart(10**12 - 1, 10**15 - 1, 10**6, b"r" * 16, 10**15 - 1, 10**12 - 1)
            names = [partition_log_name(each.id, index) for each in topics.by_id.values() for index in range(7)]
            await topics.write_starts(dict.fromkeys(names, begins))
            topics._forget(number.to_bytes(16, "big") for number in range(_GONE_MAX))
            await topics.write_snapshot()
            assert topics.snapshot is not None
            assert limits.batch_bytes_max - 4096 < topics.snapshot.size <= limits.batch_bytes_max
            again = Topics(MetadataLog(setup.store), limits, setup.ports, setup.notices.append, is_copied=True)
            await again.replay()
            assert again.by_id == topics.by_id
            assert again.starts == topics.starts
            assert again.gone
            assert list(again.gone) == list(topics.gone)[-len(again.gone) :], "the last that were deleted"
            await topics.delete(next(iter(topics.by_name)))
            await topics.create("another", TopicConfig(partitions=7))

    run_simulation(main, seed=1)


def test_g20_others_have_their_turn_while_a_large_snapshot_is_made() -> None:
    """Of ten thousand topics it takes half a second: a lease is renewed meanwhile, and messages are answered."""

    async def main() -> None:
        async with alone() as setup:
            topics = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append, is_copied=True)
            for number in range(10_000):
                topics.starts[partition_log_name(number.to_bytes(16, "big"), 0)] = LogStart(number, number)
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(others)
                end = setup.store.metadata.end_position
                with trio.CancelScope() as writing:
                    nursery.start_soon(topics.write_snapshot)
                    while setup.store.metadata.end_position == end:
                        await trio.lowlevel.checkpoint()
                assert not writing.cancelled_caught
                assert turns >= 10
                nursery.cancel_scope.cancel()
            await topics.write_snapshot()
            assert topics.snapshot is not None
            assert topics.snapshot.size > MIB // 2

    run_simulation(main, seed=1)


@pytest.mark.parametrize("is_short", [False, True])
def test_r13_a_topic_that_was_deleted_is_not_made_again_by_a_late_word_of_the_set_that_keeps_the_map(
    *, is_short: bool
) -> None:
    """Its logs are gone and noted as gone by then, and the metadata log may have been made short since."""

    async def main() -> None:
        async with alone() as setup:
            topics = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append, is_copied=True)
            topic = await topics.create("orders", TopicConfig())
            await topics.delete("orders")
            await topics.removed(topic.id)
            if is_short:
                await topics.write_snapshot()
                topics = Topics(MetadataLog(setup.store), Limits(), setup.ports, setup.notices.append, is_copied=True)
                await topics.replay()
            assert not await topics.place(topic)
            assert not topics.by_id

    run_simulation(main, seed=1)
