"""Checks batches that another node stamped, before a byte of them is appended (rules R3, R4). Pure.

A copy is byte-identical or it is refused: what is checked here is all that a recovery of the copy would check, and
besides that the batches belong where they are to go and to reigns that may be followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mqcore.batch import HEADER_BYTES, BatchHeader, PlainRun, plain_run
from mqcore.errors import CorruptionError
from mqcore.log._control import EPOCH, EpochFacts, Lost, ProducerEnd, control_kind
from mqcore.log._history import UNKNOWN_REIGN
from mqcore.log._producer_bytes import KeptProducers
from mqcore.log._scan import check_body, intact_header, opening_of, producers_in
from mqcore.log._state import LogState
from mqcore.log._term import FollowedReign
from mqcore.ports import Buffer

__all__ = ["ForeignBatch", "check_foreign"]


class ForeignBatch(NamedTuple):
    """A batch that was checked: its header, the reign that it opens, what it says of producers."""

    header: BatchHeader
    opening: EpochFacts | None
    told: list[ProducerEnd] | KeptProducers | Lost | None


def check_foreign(
    data: Sequence[Buffer], state: LogState, *, followed: FollowedReign, salt: int, where: str
) -> list[ForeignBatch | PlainRun]:
    """Return what the batches in ``data`` say of the log, if they may follow ``state``: those of producers in runs.

    Each item of ``data`` holds whole batches, one after the other. ``state`` is not changed. Raises
    ``CorruptionError``: what was expected, what was found.
    """
    _check_known_reign(state, followed, where)
    checked: list[ForeignBatch | PlainRun] = []
    offset, epoch, epoch_free = state.end_offset, state.epoch, state.epoch_free
    for item in data:
        view = memoryview(item)
        at = 0
        while at < len(view):
            if not epoch_free and epoch <= followed.number:
                run = plain_run(view, at, salt=salt, offset=offset, epoch=epoch)
                if run.batches:
                    checked.append(run)
                    at, offset = at + run.size, run.end_offset
                    continue
            header = intact_header(view[at : at + HEADER_BYTES], salt, where)
            batch = view[at : at + header.size]
            if len(batch) < header.size:
                raise CorruptionError(
                    "batch is cut short", where=where, expected=f"{header.size} bytes", found=f"{len(batch)}"
                )
            if header.base_offset != offset:
                raise CorruptionError(
                    "batch of another offset", where=where, expected=str(offset), found=str(header.base_offset)
                )
            # Again, although the link has checksums and the primary read it checked: what is damaged here is damaged
            # on every copy, and none is left to repair it from (G12).
            check_body(header, batch, where)
            opening = opening_of(header, batch, epoch, where, epoch_free=epoch_free)
            _check_epoch(header, batch, opening, followed, where)
            checked.append(ForeignBatch(header, opening, producers_in(header, batch, where)))
            offset, epoch, epoch_free = header.end_offset, header.epoch, False
            at += header.size
    return checked


def _check_known_reign(state: LogState, followed: FollowedReign, where: str) -> None:
    """Two reigns may have one number where people promote by hand; their batches must not meet in one log."""
    if state.epoch != followed.number:
        return
    known = state.history.last_id
    if known not in (followed.reign_id, UNKNOWN_REIGN):
        raise CorruptionError(
            f"the log holds another reign {followed.number}",
            where=where,
            expected=followed.reign_id.hex(),
            found=known.hex(),
        )


def _check_epoch(
    header: BatchHeader, batch: memoryview, opening: EpochFacts | None, followed: FollowedReign, where: str
) -> None:
    if header.epoch > followed.number:
        raise CorruptionError(
            "batch of a later reign than the one followed",
            where=where,
            expected=f"at most {followed.number}",
            found=str(header.epoch),
        )
    if opening is None:
        if header.is_control and control_kind(batch) == EPOCH:
            raise CorruptionError(f"epoch {header.epoch} is opened twice", where=where)
    elif opening.number == followed.number and opening.reign_id != followed.reign_id:
        raise CorruptionError(
            f"reign {opening.number} of another id",
            where=where,
            expected=followed.reign_id.hex(),
            found=opening.reign_id.hex(),
        )
