"""Opens one log: its bytes, its sidecar, what a clean stop proved of it; recovers it.

Knows nothing of which logs are open, and of terms only what it passes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from mqcore.abc import Log, StorageBackend
from mqcore.errors import StorageError
from mqcore.log._based import ANEW_SUFFIX, BASE_SUFFIX, LogStart, based, read_start, write_start
from mqcore.log._identity import Identity
from mqcore.log._missing import fill_missing_end, reached, refuse_vanished
from mqcore.log._names import METADATA_NAME, SIDECAR_SUFFIX, is_partition_name
from mqcore.log._partition_log import PartitionLog
from mqcore.log._recovery import recover
from mqcore.log._sidecar import Sidecar
from mqcore.log._starting import check_epoch
from mqcore.log._term import Term
from mqcore.log._unreadable import UnreadableAsZeros
from mqcore.log._writable import LogContext

__all__ = ["LogOpener", "require_metadata"]


class LogOpener:
    """Opens logs of ``backend``; ``names`` are those that exist, kept up to date with what is made here."""

    def __init__(self, backend: StorageBackend, names: set[str], context: LogContext) -> None:
        self._backend = backend
        self._names = names
        self._context = context

    async def open(self, name: str, salt: int, *, term: Term, identity: Identity, was_clean: bool) -> PartitionLog:
        """Return the log called ``name``, recovered, for ``term``. Raises ``StorageError``, ``CorruptionError``.

        ``was_clean``: whether nothing was appended to any log since the last clean stop.
        """
        context = self._context
        if name + ANEW_SUFFIX in self._names:
            await self._go_on_anew(name)
        inner = await self._backend.open_log(name)
        if context.good.ask is not None and is_partition_name(name):
            inner = UnreadableAsZeros(inner, context.report)
        base = await self._backend.open_log(name + BASE_SUFFIX) if name + BASE_SUFFIX in self._names else None
        log = await based(inner, base)
        if base is not None:
            await base.aclose()
        make_sidecar = partial(self._make_sidecar, log, salt)
        sidecar = await make_sidecar() if name + SIDECAR_SUFFIX in self._names else None
        proved = context.ends.of(name)
        refuse_vanished(log, sidecar.log if sidecar is not None else None, proved)
        if log.end < proved.position:
            await fill_missing_end(log, proved, context.flusher.flush)
        is_exact = context.ends.is_exact(name)
        proved = reached(log, proved, context.limits, is_exact=is_exact, was_clean=was_clean)
        state = await recover(
            log,
            sidecar,
            salt=salt,
            limits=context.limits,
            epoch=identity.highest_epoch,
            report=context.report,
            quarantine=context.quarantine,
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
        opened.seek_lost()
        return opened

    async def keep_whole(self, log: PartitionLog, *, epoch: int, reason: str) -> None:
        """Keep everything in ``log``, which is to begin anew, aside, as of ``epoch``. Raises as ``keep_aside``."""
        await log.wait_idle()
        if log.bytes_total:
            await log.keep_aside(log.start_position, epoch=epoch, reason=reason)

    async def begin_anew(self, name: str, begins: LogStart) -> None:
        """Have the log called ``name``, which nothing uses any more, begin at ``begins``, empty. Durable.

        Raises ``StorageError``. A crash or failure at any point leaves the log as it was, or the next opening ends it.
        """
        # Several files are to go, and without one the others say of the log what is not true: it is missing, or stands
        # at other positions. So this says first that none of them counts any more, and what is to come in their place.
        mark = await self._backend.open_log(name + ANEW_SUFFIX)
        self._names.add(mark.name)
        if mark.end > mark.start:
            await mark.truncate(mark.start)
        await write_start(mark, begins)
        await self._context.flusher.flush([mark])
        await mark.aclose()
        await self._replace(name, begins)

    async def _go_on_anew(self, name: str) -> None:
        """End a beginning anew that a crash or a failure has interrupted."""
        mark = await self._backend.open_log(name + ANEW_SUFFIX)
        try:
            begins = await read_start(mark)
        except ValueError:
            begins = None
        await mark.aclose()
        if begins is not None:
            await self._replace(name, begins)
        else:  # not flushed: nothing was removed yet
            await self._remove(mark.name)

    async def _replace(self, name: str, begins: LogStart) -> None:
        """Put an empty log that begins at ``begins`` in the place of what there is, and at last remove what says so."""
        await self._context.ends.forget(name)
        await self._remove(name, name + SIDECAR_SUFFIX, name + BASE_SUFFIX)
        # Of the metadata log even where that is 0: partitions beside an empty one are damage, unless this says why.
        if begins.position or name == METADATA_NAME:
            base = await self._backend.open_log(name + BASE_SUFFIX)
            self._names.add(base.name)
            await write_start(base, begins)
            await self._context.flusher.flush([base])
            await base.aclose()
        await self._remove(name + ANEW_SUFFIX)

    async def _remove(self, *names: str) -> None:
        for each in names:
            await self._backend.delete_log(each)
            self._names.discard(each)

    async def _make_sidecar(self, main: Log, salt: int) -> Sidecar:
        name = main.name + SIDECAR_SUFFIX
        log = await self._backend.open_log(name)
        self._names.add(name)
        return Sidecar(log, main, salt=salt, limits=self._context.limits, report=self._context.report)


async def require_metadata(
    metadata: PartitionLog, name: str, flush: Callable[[Sequence[PartitionLog]], Awaitable[None]]
) -> None:
    """Metadata come first, durably: after a crash a storage with partitions and no metadata is a damaged one."""
    if not metadata.bytes_total:
        text = f"log {name} cannot be copied before the metadata log has its first batch"
        raise StorageError(text, kind="missing", retryable=True)
    if metadata.durable_position == metadata.start_position:
        await flush([metadata])
