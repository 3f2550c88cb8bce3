"""Contract checks of one offset store: what comes back, in which order commits count, and that each is one."""

from __future__ import annotations

import trio

from mqcore.abc import (
    CURSOR_NAME_BYTES_MAX,
    CURSOR_NUMBER_MAX,
    CommitStamp,
    Cursor,
    CursorKey,
    GroupCursors,
    OffsetStore,
    OffsetStoreContext,
)
from mqcore.errors import ConfigurationError, OffsetStoreFencedError, OffsetStoreUnavailableError
from mqcore.registry import create_offset_store
from mqcore_conformance.contract._checks import check, expect, expect_unknown_option_refused, refused
from mqcore_conformance.contract._offset_store_harness import OffsetPlace, OffsetStoreHarness, cursors_at

SECONDS_MAX = 60.0
"""A check may have to start a server of its own first."""
NAMES = ("g", "G", "Größe / 7", "..", "a b", "日本", "%41", "x'; --", "a:b\\c", "n" * CURSOR_NAME_BYTES_MAX)
"""Names of groups and topics that a file, a database or a tree of nodes might take for something else."""


@check("offset_store", "G18")
def an_unknown_offset_store_option_is_refused_by_name(harness: OffsetStoreHarness) -> None:
    """An option that does not exist is refused, and the message names it."""
    context = OffsetStoreContext(ports=harness.ports)
    url = harness.url.replace("{dir}", str(harness.folder))
    expect_unknown_option_refused(url, harness.seed, lambda changed: create_offset_store(changed, context))


@check("offset_store", "G18", seconds_max=SECONDS_MAX)
async def what_an_offset_store_declares_is_what_is_claimed(harness: OffsetStoreHarness) -> None:
    """The capabilities are those of the claims file, and the same each time."""
    context = OffsetStoreContext(ports=harness.ports)
    url = harness.url.replace("{dir}", str(harness.folder))
    first, second = (create_offset_store(url, context).capabilities for _ in range(2))
    expect(first == second, f"it declares {first} and then {second}")
    differences = harness.claims.differences("offset_store", first) if harness.claims is not None else []
    expect(not differences, "; ".join(differences))


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def cursors_come_back_as_they_were_committed(harness: OffsetStoreHarness) -> None:
    """Groups and topics of any name, and numbers to the largest, come back; what a commit does not name stays."""
    async with harness.place() as place:
        client, other = place.client(), place.client()
        expect(await client.load(place.group) == GroupCursors(), "a group that was never written has something in it")
        wanted: dict[CursorKey, Cursor] = {}
        for number, topic in enumerate(NAMES, 1):
            part = {
                CursorKey(topic, 0): Cursor(number, 0),
                CursorKey(topic, CURSOR_NUMBER_MAX): Cursor(CURSOR_NUMBER_MAX, CURSOR_NUMBER_MAX),
                CursorKey("t", 255 + number % 2): Cursor(number, number),
            }
            wanted |= part
            stamp = CommitStamp(CURSOR_NUMBER_MAX - 1, number)
            await client.commit(place.group, stamp, part)
            found = await other.load(place.group)
            expect(
                found == GroupCursors(stamp, wanted), f"after a commit of topic {topic!a}, another client loads others"
            )
        tail = place.group[-16:]
        for name in NAMES[:-1]:
            await client.commit(f"{name}{tail}", CommitStamp(1, 1), {CursorKey("t", 0): Cursor(len(name), 1)})
        for name in NAMES[:-1]:
            found = await other.load(f"{name}{tail}")
            expect(
                dict(found.cursors) == {CursorKey("t", 0): Cursor(len(name), 1)}, f"group {name!a} has other cursors"
            )


