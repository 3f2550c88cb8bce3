"""Contract check of a log that begins above 0: what a copy of a trimmed log is, after a rebuild or a migration."""

from __future__ import annotations

from mqcore.abc import Log, StorageBackend
from mqcore.errors import CommandNotPossibleError
from mqcore.guarantees import Level
from mqcore_conformance.contract._checks import NotApplicable, check, expect
from mqcore_conformance.contract._storage import StorageHarness, read_whole

STARTS = (1, 4095, 3 * 1024 * 1024 + 7, 10**12)
"""One far beyond what any disk has: the bytes below a start take no space."""
CONTENT = bytes(range(251)) * 100


@check("storage", "G05")
async def a_log_that_is_begun_above_zero_keeps_its_positions(harness: StorageHarness) -> None:
    """A log made by ``begin_log`` begins, ends and is read at its own positions, in the next life as well."""
    harness.needs_bytes()
    async with harness.opened() as backend:
        for start in STARTS:
            log = await _begun(backend, f"from-{start}", start)
            position = await log.append([CONTENT[:1000], CONTENT[1000:]])
            expect(position == start, f"the first append of a log that begins at {start} was at {position}")
            (reached,) = await backend.flush([log])
            expect(reached.end == start + len(CONTENT), f"a flush states the end {reached.end}, not where the log ends")
            await _expect_whole(log, start)
    if harness.create().capabilities.flush_level < Level.PAGE_CACHE:
        return
    async with harness.opened() as backend:
        listed = await backend.list_logs()
        for start in STARTS:
            expect(f"from-{start}" in listed, f"a log that begins at {start} is not listed in the next life")
            log = await backend.open_log(f"from-{start}")
            await _expect_whole(log, start)
            await log.truncate(start + 100)
            position = await log.append([CONTENT[100:]])
            expect(position == start + 100, f"after a cut at {start + 100} an append was at {position}")
            await _expect_whole(log, start)


async def _begun(backend: StorageBackend, name: str, start: int) -> Log:
    try:
        log = await backend.begin_log(name, start)
    except CommandNotPossibleError as error:
        raise NotApplicable(f"it makes no log that begins above 0 ({error}): no trimmed log is copied to it") from None
    seen = log.start, log.end, log.durable_end
    expect(seen == (start, start, start), f"begun at {start}, a log has start, end and durable end {seen}")
    expect(await backend.open_log(name) is log, "the log that was begun and the one that is open are two objects")
    return log


async def _expect_whole(log: Log, start: int) -> None:
    ends = log.start, log.end
    expect(ends == (start, start + len(CONTENT)), f"a log begun at {start} with {len(CONTENT)} bytes spans {ends}")
    expect(await read_whole(log) == CONTENT, f"a log begun at {start} holds other bytes than were appended")
