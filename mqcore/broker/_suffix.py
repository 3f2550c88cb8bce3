"""What another member has more of, fetched before this node reigns (guarantees, section 5): both ends of it.

The rules are those of a replica's stream, R4 and R5: the last batch is judged by the other's history, what that has not
got is kept aside and cut, and what follows is checked like every copy. Asked request by request, because nobody reigns
meanwhile. Must not know who may reign.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping

from mqcore.abc import Notice
from mqcore.broker._parting import leaves_too_little
from mqcore.broker._rotten_ends import note_rotten_cut
from mqcore.errors import CommandNotPossibleError, CorruptionError, MqcoreError
from mqcore.log import METADATA_NAME, PARTED, LogStart, LogStore, PartitionLog, salt_of_name
from mqcore.operations import FetchSuffix, LogSuffix
from mqcore.replication import Counts, Held, PartsAt, cut_of_divergence, judge_report

__all__ = ["AskSuffix", "fetch_suffixes", "suffix_of"]

AskSuffix = Callable[[FetchSuffix], Awaitable[LogSuffix]]
"""Asks one node for the continuation of one log. Raises ``MqcoreError``."""


async def suffix_of(store: LogStore, request: FetchSuffix, bytes_max: int) -> LogSuffix:
    """Return what ``store`` has of a log after the batch that the other node has last, or where the two part.

    Raises ``CommandNotPossibleError`` for a log that is not here, ``StorageError``, ``CorruptionError``.
    """
    if request.log != METADATA_NAME and request.log not in await store.list_logs():
        raise CommandNotPossibleError(f"no log {request.log[:200]!r} here")
    log = await _open(store, request.log)
    held = Held(request.epoch, bytes.fromhex(request.reign_id), request.position, request.end)
    judged = judge_report(log.history, log.start_position, log.end_position, held)
    if isinstance(judged, Counts) and request.epoch:
        header = await log.batch_at(request.position)
        if header is None or header.epoch != request.epoch or request.position + header.size != request.end:
            raise CommandNotPossibleError(f"no batch from {request.position} to {request.end} in {log.name} here")
    if isinstance(judged, PartsAt):
        return LogSuffix(start=log.start_position, parts_epoch=judged.epoch, parts_position=judged.position)
    stored = await log.read_stored(request.end, bytes_max, log.end_position)
    data = b"".join(stored.chunks)
    return LogSuffix(start=log.start_position, batches=base64.b64encode(data).decode())


async def fetch_suffixes(
    store: LogStore,
    wanted: Mapping[str, AskSuffix],
    *,
    epoch: int,
    reign_id: bytes,
    report: Callable[[Notice], None],
) -> None:
    """Bring the logs ``wanted``, each from the node that is asked for it, to that node's end, and flush them.

    ``epoch``, ``reign_id``: of a reign that none of their batches is later than. Outside of any term of ``store``, and
    so again when it returns. One that cannot be brought there holds up no other. Raises ``MqcoreError`` for the first
    such: then some may be longer than before, and what was cut is kept aside. If cancelled, likewise.
    """
    await store.follow(epoch, reign_id)
    try:
        fetched, failure = [], None
        # The metadata log first: a storage with partitions and without metadata is a damaged one.
        for name in sorted(wanted, key=lambda each: (each != METADATA_NAME, each)):
            try:
                log = await _fetch(store, await _open(store, name), wanted[name], report)
            except MqcoreError as error:
                if name == METADATA_NAME:
                    raise
                failure = failure or error
                continue
            fetched.append(log)
            if name == METADATA_NAME:
                await store.flush([log])
        # Before the record is written: after that this node alone may be electable.
        await store.flush(fetched)
        failed = [log for log in fetched if log.failed is not None]
        if failure is not None:
            raise failure
        if failed:
            raise CommandNotPossibleError(f"log {failed[0].name} has stopped: {failed[0].failed}")
    finally:
        await store.leave()


async def _fetch(store: LogStore, log: PartitionLog, ask: AskSuffix, report: Callable[[Notice], None]) -> PartitionLog:
    while True:
        epoch, reign_id, position = log.last_batch
        end = log.end_position
        answer = await ask(
            FetchSuffix(log=log.name, epoch=epoch, reign_id=reign_id.hex(), position=max(position, 0), end=end)
        )
        if answer.parts_epoch is not None:
            if log.hides_reign:
                await log.mend_damages()
                if not log.hides_reign:
                    continue
            log = await _part(store, log, answer, report)
            continue
        try:
            data = base64.b64decode(answer.batches, validate=True)
        except ValueError as error:
            raise CorruptionError(f"not base64: {error}", where=f"suffix of {log.name}") from None
        if not data:
            return log
        await log.append_foreign([data], position=end)


async def _part(
    store: LogStore, log: PartitionLog, answer: LogSuffix, report: Callable[[Notice], None]
) -> PartitionLog:
    """Give up what the other node has not got; return the log that goes on from there."""
    assert answer.parts_epoch is not None
    end_position, end_offset = log.end_position, log.end_offset
    if answer.start > end_position:
        raise CommandNotPossibleError(
            f"log {log.name} ends at {end_position} here, and begins at {answer.start} on the node that has more"
        )
    try:
        cut = cut_of_divergence(log.history, end_position, PartsAt(answer.parts_epoch, answer.parts_position))
    except ValueError as error:
        raise CommandNotPossibleError(f"log {log.name}: {error}") from None
    if await leaves_too_little(store, log, cut):
        if answer.start or log.name != METADATA_NAME:
            text = f"log {log.name} begins at {log.start_position} here, and is another one below {end_position}"
            raise CommandNotPossibleError(f"{text} on the node that has more: that node has to reign first")
        await store.begin_anew(METADATA_NAME, LogStart(), kept_for=PARTED, was_told=False)
        report(Notice("log-diverged", f"log {log.name} is another one on the node that has more: it is kept aside"))
        return store.metadata
    await note_rotten_cut(store, log, cut)
    name = await log.part_at(cut)
    text = (
        f"log {log.name}: {end_offset - log.end_offset} messages from offset {log.end_offset} on are not in what a "
        f"later reign made of it; they are kept in {name or 'no file, for there are none'}"
    )
    facts: dict[str, object] = {"log": log.name, "position": cut, "end_position": end_position, "quarantine": name}
    report(Notice("log-diverged", text, facts))
    return log


async def _open(store: LogStore, name: str) -> PartitionLog:
    if name == METADATA_NAME:
        return store.metadata
    salt = salt_of_name(name)
    if salt is None:
        raise CommandNotPossibleError(f"{name[:200]!r} is no log of a partition")
    try:
        return await store.open_log(name, salt=salt)
    except MqcoreError as error:
        raise CommandNotPossibleError(f"log {name} cannot be opened: {error}") from error
