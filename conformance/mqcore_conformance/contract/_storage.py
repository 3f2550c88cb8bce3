"""Contract checks of one storage, on its real ports: limits, refusals, cancellation, what outlives a SIGKILL.

Claims are probed, not believed: a child process appends and flushes, is killed, and its bytes are looked for.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from mqcore.abc import Log, StorageBackend, StorageContext
from mqcore.broker import Node
from mqcore.config import make_config
from mqcore.errors import ConfigurationError, StorageError
from mqcore.guarantees import Level
from mqcore.ports import system_ports
from mqcore.registry import create_storage
from mqcore_conformance.children import at_most, run_apart
from mqcore_conformance.contract._checks import (
    CheckFailed,
    Harness,
    NotApplicable,
    check,
    expect,
    expect_unknown_option_refused,
    refused,
)
from mqcore_conformance.contract._storage_grounds import ModelGround, SystemGround
from mqcore_conformance.contract._storage_model import compare_with_model, play_steps, steps_of
from mqcore_conformance.contract._storage_steps import tell_operation
from mqcore_conformance.plans import with_small_files

COMPOSE_S_MAX = 5.0
"""A constructor does no I/O, so that it takes no time."""
SEQUENCES, SEQUENCES_ON_DISK = 250, 60
FLUSHED, APPENDED = b"flushed" * 1000, b"appended" * 1000


class StorageHarness(Harness):
    """A storage URL with ``{dir}``, a folder of its own, and ways to open it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.template = url
        self.folder = folder
        self.url = url.replace("{dir}", str(folder / "data"))

    def create(self, url: str | None = None) -> StorageBackend:
        """Return the storage, composed and not open."""
        with at_most(COMPOSE_S_MAX):
            return create_storage(url or self.url, StorageContext(ports=system_ports()))

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[StorageBackend]:
        """Open it for a block."""
        backend = self.create()
        await backend.open()
        try:
            yield backend
        finally:
            await backend.aclose()

    @property
    def forgets(self) -> bool:
        """Whether it claims to keep nothing (the null storage)."""
        return self.create().capabilities.append_level is Level.NONE

    def needs_bytes(self) -> None:
        """Leave the check to storages that keep bytes."""
        if self.forgets:
            raise NotApplicable("it claims to keep nothing (level none)")


@check("storage", "G18")
def an_unknown_option_is_refused_by_name(harness: StorageHarness) -> None:
    """An option that does not exist is refused, and the message names it."""
    expect_unknown_option_refused(harness.url, harness.seed, harness.create)


@check("storage", "G18")
def composing_does_no_io(harness: StorageHarness) -> None:
    """The constructor does no I/O: nothing is made on the disk before ``open``."""
    harness.create()
    expect(not any(harness.folder.iterdir()), f"something was made in {harness.folder} before open")


@check("storage", "G18")
async def names_that_cannot_be_are_refused(harness: StorageHarness) -> None:
    """Log names outside the allowed characters or too long are refused (``StorageError``, kind ``limit``)."""
    async with harness.opened() as backend:
        longest = backend.capabilities.log_name_bytes_max
        await backend.open_log("n" * longest)
        for name in ("", "../up", "a/b", ".hidden", "A", "é", "a\0b", "n" * (longest + 1)):
            with refused(f"the log name {name[:40]!r}", StorageError, kind="limit"):
                await backend.open_log(name)


@check("storage", "G20")
async def an_append_beyond_the_limit_is_refused_before_a_byte(harness: StorageHarness) -> None:
    """An append above ``append_bytes_max`` is refused and leaves the end where it was."""
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        chunk = bytes(1024 * 1024)
        count = backend.capabilities.append_bytes_max // len(chunk) + 1
        try:
            await log.append([chunk] * count)
        except StorageError as error:
            expect(not error.appended, "the error says that bytes were appended")
            expect(error.kind in ("limit", "full"), f"refused as {error.kind}, not limit")
            expect(log.end == 0, f"the end moved to {log.end}")
        else:
            raise CheckFailed(f"an append of {count} MiB was taken; append_bytes_max says less")