@check("offset_store", "G18", seconds_max=SECONDS_MAX)
async def a_commit_that_it_cannot_keep_is_refused(harness: OffsetStoreHarness) -> None:
    """The largest commit that it declares is kept whole; one cursor more, or a name that is none, writes nothing."""
    async with harness.place() as place:
        client = place.client()
        most = client.capabilities.commit_cursors_max
        # Each in a topic of its own: a store that keeps a topic in one piece has as many pieces to write as can be.
        largest = {CursorKey(f"{number:05}".ljust(200, "x"), number): Cursor(number, 1) for number in range(most)}
        one_more = {**largest, CursorKey("t", 0): Cursor(0, 0)}
        with refused(f"a commit of {most + 1} cursors", ConfigurationError, names=str(most + 1)):
            await client.commit(place.group, CommitStamp(1, 1), one_more)
        for name in ("", "a\nb", "n" * (CURSOR_NAME_BYTES_MAX + 1)):
            with refused(f"a group called {name[:20]!a}", ConfigurationError, names="group name"):
                await client.commit(name, CommitStamp(1, 1), {})
            with refused(f"a topic called {name[:20]!a}", ConfigurationError, names="topic name"):
                await client.commit(place.group, CommitStamp(1, 1), {CursorKey(name, 0): Cursor(0, 0)})
        expect(await client.load(place.group) == GroupCursors(), "a commit that was refused was kept")
        await client.commit(place.group, CommitStamp(1, 1), largest)
        found = await client.load(place.group)
        expect(dict(found.cursors) == largest, f"of {most} cursors {len(found.cursors)} came back")


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def an_earlier_stamp_is_fenced(harness: OffsetStoreHarness) -> None:
    """A commit or deletion with an earlier stamp changes nothing; one without cursors shuts an old owner out."""
    async with harness.place() as place:
        old, new = place.client(), place.client()
        await place.commit(old, 7, 100, generation=3)
        await new.commit(place.group, CommitStamp(4, 0), {})
        for generation, number in ((3, 8), (3, 7), (2, 999), (3, 10**12)):
            stamp = CommitStamp(generation, number)
            with refused(f"a commit of {stamp} after (4, 0)", OffsetStoreFencedError):
                await old.commit(place.group, stamp, cursors_at(50))
            for topic in (None, "t"):
                with refused(f"a deletion of {stamp} after (4, 0)", OffsetStoreFencedError):
                    await old.delete(place.group, stamp, topic)
        found = await new.load(place.group)
        expect(
            found == GroupCursors(CommitStamp(4, 0), cursors_at(100)), f"what was refused changed something: {found}"
        )
        await place.commit(new, 1, 40, generation=4)
        found = await old.load(place.group)
        expect(found == GroupCursors(CommitStamp(4, 1), cursors_at(40)), "a later stamp may not put a lower offset")


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def a_commit_that_is_repeated_is_done_once(harness: OffsetStoreHarness) -> None:
    """The stamp of the last commit again is no error and changes nothing: so an unknown outcome is settled."""
    async with harness.place() as place:
        client, other = place.client(), place.client()
        await place.commit(client, 1, 10)
        await other.commit(place.group, CommitStamp(1, 1), {CursorKey("t", 0): Cursor(99, 9)})
        await other.delete(place.group, CommitStamp(1, 1), "t")
        found = await client.load(place.group)
        expect(found == GroupCursors(CommitStamp(1, 1), cursors_at(10)), f"a repeated stamp changed something: {found}")


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def what_is_deleted_is_gone(harness: OffsetStoreHarness) -> None:
    """A topic's cursors, or a group, go and nothing else does; what is not there is no error."""
    async with harness.place() as place:
        client, other = place.client(), place.client()
        neighbour = f"{place.group}x"
        await client.commit(neighbour, CommitStamp(1, 1), cursors_at(5))
        far = {
            CursorKey("t", 255): Cursor(5, 1),
            CursorKey("t", 256): Cursor(5, 1),
            CursorKey("t", 2**40): Cursor(5, 1),
        }
        await client.commit(place.group, CommitStamp(1, 1), {**cursors_at(5), **far, **cursors_at(6, 3, "u")})
        await client.delete(place.group, CommitStamp(1, 2), "t")
        await client.delete(place.group, CommitStamp(1, 3), "never")
        found = await other.load(place.group)
        expect(found == GroupCursors(CommitStamp(1, 3), cursors_at(6, 3, "u")), f"after a topic was deleted: {found}")
        await place.commit(client, 4, 7)
        found = await other.load(place.group)
        expect(len(found.cursors) == 6, f"{len(found.cursors)} cursors of 6 after a deleted topic was committed again")
        await client.delete(place.group, CommitStamp(1, 5))
        await client.delete(place.group, CommitStamp(1, 5))
        await client.delete(f"{place.group}-never", CommitStamp(1, 1))
        expect(await other.load(place.group) == GroupCursors(), "a deleted group has something in it")
        groups = await other.groups()
        expect(
            place.group not in groups and neighbour in groups, "the list of groups has the deleted one, or lost another"
        )
        await place.commit(client, 1, 8)
        found = await other.load(place.group)
        expect(found == GroupCursors(CommitStamp(1, 1), cursors_at(8)), f"a group that is made again has {found}")


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def groups_are_those_that_were_committed(harness: OffsetStoreHarness) -> None:
    """``groups`` gives every group with a stamp, sorted, and none that was only loaded."""
    async with harness.place() as place:
        client, other = place.client(), place.client()
        tail = place.group[-16:]
        wanted = sorted(f"{name}{tail}" for name in NAMES[:-1])
        for group in reversed(wanted):
            await client.commit(group, CommitStamp(0, 1), {})
        await client.load(f"only loaded {tail}")
        found = [group for group in await other.groups() if group.endswith(tail)]
        expect(found == wanted, f"it gives {found}, not {wanted}")


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def each_commit_is_seen_whole_and_at_once(harness: OffsetStoreHarness) -> None:
    """After a commit every client loads it or a later one; none loads half of one, also beside others that commit."""
    async with harness.place() as place:
        done = 0
        async with trio.open_nursery() as nursery:

            async def read(reader: OffsetStore) -> None:
                while True:
                    before = done
                    found = await reader.load(place.group)
                    offsets = {cursor.offset for cursor in found.cursors.values()}
                    expect(len(offsets) <= 1, f"one load shows parts of several commits: offsets {sorted(offsets)}")
                    number = found.stamp.number
                    expect(not offsets or offsets == {number}, f"stamp {number} comes with the cursors of {offsets}")
                    expect(number >= before, f"after commit {before} another client loads commit {number}")

            for _ in range(2):
                nursery.start_soon(read, place.client())
            writers = [place.client() for _ in range(2)]
            for number in range(1, 41):
                await writers[number % 2].commit(place.group, CommitStamp(1, number), cursors_at(number, 50))
                done = number
            nursery.cancel_scope.cancel()


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def of_two_owners_the_later_generation_stays(harness: OffsetStoreHarness) -> None:
    """Two that commit at once end with the cursors of the later generation, whichever of its commits was the last."""
    async with harness.place() as place:
        for generation in range(1, 11, 2):
            last = dict.fromkeys((generation, generation + 1), 0)
            async with trio.open_nursery() as nursery:
                for owner in last:
                    nursery.start_soon(_commit_until_fenced, place, owner, last)
            found = await place.client().load(place.group)
            stamp = CommitStamp(generation + 1, last[generation + 1])
            offset = stamp.generation * 1000 + stamp.number
            expect(
                found == GroupCursors(stamp, cursors_at(offset)),
                f"generation {generation + 1} committed {stamp.number} times, and then {found.stamp} is there",
            )


