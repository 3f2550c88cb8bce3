"""What a storage claims, probed: ports only, member losses, reading beside, limits, silence, nothing left behind.

What it does not claim is probed as well, and listed as NOT CLAIMED with what was seen.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import trio

from mqcore.abc import StorageBackend, StorageContext
from mqcore.errors import CommandNotPossibleError, MqcoreError, StorageError
from mqcore.guarantees import Level
from mqcore.registry import create_storage
from mqcore.testing import run_simulation
from mqcore_conformance.children.tracebacks import printable
from mqcore_conformance.claims import Claimed, Claims
from mqcore_conformance.contract._checks import NotApplicable, check, expect, expect_silence, refused
from mqcore_conformance.contract._storage import StorageHarness, read_whole
from mqcore_conformance.contract._storage_grounds import ModelGround
from mqcore_conformance.contract._watched import own_io_of

CONTENT = bytes(range(256)) * 40
LOGS_TRIED_MAX = 10_000


async def live_a_little(backend: StorageBackend) -> None:
    """Use every call of a storage once, from open to close."""
    await backend.open()
    try:
        log = await backend.open_log("one")
        other = await backend.open_log("other")
        await log.append([CONTENT, b"more"])
        await other.append([CONTENT])
        await backend.flush([log, other])
        await log.read(log.start, 100)
        await log.truncate(len(CONTENT))
        await log.trim(len(CONTENT) // 2)
        await backend.list_logs()
        await other.aclose()
        await backend.delete_log("other")
    finally:
        await backend.aclose()


@check("storage", "G18")
def what_is_claimed_is_declared(harness: StorageHarness) -> None:
    """What the claims file states of the storage is what the storage declares."""
    expect_declared(harness.claims, "storage", harness.create().capabilities)


def expect_declared(claims: Claims | None, kind: str, capabilities: object) -> None:
    """Raise unless what a part of ``kind`` declares is what is claimed of it."""
    if claims is None or getattr(claims.claims, kind) == getattr(Claimed(), kind):
        raise NotApplicable("no claims file says anything of it; what it declares is probed all the same")
    differences = claims.differences(kind, capabilities)
    expect(not differences, "; ".join(differences))


@check("storage", "G20", leaves_nothing=True)
async def nothing_is_left_behind(harness: StorageHarness) -> None:
    """Three lives, and an open that is cancelled, leave no descriptor, thread, process or task behind."""
    for _ in range(3):
        await live_a_little(harness.create())
    for delay_s in (0.0, 0.001):
        backend = harness.create()
        with trio.move_on_after(delay_s):
            await backend.open()
        with trio.CancelScope(shield=True):
            await backend.aclose()


@check("storage", "G04")
def nothing_is_printed(harness: StorageHarness) -> None:
    """Standard output belongs to messages and standard error to the broker: a part writes to neither."""
    trio.run(live_a_little, harness.create())
    expect_silence()


@check("storage", "G01")
def its_io_goes_through_the_ports(harness: StorageHarness) -> None:
    """A storage that claims ``simulable`` touches no file, socket, process or thread but through the ports."""
    claimed = harness.create().capabilities.simulable

    def live() -> None:
        ground = ModelGround(harness.template, harness.folder, seed=0)
        backend = create_storage(ground.url, StorageContext(ports=ground.ports()))
        run_simulation(live_a_little, backend, seconds_max=1_000.0)

    seen, problem = own_io_of(live)
    if not claimed:
        found = f"it does I/O behind the ports: {seen}" if seen else problem or "no I/O behind the ports was seen"
        raise NotApplicable(f"it does not claim simulable, so that no simulation can hold it; probed: {found}")
    expect(not seen, f"it does I/O behind the ports: {seen}")
    expect(not problem, f"it claims simulable; on model ports {problem}")


@check("storage", "G01")
async def a_lost_member_takes_nothing(harness: StorageHarness) -> None:
    """What claims to survive n lost members has everything after any one of the folders in its URL is gone."""
    capabilities = harness.create().capabilities
    claimed = capabilities.member_losses_survived
    path = harness.template.partition("://")[2].partition("?")[0]
    members = [Path(one.replace("{dir}", str(harness.folder / "data"))) for one in path.split(",") if "{dir}" in one]
    if not claimed:
        raise NotApplicable(f"it claims no member loss; its URL names {len(members)} folder(s)")
    expect(bool(members), "it claims to survive a lost member, and its URL names no folder with {dir}")
    async with harness.opened() as backend:
        log = await backend.open_log("kept")
        await log.append([CONTENT])
        await backend.flush([log])
    for member in members:
        away = member.with_name(f"{member.name}-away")
        if member.exists():
            member.rename(away)
        try:
            async with harness.opened() as backend:
                found = await read_whole(await backend.open_log("kept"))
            seen = f"{len(found)} of {len(CONTENT)} bytes are there" if found != CONTENT else ""
        except MqcoreError as error:
            seen = f"it does not open: {printable(str(error))}"
        expect(
            not seen,
            f"it claims that {claimed} lost member(s) take nothing and flushes to {capabilities.flush_level.label}; "
            f"its URL names {len(members)} folder(s), and without {member.name} {seen}",
        )
        _bring_back(member, away)


def _bring_back(member: Path, away: Path) -> None:
    if away.exists():
        if member.exists():
            member.rename(member.with_name(f"{member.name}-made-anew"))
        away.rename(member)


@check("storage", "G20")
async def limits_hold_where_they_are_stated(harness: StorageHarness) -> None:
    """An append of exactly ``append_bytes_max`` bytes and the ``logs_max``-th log are taken, one more is refused."""
    harness.needs_bytes()
    async with harness.opened() as backend:
        capabilities = backend.capabilities
        log = await backend.open_log("log")
        for size, taken in ((capabilities.append_bytes_max, True), (capabilities.append_bytes_max + 1, False)):
            before = log.end
            try:
                await log.append([memoryview(bytes(size))])
            except StorageError as error:
                if error.kind == "full":
                    raise NotApplicable(f"no room for an append of {size} bytes here") from None
                expect(not taken, f"an append of {size} bytes is refused ({error}); append_bytes_max allows it")
                expect(error.kind == "limit", f"an append of {size} bytes is refused as {error.kind}, not limit")
                expect(log.end == before, f"the refused append moved the end from {before} to {log.end}")
            else:
                expect(taken, f"an append of {size} bytes was taken; append_bytes_max is {size - 1}")
                await log.truncate(before)
        if capabilities.logs_max is not None:
            await _expect_logs_max(backend, min(capabilities.logs_max, LOGS_TRIED_MAX), capabilities.logs_max)


async def _expect_logs_max(backend: StorageBackend, count: int, logs_max: int) -> None:
    for number in range(1, count):
        log = await backend.open_log(f"log-{number}")
        await log.append([b"x"])
    if count < logs_max:
        return
    with refused(f"log {logs_max + 1}, where logs_max is {logs_max},", StorageError, kind="limit"):
        log = await backend.open_log("one-too-many")
        await log.append([b"x"])


@check("storage", "G05")
async def a_reader_beside_the_broker_sees_what_is_durable(harness: StorageHarness) -> None:
    """``open_readonly`` reads durable bytes beside the broker, changes nothing, and is False when none has it."""
    if harness.create().capabilities.flush_level < Level.PAGE_CACHE:
        raise NotApplicable("nothing outlives its process")
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        await log.append([CONTENT])
        await backend.flush([log])
        reader = harness.create()
        try:
            opened = await reader.open_readonly()
        except CommandNotPossibleError as error:
            await reader.aclose()
            raise NotApplicable(f"it cannot be read beside its broker; probed: {printable(str(error))}") from None
        expect(opened, "open_readonly is False although a broker has the storage")
        seen = await reader.open_log("log")
        durable = min(seen.durable_end, len(CONTENT))
        found = bytes(await seen.read(0, durable)) if durable else b""
        expect(CONTENT.startswith(found), "the reader sees other bytes than were flushed")
        with refused("an append of a reader beside the broker", Exception):
            await seen.append([b"x"])
        await reader.aclose()
        await log.append([b"goes on"])
    reader = harness.create()
    alone = await reader.open_readonly()
    await reader.aclose()
    expect(not alone, "open_readonly is True although no broker has the storage")


@check("storage", "G07")
async def what_was_cut_off_never_comes_back(harness: StorageHarness) -> None:
    """Bytes that were truncated or deleted are gone: never read again, neither after other bytes nor after a stop."""
    harness.needs_bytes()
    rejected, kept, later = (secrets.token_bytes(9_000) for _ in range(3))
    keeps = harness.create().capabilities.flush_level >= Level.PAGE_CACHE
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        await log.append([kept, rejected])
        await backend.flush([log])
        await log.read(len(kept), len(rejected))
        await log.truncate(len(kept))
        expect(log.end == len(kept), f"the log ends at {log.end} after a truncation to {len(kept)}")
    if keeps:
        async with harness.opened() as backend:
            log = await backend.open_log("log")
            expect(log.end == len(kept), f"the log ends at {log.end} after a stop; it was truncated to {len(kept)}")
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        begin = log.end
        await log.append([rejected])
        await log.read(begin, len(rejected))
        await log.truncate(begin)
        await log.append([later])
        found = bytes(await log.read(begin, len(later)))
        expect(found[:1] != rejected[:1] or found == later[: len(found)], "a read gives bytes that were cut off before")
        expect(found == later[: len(found)], "a read gives other bytes than were appended after a truncation")
        await backend.delete_log("log")
        log = await backend.open_log("log")
        expect(log.end == 0, f"a log that was deleted ends at {log.end} when it is made again")
        expect(not await read_whole(log), "a log that was deleted still has bytes")


@check("storage", "G20")
async def a_log_grows_beyond_any_segment(harness: StorageHarness) -> None:
    """A log takes 80 MiB in pieces of all sizes, and gives them back the same."""
    harness.needs_bytes()
    piece = secrets.token_bytes(1024 * 1024 + 1)
    count = 80
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        for number in range(count):
            position = await log.append([piece])
            expect(position == number * len(piece), f"append {number} gave position {position}")
        await backend.flush([log])
        for number in range(count):
            position = number * len(piece)
            while position < (number + 1) * len(piece):
                inside = position - number * len(piece)
                view = await log.read(position, len(piece) - inside)
                expect(len(view) > 0, f"nothing is read at {position}, below the end {log.end}")
                expect(view == piece[inside : inside + len(view)], f"other bytes than were appended at {position}")
                position += len(view)
