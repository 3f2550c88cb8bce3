"""Asks for a whole batch where a log has none, to mend before damage is reported: the storage, then other nodes.

What is whole is decided here, by the batch's checksums; where copies are is the storage's, or the broker's, to know,
and how one is put right the storage's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from mqcore.abc import Log, Notice
from mqcore.batch import HEADER_BYTES
from mqcore.errors import CommandNotPossibleError, CorruptionError, StorageError
from mqcore.log._scan import check_body, intact_header
from mqcore.log._types import EpochEntry

__all__ = ["AskGood", "GoodCopies", "mend_batch", "mend_from_storage"]

AskGood = Callable[[str, int, EpochEntry], Awaitable[Sequence[bytes]]]
"""Asks other nodes for the batch at a position of a log, which a reign wrote; what they sent may be anything."""


class GoodCopies:
    """Where the logs of one store are mended from besides its storage: ``ask``, None where there is nobody to ask."""

    def __init__(self) -> None:
        self.ask: AskGood | None = None


async def mend_from_storage(log: Log, position: int, end: int, *, salt: int, offset: int | None) -> bool:
    """As ``mend_batch``, from another copy of the storage's alone."""
    where = f"log {log.name} at {position}"

    def whole(view: memoryview) -> int:
        if len(view) < HEADER_BYTES:
            return HEADER_BYTES
        try:
            header = intact_header(view[:HEADER_BYTES], salt, where)
            if offset is not None and not header.base_offset <= offset < max(header.end_offset, header.base_offset + 1):
                return 0
            if len(view) >= header.size:
                check_body(header, view[: header.size], where)
        except (CorruptionError, StorageError):
            return 0
        return header.size

    return await log.mend(position, end - position, whole) > 0


async def mend_batch(
    log: Log,
    position: int,
    end: int,
    *,
    salt: int,
    offset: int | None,
    history: Sequence[EpochEntry],
    good: GoodCopies,
    report: Callable[[Notice], None],
) -> bool:
    """Mend the batch that begins at ``position``, ends at ``end`` or before, and holds ``offset``, if that is known.

    From another copy of the storage's, else from another node by ``good``, durably; a batch of another reign than wrote
    there by the log's ``history`` is no copy of it (G05). Returns whether anything changed. Raises ``StorageError``.
    """
    if await mend_from_storage(log, position, end, salt=salt, offset=offset):
        return True
    reigns = [each for each in history if each.start_position <= position]
    if good.ask is None or not reigns:
        return False
    where = f"log {log.name} at {position}"
    for data in await good.ask(log.name, position, reigns[-1]):
        view = memoryview(data)
        try:
            header = intact_header(view[:HEADER_BYTES], salt, where)
            check_body(header, view, where)
        except (CorruptionError, StorageError):
            continue
        durable_end = min(end, log.durable_end)
        is_it = header.epoch == reigns[-1].number and position + header.size == position + len(view) <= durable_end
        if offset is not None:
            is_it &= header.base_offset <= offset < max(header.end_offset, header.base_offset + 1)
        if is_it:
            try:
                await log.overwrite(position, data)
            except CommandNotPossibleError:
                return False
            text = f"{where}: {header.size} bytes had rotted; they were written anew from another node"
            report(Notice("log-mended", text, {"log": log.name, "position": position, "size": header.size}))
            return True
    return False
