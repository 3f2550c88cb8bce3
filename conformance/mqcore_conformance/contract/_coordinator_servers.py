"""Contract checks of one coordinator whose server is killed, frozen, put back to an older state, or an ensemble.

They need the server in the suite's hands (``ServerControl``), and say NOT CLAIMED without it.
"""

from __future__ import annotations

import time

import trio

from mqcore.abc import CellPair, Coordinator
from mqcore.errors import (
    CoordinatorConflictError,
    CoordinatorError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
    CoordinatorWentBackError,
)
from mqcore_conformance.children.queued import queued_s
from mqcore_conformance.contract._checks import CheckFailed, NotApplicable, check, expect
from mqcore_conformance.contract._coordinator_harness import (
    CALL_TIMEOUT_MS,
    TERMS,
    CoordinatorHarness,
    CoordinatorPlace,
)
from mqcore_conformance.contract._standstill import Standstill

SECONDS_MAX = 90.0
"""A server takes its time to start."""
AGAIN_S = 40.0
"""Time in which an ensemble that lost a member answers again, with every default of the servers that are known."""
LATE_MS = 1_000
"""What a machine under load may be late by, beside the time in which this process waited for a processor."""
BLOCKED_S_MAX = 1.0
"""Half of what a call may take: one that blocks does so for as long as nobody answers."""


async def _read_again(client: Coordinator, name: str) -> CellPair:
    """Read until there is an answer."""
    with trio.fail_after(AGAIN_S):
        while True:
            try:
                return await client.read(name)
            except CoordinatorUnreachableError:
                await trio.sleep(0.1)


async def _settled(place: CoordinatorPlace, client: Coordinator, pair: CellPair, value: bytes) -> tuple[CellPair, bool]:
    """Write ``value`` until its outcome is known; return the pair, and whether any try was unknown."""
    ids, was_unknown = set(), False
    with trio.fail_after(AGAIN_S):
        while True:
            put = place.put(value)
            ids.add(put.write_id)
            try:
                return await client.write(place.name, pair, record=put), was_unknown
            except CoordinatorConflictError:
                shown = await _read_again(client, place.name)
                expect(shown.record.write_id in ids, f"a conflict, and the record has {shown.record.value!r}")
                return shown, was_unknown
            except CoordinatorOutcomeUnknownError:
                was_unknown = True
                await trio.sleep(0.05)
            except CoordinatorUnreachableError:
                await trio.sleep(0.05)


@check("coordinator", "G20", seconds_max=SECONDS_MAX)
async def a_frozen_server_ends_the_reign_in_time_and_blocks_nothing(harness: CoordinatorHarness) -> None:
    """While the server stands still every call and the reign end in time, and other tasks go on."""
    async with harness.place() as place:
        node = await place.primary()
        client = place.client()
        holder = node.keeper.holder
        assert holder is not None
        await place.server("freeze")
        standstill, queued = Standstill(), queued_s()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(standstill.watch)
            await node.keeper.hold()
            late_ms = (node.clock.boottime_us() - holder.valid_until_us) / 1000 - (queued_s() - queued) * 1000
            said_not_applied = await _ends_in_time(place, client, f"{place.name}-other", CellPair())
            await trio.sleep(3 * TERMS.lease_ms / 1000)
            nursery.cancel_scope.cancel()
        await place.server("thaw")
        expect(late_ms <= LATE_MS, f"the reign ended {late_ms:.0f} ms after its lease")
        expect(standstill.longest_s <= BLOCKED_S_MAX, f"other tasks stood still for {standstill.longest_s:.2f} s")
        other = place.node("b")
        with trio.fail_after(AGAIN_S):
            await other.take(b"epoch 2")
        expect(not node.keeper.is_valid, "the old primary reigns again")
        if said_not_applied:
            shown = await _read_again(client, f"{place.name}-other")
            expect(shown == CellPair(), "a write that was said not to be applied, and never to be, was applied later")
        shown = await _read_again(client, place.name)
        expect(
            shown.record.value == b"epoch 2", f"a write of before the stop was applied over it: {shown.record.value!r}"
        )


