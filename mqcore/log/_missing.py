"""Bytes of a log that should be there and are not: absence is damage, with its range, like bad bytes (clause G12).

A log begins where its last recorded trim says, at 0 without one, and ends no lower than where it was noted to be. A
file that was removed makes it look shorter.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from mqcore.abc import Log, Notice
from mqcore.batch import HEADER_BYTES
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log._based import origin_of
from mqcore.log._scan import find_batch
from mqcore.log._state import LogState
from mqcore.log._types import Damage, LogPoint

__all__ = [
    "NOTED_EVERY_BYTES",
    "fill_missing_end",
    "note_missing_start",
    "offsets_lost_max",
    "reached",
    "refuse_vanished",
    "report_missing",
]

NOTED_EVERY_BYTES = 16 * 1024 * 1024
"""Growth of a log between two notes of how far it is durable."""

UNNOTED_BYTES_MAX = 4 * NOTED_EVERY_BYTES
"""What a log is taken to have grown at most, durably, beyond the last note: one flush may cover a lot."""

_ZEROS = bytes(1024 * 1024)


def offsets_lost_max(size: int, limits: Limits) -> int:
    """Most offsets that ``size`` bytes can have held: so many are skipped, so that none is used twice (clause G05)."""
    return (size // HEADER_BYTES + 1) * limits.batch_messages_max


async def note_missing_start(log: Log, state: LogState, *, salt: int, limits: Limits) -> Damage | None:
    """Note in ``state`` what is missing between its start and the first whole batch of ``log``; None if nothing is."""
    if log.start <= state.start_position:
        return None
    offset = state.start_offset
    found = await find_batch(log, log.start, log.end, salt=salt, offset_min=offset, epoch_min=0)
    if found is not None:
        end = LogPoint(found[0], found[1].base_offset)
    else:
        position = max(log.start, log.durable_end)
        end = LogPoint(position, offset + offsets_lost_max(position - state.start_position, limits))
    damage = Damage(state.start_position, end.position, offset, end.offset, "the beginning is missing")
    if state.end_position < damage.end_position:
        state.skip(damage)
    else:  # a checkpoint knows what comes behind it
        state.note_damage(damage)
    state.index.trim(damage.end_position)
    return damage


def refuse_vanished(log: Log, sidecar: Log | None, proved: LogPoint) -> None:
    """Raise ``CorruptionError`` for a log of which nothing is there, and something must be.

    Its checkpoints were made durable with it, or a clean stop found it at ``proved``. Nothing of it can be served, and
    zeros in its place would only hide that its files are to be restored.
    """
    has_checkpoints = sidecar is not None and sidecar.durable_end > sidecar.start
    if log.end == origin_of(log) and (proved.position > log.end or has_checkpoints):
        raise CorruptionError(
            "the log is missing although it held messages; restore its files from a good copy", where=f"log {log.name}"
        )


def reached(log: Log, proved: LogPoint, limits: Limits, *, is_exact: bool, was_clean: bool) -> LogPoint:
    """Where ``log`` goes on if nothing of it is found from ``proved`` on, which was noted when it had come that far.

    Unless ``is_exact`` it had not ended there: what came after took offsets that are not to be used again (clause G05).
    ``was_clean``: nothing was appended since. A storage that cannot know how long a lost file was takes it for longer:
    that costs positions, but no offsets.
    """
    if not proved.position or (is_exact and not was_clean):
        return proved
    if is_exact:
        return proved._replace(position=max(proved.position, log.durable_end))
    return proved._replace(offset=proved.offset + offsets_lost_max(UNNOTED_BYTES_MAX, limits))


async def fill_missing_end(log: Log, proved: LogPoint, flush: Callable[[Sequence[Log]], Awaitable[None]]) -> None:
    """Append zeros, durably, up to the position that ``log`` had reached before its end was lost.

    So the range stays damage for every later start, no position has two contents, and no offset of it is used again.
    """
    while log.end < proved.position:
        await log.append([_ZEROS[: proved.position - log.end]])
    await flush([log])


def report_missing(ends: Iterable[str], names: Iterable[str], *, limit: int, report: Callable[[Notice], None]) -> None:
    """Report logs that a clean stop found (``ends``) and this start did not; ``limit`` of them by name."""
    missing = sorted(set(ends) - set(names))
    if missing:
        text = f"{len(missing)} logs are missing, such as {missing[0]}; restore their files from a good copy"
        report(Notice("logs-missing", text, {"logs": missing[:limit]}))
