"""What the real servers do to a client beyond the suite's contract checks: which error, how certain, and when."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from coordinator_parts import Place, put

from mqcore.abc import CellPair
from mqcore.errors import (
    CoordinatorConflictError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
    CoordinatorWentBackError,
)

pytestmark = pytest.mark.slow


def test_a_restart_of_the_server_costs_neither_the_next_read_nor_the_next_write_its_certainty(place: Place) -> None:
    async def main() -> None:
        client = place.client()
        pair = await client.write(place.name, CellPair(), record=put(b"0"))
        place.server.stop()
        with pytest.raises(
            CoordinatorUnreachableError, match=rf"{place.scheme}://.*{place.name}.*check the servers, and"
        ):
            await client.write(place.name, pair, record=put(b"1"))
        place.server.start()
        pair = await client.write(place.name, pair, record=put(b"2"))
        assert await client.read(place.name) == pair

    place.run(main)


def test_a_write_to_a_frozen_server_is_unknown_after_its_time_and_settled_by_the_next(place: Place) -> None:
    async def main() -> None:
        client = place.client(call_timeout_ms=300)
        pair = await client.write(place.name, CellPair(), record=put(b"0"))
        place.server.freeze()
        try:
            with trio.fail_after(20), pytest.raises(CoordinatorOutcomeUnknownError, match="no answer in time"):
                await client.write(place.name, pair, record=put(b"1"))
        finally:
            place.server.thaw()
        later = place.client()
        try:
            await later.write(place.name, pair, record=put(b"2"))
        except CoordinatorConflictError:
            assert (await later.read(place.name)).record.value == b"1"

    place.run(main)


def test_r14_a_server_put_back_to_an_old_copy_is_noticed_by_whom_it_answered_before(
    place: Place, tmp_path: Path
) -> None:
    async def main() -> None:
        client = place.client()
        old = await client.write(place.name, CellPair(), record=put(b"old"))
        place.server.stop()
        place.server.copy_data(tmp_path / "copy")
        place.server.start()
        new = await client.write(place.name, old, record=put(b"new"))
        assert await client.read(place.name) == new
        place.server.stop()
        place.server.restore_data(tmp_path / "copy")
        place.server.start()
        with pytest.raises(CoordinatorWentBackError, match="cluster recover"):
            await client.read(place.name)
        with pytest.raises(CoordinatorConflictError):
            await place.client().write(place.name, new, record=put(b"newer"))
        assert await place.client().read(place.name) == old  # who has seen nothing newer cannot know

    place.run(main)


def test_closing_ends_a_write_under_way_as_unknown(place: Place) -> None:
    async def main() -> None:
        client = place.client()
        await client.read(place.name)
        place.server.freeze()
        try:
            async with trio.open_nursery() as nursery:

                async def write() -> None:
                    with pytest.raises(CoordinatorOutcomeUnknownError):
                        await client.write(place.name, CellPair(), record=put(b"1"))

                nursery.start_soon(write)
                await trio.testing.wait_all_tasks_blocked(0.05)
                await client.aclose()
                await client.aclose()
        finally:
            place.server.thaw()
        with pytest.raises(CoordinatorUnreachableError, match="closed"):
            await client.read(place.name)

    place.run(main)
