"""Contract checks of an offset store whose server the suite may harm: frozen, killed, gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from mqcore.abc import CommitStamp, Cursor, CursorKey, GroupCursors, OffsetStore
from mqcore.errors import OffsetStoreError, OffsetStoreOutcomeUnknownError, OffsetStoreUnavailableError
from mqcore_conformance.contract._checks import check, expect
from mqcore_conformance.contract._offset_store_harness import OffsetPlace, OffsetStoreHarness, cursors_at
from mqcore_conformance.contract._standstill import Standstill

SHORT_MS = 1_000
SECONDS_MAX = 90.0
_SLACK_S = 10.0
"""What a call may take beyond its limit on a machine under load."""


@check("offset_store", "G13", seconds_max=SECONDS_MAX)
async def a_frozen_store_is_told_in_time_and_blocks_nothing(harness: OffsetStoreHarness) -> None:
    """While its server stands still, every call ends within its limit with its error, and other tasks go on."""
    async with harness.place() as place:
        client, other = place.client(SHORT_MS), place.client()
        await place.commit(client, 1, 1)
        await place.server("freeze")
        calls: list[tuple[str, Callable[[], Awaitable[object]], tuple[type[OffsetStoreError], ...]]] = [
            ("load", lambda: client.load(place.group), (OffsetStoreUnavailableError,)),
            ("groups", client.groups, (OffsetStoreUnavailableError,)),
            (
                "commit",
                lambda: place.commit(client, 2, 2),
                (OffsetStoreOutcomeUnknownError, OffsetStoreUnavailableError),
            ),
        ]
        try:
            for name, call, wanted in calls:
                await _expect_in_time(name, call, wanted)
        finally:
            await place.server("thaw")
        await _until_answered(lambda: place.commit(other, 3, 3))
        await _until_answered(lambda: place.commit(client, 4, 4))
        found = await other.load(place.group)
        expect(found == GroupCursors(CommitStamp(1, 4), cursors_at(4)), f"after it goes on: {found}")


async def _expect_in_time(
    name: str, call: Callable[[], Awaitable[object]], wanted: tuple[type[OffsetStoreError], ...]
) -> None:
    standstill = Standstill()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(standstill.watch)
        with trio.move_on_after(SHORT_MS / 1000 + _SLACK_S) as limit:
            try:
                await call()
            except wanted:
                pass
            else:
                expect(False, f"{name} of a frozen store is answered")
        nursery.cancel_scope.cancel()
    expect(not limit.cancelled_caught, f"{name} of a frozen store goes on beyond its limit of {SHORT_MS} ms")
    blocked_s = standstill.longest_s
    expect(blocked_s < SHORT_MS / 1000, f"{name} of a frozen store blocked other tasks for {blocked_s:.1f} s")


async def _until_answered(call: Callable[[], Awaitable[None]]) -> None:
    """Call until it succeeds: a server that was just started or thawed may need a while. The check has a limit."""
    while True:
        try:
            return await call()
        except (OffsetStoreUnavailableError, OffsetStoreOutcomeUnknownError):
            await trio.sleep(0.05)


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def a_late_commit_is_not_applied_after_a_later_one(harness: OffsetStoreHarness) -> None:
    """What a caller gave up on while the server stood still never takes back what was committed after it."""
    async with harness.place() as place:
        client, other = place.client(SHORT_MS), place.client()
        await place.commit(other, 1, 1)
        for number in range(2, 12, 3):
            await place.server("freeze")
            try:
                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(_give_up_on, place, client, number)
            finally:
                await place.server("thaw")
            await _until_answered(partial(place.commit, other, number + 1, number + 1))
            found = await other.load(place.group)
            for _ in range(20):
                found = await other.load(place.group)
                expect(found.stamp >= CommitStamp(1, number + 1), f"a late commit took the group back to {found.stamp}")
            expect(found.cursors == cursors_at(number + 1), f"a late commit left {found.cursors}")


async def _give_up_on(place: OffsetPlace, client: OffsetStore, number: int) -> None:
    try:
        await place.commit(client, number, number)
    except (OffsetStoreUnavailableError, OffsetStoreOutcomeUnknownError):
        return


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def what_a_killed_store_answered_is_there(harness: OffsetStoreHarness) -> None:
    """After its server was killed among commits and started again, all that was answered is there."""
    async with harness.place() as place:
        groups = [f"{place.group}/{number}" for number in range(4)]
        answered: dict[str, int] = {}
        enough = trio.Event()

        async def commit_on(group: str) -> None:
            client = place.client(SHORT_MS)
            number = 0
            while True:
                number += 1
                try:
                    await client.commit(group, CommitStamp(1, number), {CursorKey("t", 0): Cursor(number, 1)})
                except OffsetStoreError:
                    if enough.is_set():
                        return
                    await trio.sleep(0.05)  # slow, on a busy machine, and not yet killed
                    continue
                answered[group] = number
                if len(answered) == len(groups) and min(answered.values()) >= 3:
                    enough.set()

        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(commit_on, group)
            await enough.wait()
            await place.server("kill")
        await place.server("restart")
        client = place.client()
        for group in groups:
            await _until_answered(partial(_has, client, group, answered[group]))


async def _has(client: OffsetStore, group: str, number: int) -> None:
    found = await client.load(group)
    expect(found.stamp.number >= number, f"{group}: commit {number} was answered, and {found.stamp} is there")
    expect(
        found.cursors == {CursorKey("t", 0): Cursor(found.stamp.number, 1)}, f"{group}: {found} does not fit together"
    )


@check("offset_store", "G13", seconds_max=SECONDS_MAX)
async def a_store_that_is_gone_is_said_to_be_unavailable(harness: OffsetStoreHarness) -> None:
    """With no server there, every call says in one line that nothing was done; it goes on when the server is back."""
    async with harness.place() as place:
        client = place.client(SHORT_MS)
        await place.server("kill")
        for call in (lambda: client.load(place.group), client.groups, lambda: place.commit(client, 1, 1)):
            try:
                await call()
            except OffsetStoreUnavailableError as error:
                expect("\n" not in str(error), f"the refusal has several lines: {error}")
            else:
                expect(False, "a call without a server is answered")
        await place.server("restart")
        await _until_answered(lambda: place.commit(client, 1, 1))