@check("storage", "G18")
def a_build_that_cannot_keep_its_promise_is_refused(harness: StorageHarness) -> None:
    """Flush policies and faults to survive that its levels cannot meet are refused by name, others are not."""
    capabilities = harness.create().capabilities
    reaches_disk = capabilities.flush_level >= Level.DISK
    for flush in ("sync", "async"):
        _compose(harness, refused=not reaches_disk, word="flush", flush=flush)
    survives_cut = max(capabilities.append_level, capabilities.flush_level) >= Level.DISK
    _compose(harness, refused=not survives_cut, word="power-cut", survive=["power-cut"])
    _compose(harness, refused=True, word="host-loss", survive=["host-loss"])
    for keys, word in (({"flush": "sometimes"}, "sometimes"), ({"survive": ["earthquake"]}, "earthquake")):
        _compose(harness, refused=True, word=word, **keys)


def _compose(harness: StorageHarness, *, refused: bool, word: str, **keys: object) -> None:
    try:
        Node(make_config(storage=harness.url, **keys), ports=system_ports())
    except ConfigurationError as error:
        expect(refused, f"{keys} is refused although its levels allow it: {error}")
        expect(word in str(error), f"the refusal of {keys} does not name {word!r}: {error}")
    else:
        expect(not refused, f"a build with {keys} starts although the storage's levels cannot keep it")


@check("storage", "G04")
async def reads_outside_the_log_are_errors(harness: StorageHarness) -> None:
    """A read below the start or beyond the end raises ``ValueError``; at the end it gives nothing."""
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        await log.append([b"x" * 100])
        expect(len(await log.read(log.end, 10)) == 0, "a read at the end gave bytes")
        for position in (-1, log.end + 1):
            with refused(f"a read at {position} of a log that ends at {log.end}", ValueError):
                await log.read(position, 1)


