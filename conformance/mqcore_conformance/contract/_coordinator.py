"""Contract checks of one coordinator, its cells: one condition on both, and an answer says what was written."""

from __future__ import annotations

import trio

from mqcore.abc import (
    COORDINATOR_NAME_BYTES_MAX,
    CellPair,
    CellWrite,
    Coordinator,
    CoordinatorCell,
    CoordinatorContext,
)
from mqcore.errors import ConfigurationError, CoordinatorConflictError, CoordinatorUnreachableError
from mqcore.registry import create_coordinator
from mqcore_conformance.contract._checks import check, expect, expect_unknown_option_refused, refused
from mqcore_conformance.contract._coordinator_harness import CoordinatorHarness, CoordinatorPlace

CLIENTS = 8


@check("coordinator", "G18")
def an_unknown_coordinator_option_is_refused_by_name(harness: CoordinatorHarness) -> None:
    """An option that does not exist is refused, and the message names it."""
    context = CoordinatorContext(ports=harness.ports)
    url = harness.url.replace("{dir}", str(harness.folder))
    expect_unknown_option_refused(url, harness.seed, lambda changed: create_coordinator(changed, context))


@check("coordinator", "G18")
async def what_a_coordinator_declares_is_what_is_claimed(harness: CoordinatorHarness) -> None:
    """The capabilities are those of the claims file, and the same each time."""
    context = CoordinatorContext(ports=harness.ports)
    url = harness.url.replace("{dir}", str(harness.folder))
    first, second = (create_coordinator(url, context).capabilities for _ in range(2))
    expect(first == second, f"it declares {first} and then {second}")
    differences = harness.claims.differences("coordinator", first) if harness.claims is not None else []
    expect(not differences, "; ".join(differences))


@check("coordinator", "G04")
async def cells_come_back_as_they_were_written(harness: CoordinatorHarness) -> None:
    """Any bytes come back under the id they were written with; a cell that is not written stays as it is."""
    async with harness.place() as place:
        client, other = place.client(), place.client()
        size = client.capabilities.value_bytes_max
        expect(await client.read(place.name) == CellPair(), "a name that was never written has something in it")
        pair = CellPair()
        for value in (b"", bytes(range(256)), b"\n\0\xff" * 7, place.ports.random.randbytes(size)):
            record, lease = place.put(value), place.put(value[::-1])
            for writes in ({"record": record}, {"lease": lease}, {"record": lease, "lease": record}):
                shown = await client.write(place.name, pair, **writes)
                wanted = CellPair(_after(pair.record, writes.get("record")), _after(pair.lease, writes.get("lease")))
                expect(shown == wanted, f"{len(value)} bytes: the answer to a write shows other cells")
                pair = await other.read(place.name)
                expect(pair == wanted, f"{len(value)} bytes: another client reads other cells than were written")


def _after(cell: CoordinatorCell, put: CellWrite | None) -> CoordinatorCell:
    return cell if put is None else CoordinatorCell(put.value, put.write_id)


@check("coordinator", "G18")
async def what_it_cannot_keep_is_refused_before_it_is_sent(harness: CoordinatorHarness) -> None:
    """A value beyond the limit that it states, and a name that is none, are refused, and nothing is written."""
    async with harness.place() as place:
        client = place.client()
        size = client.capabilities.value_bytes_max
        for what in ("record", "lease"):
            with refused(f"a {what} of {size + 1} bytes", ConfigurationError, names=str(size + 1)):
                await client.write(place.name, CellPair(), **{what: place.put(bytes(size + 1))})
        with refused("a name with a blank", ConfigurationError):
            await client.write("a b", CellPair(), record=place.put(b""))
        with refused("a write of nothing", ValueError):
            await client.write(place.name, CellPair())
        expect(await client.read(place.name) == CellPair(), "a write that was refused was written")
        longest = place.name.ljust(COORDINATOR_NAME_BYTES_MAX, "x")
        await client.write(longest, CellPair(), record=place.put(b"long"))
        expect((await client.read(longest)).record.value == b"long", "a name of the longest length keeps nothing")


@check("coordinator", "G09")
async def record_and_lease_are_one_condition(harness: CoordinatorHarness) -> None:
    """A write is refused when either cell has changed, whichever it writes, and changes nothing then."""
    async with harness.place() as place:
        client, other = place.client(), place.client()
        seen = await place.write_first(client)
        for changes in ({"record": place.put(b"2")}, {"lease": place.put(b"2")}):
            now = await other.write(place.name, await other.read(place.name), **changes)
            for writes in ({"record": place.put(b"3")}, {"lease": place.put(b"3")}, {**changes}):
                with refused(f"a write after the {next(iter(changes))} changed", CoordinatorConflictError):
                    await client.write(place.name, seen, **writes)
            expect(await client.read(place.name) == now, "a write that was refused changed something")
            seen = now


@check("coordinator", "G09")
async def one_of_eight_writers_wins(harness: CoordinatorHarness) -> None:
    """Of eight that write on the same expectation at once, one is answered and what it wrote is there."""
    async with harness.place() as place:
        for _ in range(5):
            clients = [place.client() for _ in range(CLIENTS)]
            pairs = [await client.read(place.name) for client in clients]
            won: list[bytes] = []
            async with trio.open_nursery() as nursery:
                for number, (client, pair) in enumerate(zip(clients, pairs, strict=True)):
                    nursery.start_soon(_compete, place, client, pair, b"%d" % number, won)
            expect(len(won) == 1, f"{len(won)} of {CLIENTS} writers won")
            pair = await clients[0].read(place.name)
            expect([pair.record.value] == [pair.lease.value] == won, "what is there is not what the winner wrote")


