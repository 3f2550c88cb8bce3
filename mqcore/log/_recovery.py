"""Recovery of one log: from the newest checkpoint that flushed bytes prove, forward to the true end.

Below the durable mark what is invalid is damage: reported, passed over, never cut (clause G12). At or above it the log
ends at the first invalid byte, and what follows is kept aside, unless it is of another time (``_tail``). Recovery
is idempotent (clause G17).
"""

from __future__ import annotations

from collections.abc import Callable

from mqcore.abc import Log, Notice
from mqcore.batch import HEADER_BYTES
from mqcore.limits import Limits
from mqcore.log._based import first_state
from mqcore.log._mending import mend_from_storage
from mqcore.log._missing import note_missing_start, offsets_lost_max
from mqcore.log._quarantine import Quarantine
from mqcore.log._scan import BatchScanner, header_at, locate_damage, scan_to
from mqcore.log._sidecar import Sidecar
from mqcore.log._state import LogState
from mqcore.log._tail import torn_range
from mqcore.log._types import NOWHERE, Damage, LogPoint

__all__ = [
    "QUARANTINE_BYTES_MAX",
    "damage_notice",
    "rebuild",
    "recover",
    "scan_past_damage",
]

QUARANTINE_BYTES_MAX = 64 * 1024 * 1024
"""Most bytes of one torn tail that are kept aside."""


async def rebuild(
    log: Log,
    sidecar: Sidecar | None,
    *,
    salt: int,
    limits: Limits,
    durable_end: int,
    report: Callable[[Notice], None],
    proved: LogPoint = NOWHERE,
) -> tuple[LogState, str]:
    """Return the state of ``log`` up to its true end, and why it ends there when bytes follow (else empty).

    Reads only, but for what the sidecar cuts off. Damage below ``durable_end`` is in ``damages`` and reported.
    """
    state = await sidecar.newest(durable_end) if sidecar is not None else None
    if state is None:
        state = first_state(log, limits)
    damage = await note_missing_start(log, state, salt=salt, limits=limits)
    if damage is not None:
        report(damage_notice(log.name, damage))
    scanner = BatchScanner(state, salt, f"log {log.name}")
    await scan_past_damage(
        log, scanner, salt=salt, limits=limits, durable_end=durable_end, report=report, proved=proved
    )
    return state, scanner.invalid


async def scan_past_damage(
    log: Log,
    scanner: BatchScanner,
    *,
    salt: int,
    limits: Limits,
    durable_end: int,
    report: Callable[[Notice], None],
    proved: LogPoint = NOWHERE,
) -> None:
    """Scan to the true end of ``log``; damage below ``durable_end`` is passed over, noted in the state and reported.

    ``proved``: where the last clean stop found the end, if that is known.
    """
    state = scanner.state
    mended = -1
    while True:
        await scan_to(log, scanner, log.end)
        position = state.end_position
        # Another copy may have the batch that this one lacks, above the mark too: the last flush before a crash.
        is_new = mended < position < log.end
        if is_new and await mend_from_storage(log, position, log.end, salt=salt, offset=state.end_offset):
            mended = position
            continue
        if position >= log.end or position >= durable_end:
            return
        # A batch that straddles the mark was appended after the flush that the mark proves: no part of it is damage.
        header = await header_at(log, position, log.end, salt)
        header = header if header is not None and header.base_offset == state.end_offset else None
        if position + (HEADER_BYTES if header is None else header.size) > durable_end:
            return
        # Where nothing whole follows, no offset that may have been used is used again (clause G05).
        if proved.position >= durable_end:
            boundary = (max(proved.offset, state.end_offset), proved.position)
        else:
            boundary = (state.end_offset + offsets_lost_max(durable_end - position, limits), durable_end)
        damage = await locate_damage(
            log,
            position,
            salt=salt,
            offset=state.end_offset,
            epoch=state.epoch,
            text=scanner.invalid,
            search_end=log.end,
            boundary=boundary,
        )
        state.skip(damage, header)
        report(damage_notice(log.name, damage))


async def recover(
    log: Log,
    sidecar: Sidecar | None,
    *,
    salt: int,
    limits: Limits,
    epoch: int,
    report: Callable[[Notice], None],
    quarantine: Quarantine,
    proved: LogPoint,
) -> LogState:
    """Bring ``log`` to its true end, durably, and return its state.

    ``quarantine`` keeps what is cut off in a side file, which ``epoch`` names. ``proved``: where the last clean stop
    found the end, no higher than that of ``log``. A crash at any point leaves what the next recovery needs.
    """
    durable_end = max(log.durable_end, proved.position)
    state, why = await rebuild(
        log, sidecar, salt=salt, limits=limits, durable_end=durable_end, report=report, proved=proved
    )
    end = state.end_position
    if log.end > end:
        _, end_torn = await torn_range(log, state, salt, limits)
        if end_torn > end:
            await _set_aside(log, end, end_torn, why, epoch, report, quarantine)
        await log.truncate(end)
    return state


def damage_notice(name: str, damage: Damage) -> Notice:
    """The notice of damage below the durable mark."""
    remedy = "" if damage.is_given_up else "; restore them from a good copy"
    return Notice(
        "log-damaged",
        f"log {name}: {damage.place} are damaged and are not served ({damage.text}){remedy}",
        {
            "log": name,
            "position": damage.position,
            "end_position": damage.end_position,
            "first_offset": damage.first_offset,
            "next_offset": damage.next_offset,
        },
    )


async def _set_aside(
    log: Log, begin: int, end: int, why: str, epoch: int, report: Callable[[Notice], None], quarantine: Quarantine
) -> None:
    size = min(end - begin, QUARANTINE_BYTES_MAX)
    facts: dict[str, object] = {"log": log.name, "position": begin, "end_position": end, "reason": why}
    name = await quarantine.keep(log, begin, begin + size, epoch=epoch, facts={"end_position": end, "reason": why})
    where = f"kept in {name}" if name is not None else "not kept: too many are kept already, remove some"
    part = "" if size == end - begin else f" (the first {size} of them)"
    report(
        Notice(
            "log-torn",
            f"log {log.name}: {end - begin} bytes from {begin} on are torn or damaged ({why or 'not a batch'}); they "
            f"lie above the durable mark and are cut off, {where}{part}",
            {**facts, "quarantine": name, "bytes": end - begin},
        )
    )