async def _ends_in_time(place: CoordinatorPlace, client: Coordinator, name: str, pair: CellPair) -> bool:
    """Read and write while no one answers; return whether the write was said not to be applied."""
    said_not_applied = False
    for what in ("read", "write"):
        before = time.monotonic() - queued_s()
        try:
            if what == "read":
                await client.read(name)
            else:
                await client.write(name, pair, record=place.put(b"x"))
        except CoordinatorConflictError as conflict:
            raise CheckFailed(f"a {what} that no one answered ends as a conflict: {conflict}") from conflict
        except (CoordinatorUnreachableError, CoordinatorOutcomeUnknownError) as error:
            expect(
                what == "write" or isinstance(error, CoordinatorUnreachableError),
                f"a read without an answer ends as {type(error).__name__}",
            )
            said_not_applied = isinstance(error, CoordinatorUnreachableError)
            took_ms = (time.monotonic() - queued_s() - before) * 1000
            expect(took_ms <= CALL_TIMEOUT_MS + LATE_MS, f"a {what} took {took_ms:.0f} ms of {CALL_TIMEOUT_MS} ms")
        else:
            raise CheckFailed(f"a {what} is answered while the server stands still")
    return said_not_applied


@check("coordinator", "G01", seconds_max=SECONDS_MAX)
async def what_a_killed_server_answered_is_there(harness: CoordinatorHarness) -> None:
    """Writes that were answered outlive the server; those under way when it was killed are settled, each once."""
    async with harness.place() as place:
        client, witness = place.client(), place.client()
        if not client.capabilities.durable:
            raise NotApplicable("it does not claim that anything outlives its server")
        pair = await place.write_first(client)
        for number in range(3):
            writing = _Writing(place, client, pair, number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(writing.go_on)
                await trio.sleep(0.3)
                await place.server("kill")
                before = writing.answered
                await place.server("restart")
                shown = (await _read_again(witness, place.name)).record.value
                expect(
                    _number(shown) >= _number(before), f"{before!r} was answered before the kill, {shown!r} is there"
                )
                writing.is_over = True
            pair = writing.pair
            expect(await _read_again(witness, place.name) == pair, "two clients see different cells")


class _Writing:
    """A writer that settles each write before the next; ``answered`` is the newest that is known to be written."""

    def __init__(self, place: CoordinatorPlace, client: Coordinator, pair: CellPair, number: int) -> None:
        self.pair = pair
        self.answered: bytes | None = pair.record.value
        self.is_over = False
        self._place = place
        self._client = client
        self._number = number

    async def go_on(self) -> None:
        """Write until ``is_over``."""
        step = 0
        while not self.is_over:
            step += 1
            self.pair, _ = await _settled(self._place, self._client, self.pair, b"%d/%d" % (self._number, step))
            self.answered = self.pair.record.value


def _number(value: bytes | None) -> tuple[int, int]:
    run, _, step = (value or b"-1/0").partition(b"/")
    return (int(run), int(step)) if step else (-1, 0)


@check("coordinator", "G20", seconds_max=SECONDS_MAX)
async def a_server_that_is_gone_is_said_to_be_unreachable(harness: CoordinatorHarness) -> None:
    """Without a server every call ends in time and none succeeds, and when it is back the same client goes on."""
    async with harness.place() as place:
        client = place.client()
        pair = await place.write_first(client)
        await place.server("kill")
        await _ends_in_time(place, client, place.name, pair)
        await place.server("restart")
        await _read_again(client, place.name)


@check("coordinator", "G13", seconds_max=SECONDS_MAX)
async def a_watch_goes_on_after_a_restart(harness: CoordinatorHarness) -> None:
    """A watch hints at a change that comes after the server was killed and started again."""
    async with harness.place() as place:
        client, watcher = place.client(), place.client()
        if not client.capabilities.durable:
            raise NotApplicable("it does not claim that anything outlives its server")
        pair = await place.write_first(client)
        hints = [trio.Event()]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watcher.watch, place.name, lambda: hints[0].set())
            await trio.sleep(0.3)
            await place.server("kill")
            await trio.sleep(0.3)
            await place.server("restart")
            await _read_again(client, place.name)
            await trio.sleep(3)  # it has tried again by then, at 2 s apart
            hints[0] = trio.Event()
            await _settled(place, client, pair, b"second")
            with trio.move_on_after(5):
                await hints[0].wait()
            expect(hints[0].is_set(), "a change after the restart is not hinted at within 5 s")
            nursery.cancel_scope.cancel()