async def _compete(
    place: CoordinatorPlace, client: Coordinator, pair: CellPair, value: bytes, won: list[bytes]
) -> None:
    try:
        await client.write(place.name, pair, record=place.put(value), lease=place.put(value))
    except CoordinatorConflictError:
        return
    won.append(value)


@check("coordinator", "G05")
async def a_write_on_another_history_is_a_conflict(harness: CoordinatorHarness) -> None:
    """An expectation holds by its write ids alone: equal values and the server's own versions do not make it true."""
    async with harness.place() as place:
        client = place.client()
        pair = await place.write_first(client)
        pair = await client.write(place.name, pair, lease=place.put(b"lease"))
        for cell in ("record", "lease"):
            real = getattr(pair, cell)
            other = CoordinatorCell(real.value, place.ports.random.randbytes(16), real.hint)
            forged = CellPair(other, pair.lease) if cell == "record" else CellPair(pair.record, other)
            with refused(f"a write that expects another {cell} with the same value", CoordinatorConflictError):
                await client.write(place.name, forged, record=place.put(b"x"))
        with refused("a write that expects nothing to be there", CoordinatorConflictError):
            await client.write(place.name, CellPair(), record=place.put(b"x"))
        expect(await client.read(place.name) == pair, "a write that was refused changed something")


@check("coordinator", "G05")
async def a_read_through_another_client_shows_what_was_written(harness: CoordinatorHarness) -> None:
    """After a write has returned, every client's next read shows it or what came after it."""
    async with harness.place() as place:
        writer, readers = place.client(), [place.client() for _ in range(2)]
        pair = await writer.read(place.name)
        for number in range(40):
            pair = await writer.write(place.name, pair, record=place.put(b"%d" % number))
            for reader in readers:
                shown = (await reader.read(place.name)).record.value
                expect(shown == b"%d" % number, f"after the write of {number}, another client reads {shown!r}")


@check("coordinator", "G04")
async def names_are_those_that_were_written(harness: CoordinatorHarness) -> None:
    """``names`` gives every name below a prefix that was ever written, sorted, and no other."""
    async with harness.place() as place:
        client = place.client()
        root = place.name.partition("/")[0]
        wanted = sorted(f"{root}/{name}" for name in ("a", "a.b", "a-b_c", "b/c", "b/d/e"))
        for name in reversed(wanted):
            await client.write(name, CellPair(), lease=place.put(b""))
        await client.read(f"{root}/only-read")
        await client.write(f"{root}x/other", CellPair(), record=place.put(b""))
        found = await client.names(f"{root}/")
        expect(found == wanted, f"it gives {found}, not {wanted}")
        found = await client.names(f"{root}/b/")
        expect(found == wanted[-2:], f"below b/ it gives {found}")
        expect(set(wanted) <= set(await client.names("")), "without a prefix some are missing")


@check("coordinator", "G13", seconds_max=20)
async def calls_run_side_by_side(harness: CoordinatorHarness) -> None:
    """Many reads and writes of one client go on at once, and each gets its own answer."""
    async with harness.place() as place:
        client = place.client(call_timeout_ms=15_000)  # a server that flushes one write after the other takes its time
        root = place.name.partition("/")[0]

        async def go_on(number: int) -> None:
            name, pair = f"{root}/{number}", CellPair()
            for step in range(5):
                value = b"%d/%d" % (number, step)
                pair = await client.write(name, pair, record=place.put(value))
                expect(pair.record.value == value, f"the answer to the write of {value!r} is {pair.record.value!r}")
                shown = (await client.read(name)).record.value
                expect(shown == value, f"a read of {name} shows {shown!r}, not {value!r}")

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(go_on, number)


@check("coordinator", "G05", seconds_max=20)
async def a_cancelled_call_leaves_no_answer_for_the_next(harness: CoordinatorHarness) -> None:
    """Reads and writes that are cancelled anywhere leave a client that works, and every answer is its own call's."""
    async with harness.place() as place:
        client, witness = place.client(), place.client()
        root = place.name.partition("/")[0]
        names = [f"{root}/{number}" for number in range(2)]
        for number in range(60):
            name = names[number % 2]
            with trio.move_on_after(number * 0.0001):
                if number % 3:
                    await client.read(name)
                else:
                    await client.write(name, await client.read(name), record=place.put(b"%d" % number))
            shown, real = await client.read(name), await witness.read(name)
            if shown != real:  # a write that was cancelled may be applied between the two
                shown = await client.read(name)
            expect(shown == real, f"after a cancelled call a read of {name} shows {shown}, another client {real}")


@check("coordinator", "G20", leaves_nothing=True)
async def nothing_of_a_closed_coordinator_is_left(harness: CoordinatorHarness) -> None:
    """After ``aclose`` no descriptor, thread or task is left; closing again is nothing, a later call is refused."""
    async with harness.place() as place:
        client = place.client().inner
        pair = await place.write_first(client)
        with trio.move_on_after(0.05):
            await client.watch(place.name, lambda: None)
        await client.aclose()
        await client.aclose()
        for call in (
            lambda: client.read(place.name),
            lambda: client.names(""),
            lambda: client.write(place.name, pair, record=place.put(b"")),
        ):
            with refused("a call after aclose", CoordinatorUnreachableError):
                await call()
