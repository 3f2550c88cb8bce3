"""Recovery of one log: from the newest checkpoint that flushed bytes prove, forward to the true end.

Below the durable mark what is invalid is damage: reported, passed over, never cut (clause G12). At or above it the log
ends at the first invalid byte, and what follows is kept aside, unless it is of another time (``_tail``). Doing it twice
is doing it once (clause G17).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from mqcore.abc import Log, Notice
from mqcore.batch import HEADER_BYTES
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log._names import QUARANTINE_MARK
from mqcore.log._scan import BatchScanner, find_batch, header_at, locate_damage, read_exactly, scan_to
from mqcore.log._sidecar import Sidecar
from mqcore.log._state import LogState
from mqcore.log._tail import torn_range
from mqcore.log._types import Damage

__all__ = [
    "QUARANTINE_BYTES_MAX",
    "damage_notice",
    "from_start",
    "rebuild",
    "recover",
    "refuse_vanished",
    "scan_past_damage",
]

QUARANTINE_BYTES_MAX = 64 * 1024 * 1024
"""Most bytes of one torn tail that are kept aside."""

_PIECE_BYTES = 1024 * 1024


def refuse_vanished(log: Log, sidecar: Log) -> None:
    """Refuse a log that has nothing, beside a sidecar that a flush made durable with it: it was removed (G12)."""
    if log.end == 0 and sidecar.durable_end > sidecar.start:
        raise CorruptionError(
            "the log is missing although its checkpoints are there; restore its files from a good copy",
            where=f"log {log.name}",
        )


async def rebuild(
    log: Log,
    sidecar: Sidecar | None,
    *,
    salt: int,
    limits: Limits,
    durable_end: int,
    report: Callable[[Notice], None],
) -> tuple[LogState, str]:
    """Return the state of ``log`` up to its true end, and why it ends there when bytes follow (else empty).

    Reads only, but for what the sidecar cuts off. Damage below ``durable_end`` is in ``damages`` and reported.
    """
    state = await sidecar.newest(durable_end) if sidecar is not None else None
    if state is None or state.start_position < log.start:
        state = await from_start(log, salt, limits, report)
    scanner = BatchScanner(state, salt, f"log {log.name}")
    await scan_past_damage(log, scanner, salt=salt, limits=limits, durable_end=durable_end, report=report)
    return state, scanner.invalid


async def scan_past_damage(
    log: Log,
    scanner: BatchScanner,
    *,
    salt: int,
    limits: Limits,
    durable_end: int,
    report: Callable[[Notice], None],
) -> None:
    """Scan to the true end of ``log``; damage below ``durable_end`` is passed over, noted in the state and reported."""
    state = scanner.state
    while True:
        await scan_to(log, scanner, log.end)
        position = state.end_position
        if position >= log.end or position >= durable_end:
            return
        header = await header_at(log, position, log.end, salt)
        whole = header.size if header is not None and header.base_offset == state.end_offset else HEADER_BYTES
        if position + whole > durable_end:
            return  # the mark does not cover this batch: torn, not damaged
        # no offset that may have been used is used again (clause G05)
        lost_max = ((durable_end - position) // HEADER_BYTES + 1) * limits.batch_messages_max
        damage = await locate_damage(
            log,
            position,
            salt=salt,
            offset=state.end_offset,
            epoch=state.epoch,
            text=scanner.invalid,
            search_end=log.end,
            boundary=(state.end_offset + lost_max, durable_end),
        )
        state.skip(damage)
        report(damage_notice(log.name, damage))


async def recover(
    log: Log,
    sidecar: Sidecar | None,
    *,
    salt: int,
    limits: Limits,
    epoch: int,
    report: Callable[[Notice], None],
    keep_aside: Callable[[str, list[bytes | memoryview]], Awaitable[bool]],
) -> LogState:
    """Bring ``log`` to its true end, durably, and return its state.

    ``keep_aside(name, chunks)`` writes a side log and flushes it; False when there is no room for one. ``epoch``
    names it. A crash at any point leaves what the next recovery needs.
    """
    state, why = await rebuild(
        log, sidecar, salt=salt, limits=limits, durable_end=log.durable_end, report=report
    )
    end = state.end_position
    if log.end > end:
        _, end_torn = await torn_range(log, state, salt, limits)
        if end_torn > end:
            await _set_aside(log, end, end_torn, why, epoch, report, keep_aside)
        await log.truncate(end)
    return state


def damage_notice(name: str, damage: Damage) -> Notice:
    """The notice that tells of damage below the durable mark."""
    return Notice(
        "log-damaged",
        f"log {name}: {damage.place} are damaged and are not served ({damage.text}); restore them from a good copy",
        {
            "log": name,
            "position": damage.position,
            "end_position": damage.end_position,
            "first_offset": damage.first_offset,
            "next_offset": damage.next_offset,
        },
    )


async def from_start(log: Log, salt: int, limits: Limits, report: Callable[[Notice], None]) -> LogState:
    """The state from which a log without a checkpoint is scanned; reported if it was trimmed."""
    state = LogState(limits)
    if log.start == 0:
        return state
    found = await find_batch(log, log.start, log.end, salt=salt, offset_min=0, epoch_min=0)
    if found is not None:
        position, header = found
        state.begin_at(position, header.base_offset)
        text = f"it begins with the first whole batch, offset {header.base_offset}"
    else:
        state.begin_at(log.end, 0)
        text = "no whole batch is left in it"
    report(
        Notice(
            "log-start-unknown",
            f"log {log.name} was trimmed and its sidecar is lost: {text}; what was known of reigns and "
            "producers before that is lost",
            {"log": log.name, "start_offset": state.start_offset},
        )
    )
    return state


async def _set_aside(
    log: Log,
    begin: int,
    end: int,
    why: str,
    epoch: int,
    report: Callable[[Notice], None],
    keep_aside: Callable[[str, list[bytes | memoryview]], Awaitable[bool]],
) -> None:
    size = min(end - begin, QUARANTINE_BYTES_MAX)
    name = f"{log.name}{QUARANTINE_MARK}{epoch}"
    facts: dict[str, object] = {"log": log.name, "position": begin, "end_position": end, "reason": why}
    title = json.dumps(facts).encode() + b"\n"
    chunks: list[bytes | memoryview] = [title]
    at = begin
    while at < begin + size:
        chunks.append(await read_exactly(log, at, min(_PIECE_BYTES, begin + size - at)))
        at += len(chunks[-1])
    kept = await keep_aside(name, chunks)
    where = f"kept in {name}" if kept else "not kept: too many are kept already, remove some"
    part = "" if size == end - begin else f" (the first {size} of them)"
    report(
        Notice(
            "log-torn",
            f"log {log.name}: {end - begin} bytes from {begin} on are torn or damaged ({why or 'not a batch'}); they "
            f"lie above the durable mark and are cut off, {where}{part}",
            {**facts, "quarantine": name if kept else None, "bytes": end - begin},
        )
    )