async def _commit_until_fenced(place: OffsetPlace, generation: int, last: dict[int, int]) -> None:
    client = place.client()
    for number in range(1, 9):
        try:
            await place.commit(client, number, generation * 1000 + number, generation)
        except OffsetStoreFencedError:
            return
        last[generation] = number


@check("offset_store", "G13", seconds_max=SECONDS_MAX)
async def offset_store_calls_run_side_by_side(harness: OffsetStoreHarness) -> None:
    """Many groups of one client are committed and loaded at once, and each gets its own answer."""
    async with harness.place() as place:
        client = place.client(call_timeout_ms=30_000)  # one that flushes one commit after the other takes its time

        async def go_on(group: str) -> None:
            for number in range(1, 5):
                await client.commit(group, CommitStamp(1, number), cursors_at(number))
                found = await client.load(group)
                expect(found == GroupCursors(CommitStamp(1, number), cursors_at(number)), f"{group} loads {found}")

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(go_on, f"{place.group}/{number}")


@check("offset_store", "G16", seconds_max=SECONDS_MAX)
async def a_cancelled_commit_takes_no_cursor_back(harness: OffsetStoreHarness) -> None:
    """Commits that are cancelled anywhere are done or not; the next one counts, and none comes after it."""
    async with harness.place() as place:
        client, witness = place.client(), place.client()
        for number in range(1, 61, 2):
            with trio.move_on_after(number * 0.0001):
                await place.commit(client, number, number)
            await place.commit(client, number + 1, number + 1)
            found = await witness.load(place.group)
            wanted = GroupCursors(CommitStamp(1, number + 1), cursors_at(number + 1))
            expect(found == wanted, f"after commit {number + 1}, whose predecessor was cancelled: {found}")


@check("offset_store", "G20", seconds_max=SECONDS_MAX, leaves_nothing=True)
async def nothing_of_a_closed_offset_store_is_left(harness: OffsetStoreHarness) -> None:
    """After ``aclose`` no descriptor, thread or task is left; closing again is nothing, a later call is refused."""
    async with harness.place() as place:
        client = place.client()
        await place.commit(client, 1, 1)
        await client.aclose()
        await client.aclose()
        for call in (
            lambda: client.load(place.group),
            lambda: client.groups(),
            lambda: client.delete(place.group, CommitStamp(1, 2)),
            lambda: place.commit(client, 2, 2),
        ):
            with refused("a call after aclose", OffsetStoreUnavailableError):
                await call()