@check("storage", "G04")
async def views_stay_valid(harness: StorageHarness) -> None:
    """A view stays what it was while the log is appended to, truncated, deleted and closed."""
    harness.needs_bytes()
    backend = harness.create()
    await backend.open()
    log = await backend.open_log("log")
    await log.append([b"a" * 10_000])
    view = await log.read(0, 10_000)
    kept = bytes(view)
    await log.append([b"b" * 200_000])
    await log.truncate(len(kept) // 2)
    await log.append([b"c" * 10_000])
    await backend.delete_log("log")
    other = await backend.open_log("other")
    await other.append([b"d" * 300_000])
    expect(bytes(view[: len(kept) // 2]) == kept[: len(kept) // 2], "the bytes under a view changed")
    await backend.aclose()
    expect(bytes(view[: len(kept) // 2]) == kept[: len(kept) // 2], "the bytes under a view changed with the close")
    view.release()


@check("storage", "G18")
async def a_second_opener_is_refused(harness: StorageHarness) -> None:
    """A storage in use is refused to a second opener (kind ``busy``), and free again after the close."""
    if harness.create().capabilities.flush_level < Level.PAGE_CACHE:
        raise NotApplicable("nothing outlives its process")
    async with harness.opened():
        second = harness.create()
        with refused("a second opener", StorageError, kind="busy"):
            await second.open()
            await second.aclose()
    async with harness.opened():
        pass


@check("storage", "G11")
async def what_is_closed_stays_closed(harness: StorageHarness) -> None:
    """After ``aclose`` every call of a log raises ``StorageError``; closing twice is no error."""
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        await log.append([b"x"])
        await log.aclose()
        await log.aclose()
        for call in (lambda: log.append([b"y"]), lambda: log.read(0, 1), lambda: log.truncate(0)):
            with refused("a call of a closed log", StorageError):
                await call()


@check("storage", "G01", leaves_nothing=True)
async def cancellation_leaves_the_log_usable(harness: StorageHarness) -> None:
    """A cancelled append may have appended; after a truncation to where it began, the log goes on as before."""
    harness.needs_bytes()
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        await log.append([b"first"])
        for _ in range(20):
            before = log.end
            with trio.CancelScope() as scope:
                scope.cancel()
                await log.append([b"never"])
            await log.truncate(before)
            expect(log.end == before, f"the end is {log.end} after a truncation to {before}")
            with trio.CancelScope() as scope:
                scope.cancel()
                await backend.flush([log])
            await log.append([b"more"])
            await backend.flush([log])
        wanted = b"first" + b"more" * 20
        expect(await read_whole(log) == wanted, "the log holds other bytes than were appended and not cut off")


@check("storage", "G14")
async def a_flush_states_what_it_reached(harness: StorageHarness) -> None:
    """A flush returns the end that it covered and the level that the log is at now, no better than declared."""
    async with harness.opened() as backend:
        log = await backend.open_log("log")
        await log.append([b"x"])
        (reached,) = await backend.flush([log])
        best = backend.capabilities.flush_level
        expect(reached.end == 1, f"after one byte a flush states the durable end {reached.end}")
        expect(reached.level == log.level, f"a flush states {reached.level.label}, its log {log.level.label}")
        expect(reached.level <= best, f"a flush states {reached.level.label}; {best.label} is declared")


@check("storage", "G01")
async def everything_is_there_after_a_clean_stop(harness: StorageHarness) -> None:
    """What was appended before a clean close is there afterwards, exactly, flushed or not."""
    harness.needs_bytes()
    if harness.create().capabilities.flush_level < Level.PAGE_CACHE:
        raise NotApplicable("nothing outlives its process")
    async with harness.opened() as backend:
        for number in range(20):
            log = await backend.open_log(f"log-{number}")
            await log.append([bytes([number]) * (number * 1000 + 1)])
    async with harness.opened() as backend:
        listed = await backend.list_logs()
        expect(len(listed) == 20, f"{len(listed)} logs are listed, 20 were made")
        for number in range(20):
            log = await backend.open_log(f"log-{number}")
            expect(await read_whole(log) == bytes([number]) * (number * 1000 + 1), f"log-{number} holds other bytes")


@check("storage", "G01")
def claimed_levels_hold_when_the_process_is_killed(harness: StorageHarness) -> None:
    """What claims to reach page-cache or better is still there after SIGKILL of the process that wrote it."""
    capabilities = harness.create().capabilities
    outcome = run_apart(lambda: trio.run(_write_and_die, harness), seconds_max=harness.limit_s)
    expect("SIGKILL" in outcome.problem, f"a process could not append and flush: {outcome.problem}")
    found = trio.run(_found_again, harness)
    whole = FLUSHED + APPENDED
    kept = b"" if capabilities.flush_level < Level.PAGE_CACHE else FLUSHED
    kept = kept if capabilities.append_level < Level.PAGE_CACHE else whole
    shorter = min(len(found), len(whole))
    common = next((at for at in range(shorter) if found[at] != whole[at]), shorter)
    seen = f"{len(FLUSHED)} bytes flushed, {len(APPENDED)} appended after it: {common} of them are there after SIGKILL"
    expect(common >= len(kept), f"{seen}; {len(kept)} were promised")
    if not kept:
        raise NotApplicable(f"it claims nothing that outlives its process; probed: {seen}")


async def write_probe(backend: StorageBackend) -> None:
    """Open it and write to its log ``probe``: ``FLUSHED``, a flush, ``APPENDED``."""
    await backend.open()
    log = await backend.open_log("probe")
    await log.append([FLUSHED])
    await backend.flush([log])
    await log.append([APPENDED])


async def _write_and_die(harness: StorageHarness) -> None:
    await write_probe(harness.create())
    os.kill(os.getpid(), signal.SIGKILL)


async def _found_again(harness: StorageHarness) -> bytes:
    async with harness.opened() as backend:
        return await read_whole(await backend.open_log("probe"))


@check("storage", "G01", tell=tell_operation)
def any_sequence_of_operations_agrees_with_the_model(harness: StorageHarness) -> str:
    """Open, append, flush, read, truncate, trim, delete, reopen, kill, power cut in any order do what they say."""
    harness.needs_bytes()
    simulable = harness.create().capabilities.simulable
    url = with_small_files(harness.template)
    numbers = itertools.count()

    def make_ground() -> ModelGround | SystemGround:
        folder = harness.folder / f"sequence-{next(numbers)}"
        folder.mkdir()
        if simulable:
            return ModelGround(url, folder, seed=harness.seed)
        return SystemGround(url, folder, seconds_max=harness.limit_s)

    if harness.steps:
        try:
            play_steps(make_ground(), steps_of(harness.steps), seed=harness.seed)
        except CheckFailed as error:
            raise CheckFailed(str(error), harness.steps) from None
        return "the sequence of the repro"
    examples = SEQUENCES if simulable else SEQUENCES_ON_DISK
    folder = str(harness.folder / "hypothesis")
    return compare_with_model(make_ground, examples=examples, folder=folder, seed=harness.seed)


async def read_whole(log: Log) -> bytes:
    """Return every byte of a log."""
    pieces = []
    position = log.start
    while position < log.end:
        piece = bytes(await log.read(position, log.end - position))
        if not piece:
            break
        pieces.append(piece)
        position += len(piece)
    return b"".join(pieces)
