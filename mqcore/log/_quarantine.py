"""Side files: what a recovery or a reconciliation cuts off is kept beside the log, until an operator removes it.

A side file is a log called ``NAME.quarantine-EPOCH-POSITION``, with ``-NUMBER`` behind it where that is taken: one line
of JSON that says what it is, then the bytes as they stood. Must not know of batches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from mqcore.abc import Log, StorageBackend
from mqcore.log._flushing import SerialFlusher
from mqcore.log._names import QUARANTINE_MARK
from mqcore.log._scan import read_exactly

__all__ = ["PARTED", "QUARANTINES_MAX", "Quarantine"]

QUARANTINES_MAX = 16
"""Side files kept per log; an operator removes them."""

PARTED = "another reign has not got it"
"""Why a side file was kept of what is cut: asked for twice with one reason, it is the same file."""

_PIECE_BYTES = 1024 * 1024


class Quarantine:
    """Keeps bytes of the logs of ``backend`` aside. ``names``: the logs that exist, kept up to date."""

    def __init__(self, backend: StorageBackend, names: set[str], flusher: SerialFlusher) -> None:
        self._backend = backend
        self._names = names
        self._flusher = flusher

    async def keep(self, log: Log, begin: int, end: int, *, epoch: int, facts: Mapping[str, object]) -> str | None:
        """Copy ``log`` from ``begin`` to ``end`` into a side file, durably, and return its name; None: too many kept.

        ``facts`` are what the file says of itself, beside the log and the range. Raises ``StorageError``. If cancelled,
        the side file may be there in part; it is written anew when the same range is kept again.
        """
        prefix = log.name + QUARANTINE_MARK
        title = json.dumps({"log": log.name, "position": begin, "end_position": end, **facts}).encode() + b"\n"
        name = await self._name_for(f"{prefix}{epoch}-{begin}", title, log, begin)
        kept = [each for each in self._names if each.startswith(prefix) and each != name]
        if len(kept) >= QUARANTINES_MAX:
            return None
        await self._backend.delete_log(name)  # of an attempt that a crash interrupted: the same bytes, perhaps not all
        side = await self._backend.open_log(name)
        self._names.add(name)
        await side.append([title])
        at = begin
        while at < end:  # in pieces: what an old primary has to give up may be as large as the disk
            piece = await read_exactly(log, at, min(_PIECE_BYTES, end - at))
            await side.append([piece])
            at += len(piece)
        await self._flusher.flush([side])
        await side.aclose()
        return name

    async def _name_for(self, base: str, title: bytes, log: Log, begin: int) -> str:
        """A name of its own for what is to be kept: by epoch and position, and by number where that says too little.

        Several torn tails may be met under one epoch, and people may make two reigns of one number, which part at one
        position: what was kept of the first is not to go for the second. An attempt that a crash interrupted is found
        by what it holds so far.
        """
        name, number = base, 1
        while name in self._names and not await self._is_begun(name, title, log, begin):
            name, number = f"{base}-{number}", number + 1
        return name

    async def _is_begun(self, name: str, title: bytes, log: Log, begin: int) -> bool:
        """Whether the side file holds ``title`` and what ``log`` has from ``begin`` on, or a first part of it."""
        side = await self._backend.open_log(name)
        try:
            head = bytes(await read_exactly(side, side.start, min(len(title), side.end - side.start)))
            if not title.startswith(head):
                return False
            at, position = side.start + len(title), begin
            while at < side.end and position < log.end:
                size = min(_PIECE_BYTES, side.end - at, log.end - position)
                if bytes(await read_exactly(side, at, size)) != bytes(await read_exactly(log, position, size)):
                    return False
                at, position = at + size, position + size
            return at >= side.end
        finally:
            await side.aclose()
