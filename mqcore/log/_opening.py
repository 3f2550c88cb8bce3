"""Opens one log: its bytes, its sidecar, what a clean stop proved of it; recovers it, and keeps torn tails aside.

Knows nothing of which logs are open, and of terms only what it passes on.
"""

from __future__ import annotations

from functools import partial

from mqcore.abc import Log, StorageBackend
from mqcore.log._identity import Identity
from mqcore.log._missing import fill_missing_end, reached, refuse_vanished
from mqcore.log._names import QUARANTINE_MARK, SIDECAR_SUFFIX
from mqcore.log._partition_log import PartitionLog
from mqcore.log._recovery import recover
from mqcore.log._sidecar import Sidecar
from mqcore.log._starting import check_epoch
from mqcore.log._term import Term
from mqcore.log._writable import LogContext

__all__ = ["LogOpener"]

QUARANTINES_MAX = 16
"""Torn tails kept per log; an operator removes them."""


class LogOpener:
    """Opens logs of ``backend``; ``names`` are those that exist, kept up to date with what is made here."""

    def __init__(self, backend: StorageBackend, names: set[str], context: LogContext) -> None:
        self._backend = backend
        self._names = names
        self._context = context

    async def open(
        self, name: str, salt: int, *, term: Term, identity: Identity, was_clean: bool
    ) -> PartitionLog:
        """Return the log called ``name``, recovered, for ``term``. Raises ``StorageError``, ``CorruptionError``.

        ``was_clean``: whether nothing was appended to any log since the last clean stop.
        """
        context = self._context
        log = await self._backend.open_log(name)
        make_sidecar = partial(self._make_sidecar, log, salt)
        sidecar = await make_sidecar() if name + SIDECAR_SUFFIX in self._names else None
        proved = context.ends.of(name)
        refuse_vanished(log, sidecar.log if sidecar is not None else None, proved)
        if log.end < proved.position:
            await fill_missing_end(log, proved, context.flusher.flush)
        if was_clean:
            proved = reached(log, proved)
        state = await recover(
            log,
            sidecar,
            salt=salt,
            limits=context.limits,
            epoch=identity.highest_epoch,
            report=context.report,
            keep_aside=self._keep_aside,
            proved=proved,
        )
        opened = PartitionLog(
            log, state, salt=salt, context=context, term=term, sidecar=sidecar, make_sidecar=make_sidecar
        )
        check_epoch(identity, name, opened.epoch_at(opened.end_offset))
        # What the process before this one left in the page cache is served from now on: it has to be durable first.
        if log.durable_end < log.end:
            await context.flusher.flush([log])
        opened.flushed(state.end_offset, state.end_position)
        self._names.add(name)
        return opened

    async def _make_sidecar(self, main: Log, salt: int) -> Sidecar:
        name = main.name + SIDECAR_SUFFIX
        log = await self._backend.open_log(name)
        self._names.add(name)
        return Sidecar(log, main, salt=salt, limits=self._context.limits, report=self._context.report)

    async def _keep_aside(self, name: str, chunks: list[bytes | memoryview]) -> bool:
        prefix = name[: name.index(QUARANTINE_MARK) + len(QUARANTINE_MARK)]
        kept = [each for each in self._names if each.startswith(prefix) and each != name]
        if len(kept) >= QUARANTINES_MAX:
            return False
        await self._backend.delete_log(name)  # of a recovery that a crash interrupted: the same bytes, perhaps not all
        log = await self._backend.open_log(name)
        self._names.add(name)
        await log.append(chunks)
        await self._context.flusher.flush([log])
        await log.aclose()
        return True
