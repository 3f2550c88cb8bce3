"""Contract checks of a storage with I/O of its own, whose system calls the suite decides on: slow and failing ones.

A storage on the ports meets the same on the model disk, in the simulation.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from mqcore.abc import Log
from mqcore.errors import FlushFailedError, StorageError
from mqcore.guarantees import Level
from mqcore_conformance.children import Outcome, run_apart
from mqcore_conformance.contract._checks import CheckFailed, CheckNotRun, NotApplicable, check, expect
from mqcore_conformance.contract._storage import APPENDED, FLUSHED, StorageHarness, read_whole
from mqcore_conformance.syscalls import (
    CALLS,
    FAIL_FLUSHES,
    FAIL_READS,
    READS,
    DivertedFiles,
    divert_to,
    why_not_diverted,
)
from mqcore_conformance.worlds.processes import cut_power, why_no_dirty_pages

LIVES = 4
SLOW_FLUSH_US = 60_000
APPENDED_S_MAX = 5.0
UNDER_WAY_S = 0.02
"""After so much time a slow flush is under way."""
NAMES = ("one", "other")
PIECE, PIECES = bytes(range(1, 251)) * 2_000, 16
"""What is read back: more than a storage keeps in its memory once it is open."""
Ask = Callable[[bytes], None]
"""Asks the suite to let calls fail from now on."""
Life = Callable[[StorageHarness, Ask], Awaitable[None]]


def _needs_own_io(harness: StorageHarness) -> None:
    """Leave the check to storages that keep bytes past their process, in files that the ports do not see."""
    capabilities = harness.create().capabilities
    if capabilities.flush_level < Level.PAGE_CACHE:
        raise NotApplicable("nothing outlives its process")
    if capabilities.simulable:
        raise CheckNotRun("its I/O goes through the ports: T0 has this fault")
    if why := why_not_diverted():
        raise CheckNotRun(why)


def _live(
    harness: StorageHarness, life: Life, *, calls: tuple[str, ...] = CALLS, flush_us: int = 0, undo: str = ""
) -> tuple[Outcome[str], int]:
    """Run ``life`` in a process of its own; return what is wrong with it, and how many of its ``calls`` failed."""
    ours, theirs = socket.socketpair()
    files = DivertedFiles(str(harness.folder / "data"), lambda fact: None, process_id=0, flush_us=flush_us, undo=undo)
    thread = threading.Thread(target=files.run, args=(ours,))
    with ours:
        with theirs:
            thread.start()
            run = partial(_begin, harness, life, theirs, calls)
            outcome = run_apart(run, seconds_max=harness.limit_s, returns=str)
        files.stop()
        thread.join()
    return outcome, files.failed_calls


def _begin(harness: StorageHarness, life: Life, asking: socket.socket, calls: tuple[str, ...]) -> str:
    divert_to(asking.fileno(), calls)

    def ask(what: bytes) -> None:
        asking.sendall(what)
        asking.recv(1)

    try:
        trio.run(life, harness, ask)
    except CheckFailed as error:
        return str(error)
    return ""


# ---- what a flush returns ----------------------------------------------------------------------------------


@check("storage", "G01")
def what_a_flush_returned_is_on_the_disk_at_once(harness: StorageHarness) -> None:
    """When a slow flush of two logs returns, with appends meanwhile, what is durable then outlives a power cut."""
    _needs_own_io(harness)
    reaches_disk = harness.create().capabilities.flush_level >= Level.DISK
    why_no_cuts = why_no_dirty_pages(str(harness.folder)) if reaches_disk else ""
    cuts = reaches_disk and not why_no_cuts
    noted = harness.folder / "noted"
    for number in range(LIVES):
        undo = harness.folder / f"undo-{number}"
        life = partial(_flush_and_die, number=number, noted=noted)
        outcome, _ = _live(harness, life, flush_us=SLOW_FLUSH_US, undo=str(undo))
        seen = outcome.value or outcome.problem
        expect("SIGKILL" in outcome.problem, f"a process could not append and flush: {seen}")
        if cuts:
            cut_power(harness.folder / "data", undo)
        trio.run(_expect_stated, harness, json.loads(noted.read_text()), "a power cut" if cuts else "a kill")
    if why_no_cuts:
        raise CheckNotRun(f"a kill took nothing; no power could be cut: {why_no_cuts}")


async def _flush_and_die(harness: StorageHarness, ask: Ask, *, number: int, noted: Path) -> None:
    """Append to two logs, flush both, append meanwhile; note what is stated to be durable, and die.

    At once, or, in every second life, when what was appended meanwhile is there: none of that was flushed.
    """
    backend = harness.create()
    await backend.open()
    logs = [await backend.open_log(f"{name}-{number}") for name in NAMES]
    for log in logs:
        await log.append([FLUSHED])

    to_come, have_come = len(logs), trio.Event()

    async def append(log: Log) -> None:
        nonlocal to_come
        await log.append([APPENDED])
        to_come -= 1
        if not to_come:
            have_come.set()

    async def flush() -> None:
        reached = await backend.flush(logs)
        if number % 2:
            with trio.move_on_after(APPENDED_S_MAX):
                await have_come.wait()
        ends = {log.name: max(end, log.durable_end) for log, (end, _) in zip(logs, reached, strict=True)}
        noted.write_text(json.dumps(ends))  # noqa: ASYNC240 - the process ends with the next line
        os.kill(os.getpid(), signal.SIGKILL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush)
        await trio.sleep(UNDER_WAY_S)
        for log in logs:
            nursery.start_soon(append, log)


async def _expect_stated(harness: StorageHarness, ends: dict[str, int], fault: str) -> None:
    whole = FLUSHED + APPENDED
    async with harness.opened() as backend:
        for name, end in ends.items():
            log = await backend.open_log(name)
            expect(log.end >= end, f"a flush stated {name} durable to {end}; after {fault} it ends at {log.end}")
            found = await read_whole(log)
            expect(found[:end] == whole[:end], f"{name} was stated durable to {end}; {fault} left other bytes below it")


# ---- what fails --------------------------------------------------------------------------------------------


@check("storage", "G11")
def a_flush_that_fails_is_told_and_final(harness: StorageHarness) -> None:
    """A flush that the device fails raises ``FlushFailedError``, its log takes nothing more, and opens again."""
    _needs_own_io(harness)
    outcome, failed = _live(harness, _flush_in_vain, flush_us=SLOW_FLUSH_US)
    expect(not outcome.problem, outcome.problem)
    if not failed:
        raise NotApplicable("its flush makes no call that could be made to fail: no fsync, fdatasync, msync or syncfs")
    expect(not outcome.value, outcome.value or "")
    trio.run(_expect_no_hole, harness)


async def _flush_in_vain(harness: StorageHarness, ask: Ask) -> None:
    backend = harness.create()
    await backend.open()
    log = await backend.open_log("one")
    await log.append([FLUSHED])
    ask(FAIL_FLUSHES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_append_beside, log)
        try:
            (reached,) = await backend.flush([log])
        except FlushFailedError:
            pass
        else:
            raise CheckFailed(f"each flush of a file fails; the storage states that it is durable to {reached.end}")
    with contextlib.suppress(StorageError):
        await log.append([APPENDED])
        raise CheckFailed("a log takes an append after a flush of it has failed")
    with contextlib.suppress(StorageError):
        await backend.aclose()


async def _append_beside(log: Log) -> None:
    """Append while the flush is under way: refused or not, it must leave no hole."""
    for _ in range(2):
        with contextlib.suppress(StorageError):
            await log.append([APPENDED])


async def _expect_no_hole(harness: StorageHarness) -> None:
    async with harness.opened() as backend:
        log = await backend.open_log("one")
        try:
            await read_whole(log)
        except StorageError as error:
            raise CheckFailed(f"after a flush that failed, with appends beside it, a log has a hole: {error}") from None


@check("storage", "G12")
def a_read_that_fails_is_told(harness: StorageHarness) -> None:
    """A read that the device fails is an error; it never gives other bytes than were appended."""
    _needs_own_io(harness)
    outcome, _ = _live(harness, _write_whole)
    expect(not outcome.problem, outcome.problem)
    outcome, failed = _live(harness, _read_in_vain, calls=READS)
    expect(not outcome.problem, outcome.problem)
    if not failed:
        raise NotApplicable("it makes no read of what is in its folder once it is open: none could be made to fail")
    expect(not outcome.value, outcome.value or "")


async def _write_whole(harness: StorageHarness, ask: Ask) -> None:
    async with harness.opened() as backend:
        log = await backend.open_log("one")
        for _ in range(PIECES):
            await log.append([PIECE])


async def _read_in_vain(harness: StorageHarness, ask: Ask) -> None:
    backend = harness.create()
    await backend.open()
    log = await backend.open_log("one")
    ask(FAIL_READS)
    content = memoryview(PIECE * PIECES)
    position = log.start
    while position < log.end:
        try:
            view = await log.read(position, log.end - position)
        except StorageError:
            break
        expect(len(view) > 0, f"a read that fails gives nothing at {position}, below the end {log.end}")
        stop = position + len(view)
        expect(view == content[position:stop], f"a read that fails gives other bytes than were appended at {position}")
        position = stop
    with contextlib.suppress(StorageError):
        await backend.aclose()