@check("coordinator", "G09", seconds_max=SECONDS_MAX)
async def a_restored_backup_revives_nothing(harness: CoordinatorHarness) -> None:
    """After an older copy was put back, no write and no reign of the lost history goes on."""
    async with harness.place() as place:
        node = await place.primary()
        client = place.client()
        old = await client.read(place.name)
        await place.server("backup")
        pair = old
        for number in range(3):
            pair = await client.write(place.name, await client.read(place.name), record=place.put(b"%d" % number))
        await place.server("restore")
        fresh = place.client()
        shown = await _read_again(fresh, place.name)
        expect(shown == old, f"the copy has {old}, after it was put back there is {shown}")
        # As many writes as were made after the copy: the server's own versions are those of the lost history again.
        now = shown
        for number in range(3):
            now = await fresh.write(place.name, now, record=place.put(b"new %d" % number))
        for what, expectation in (("the newest", pair), ("a write", CellPair(pair.record, old.lease))):
            with trio.fail_after(AGAIN_S):
                await _refused_on_lost_history(place, client, expectation, what)
        expect(await _read_again(fresh, place.name) == now, "a write on the lost history was applied")
        with trio.fail_after(AGAIN_S):
            await node.keeper.hold()
        expect(not node.keeper.is_valid, "a primary of the lost history reigns on")


async def _refused_on_lost_history(
    place: CoordinatorPlace, client: Coordinator, expectation: CellPair, what: str
) -> None:
    while True:
        try:
            await client.write(place.name, expectation, record=place.put(b"lost history"))
        except (CoordinatorConflictError, CoordinatorWentBackError):
            return
        except CoordinatorError:
            await trio.sleep(0.1)  # its connection is the one that the restart broke
        else:
            raise CheckFailed(f"a write that expects {what} of the lost history is applied")


@check("coordinator", "G05", seconds_max=SECONDS_MAX)
async def every_member_shows_what_was_written(harness: CoordinatorHarness) -> None:
    """After a write through one member of an ensemble has returned, a read through any other shows it."""
    async with harness.place() as place:
        urls = await place.server("member_urls")
        clients = [place.client(url) for url in urls]
        pair = await _read_again(clients[0], place.name)
        for number in range(30):
            writer = clients[number % len(clients)]
            pair, _ = await _settled(place, writer, pair, b"%d" % number)
            for reader, url in zip(clients, urls, strict=True):
                shown = (await _read_again(reader, place.name)).record.value
                expect(shown == b"%d" % number, f"after the write of {number}, {url} shows {shown!r}")


@check("coordinator", "G13", seconds_max=SECONDS_MAX)
async def an_ensemble_goes_on_without_its_leader(harness: CoordinatorHarness) -> None:
    """With the leader of an ensemble frozen, then killed, writes go on through the others, and none is lost."""
    async with harness.place() as place:
        await place.server("member_urls")
        client, other = place.client(), place.client()
        pair = await place.write_first(client)
        for number, (harm, mend) in enumerate((("freeze", "thaw"), ("kill", "restart"))):
            leader = await place.server("leader")
            await place.server(harm, leader)
            pair, _ = await _settled(place, client, pair, b"without %d" % number)
            expect(await _read_again(other, place.name) == pair, "another client does not see it")
            await place.server(mend, leader)
            pair, _ = await _settled(place, client, await _read_again(client, place.name), b"with %d" % number)


@check("coordinator", "G13", seconds_max=SECONDS_MAX)
async def a_sick_member_does_not_end_the_reign(harness: CoordinatorHarness) -> None:
    """A primary goes on renewing its lease while a member that does not lead stands still, whichever that is."""
    async with harness.place() as place:
        count = len(await place.server("member_urls"))
        node = await place.primary()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.keeper.hold)
            for member in range(count):
                if member == await place.server("leader"):
                    continue
                await place.server("freeze", member)
                await trio.sleep(2 * TERMS.lease_ms / 1000)
                expect(node.keeper.is_valid, f"the lease was not renewed while member {member} stood still")
                await place.server("thaw", member)
                await trio.sleep(TERMS.lease_ms / 1000)
            nursery.cancel_scope.cancel()
