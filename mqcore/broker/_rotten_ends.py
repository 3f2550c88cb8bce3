"""What a node does about logs whose end has rotted, before it may reign: mended, or given up as something it lost (R2).

What was at the end and how many offsets it took is not known. To write behind it would leave a gap that no other node
can have, and offsets that may be used already would be passed over by a guess. Must not know who may reign.
"""

from __future__ import annotations

from collections.abc import Callable

from mqcore.abc import Notice
from mqcore.errors import CommandNotPossibleError, CorruptionError, StorageError
from mqcore.log import PARTED, LogStore, PartitionLog, salt_of_name

__all__ = ["gave_up_rotten_ends", "mend_rotten_ends", "note_rotten_cut"]


async def mend_rotten_ends(store: LogStore, report: Callable[[Notice], None]) -> list[PartitionLog]:
    """Mend what rotted at the end of logs from the nodes that answer; return the logs in which it stays.

    What cannot be opened or read is left as it is. If cancelled, some may be mended.
    """
    stay: list[PartitionLog] = []
    for name in await store.list_logs():
        log: PartitionLog | None = None
        salt = salt_of_name(name)
        if salt is None:
            continue
        try:
            log = await store.open_log(name, salt=salt)
            if log.open_end is not None and log.failed is None:
                await log.mend_damages()
                if log.open_end is not None:
                    stay.append(log)
        except (StorageError, CorruptionError) as error:
            report(Notice("damage-stays", f"damaged at its end and not mended: {name}: {error}", {"log": name}))
            if log is not None and log.open_end is not None:
                stay.append(log)
    return stay


async def gave_up_rotten_ends(store: LogStore, report: Callable[[Notice], None]) -> bool:
    """Keep aside and cut what rotted at the end of logs and no node that answers has whole; return whether any did.

    Then the incarnation is raised: this node had reported it as held, and one that does not answer may have it. In no
    role. Raises ``CommandNotPossibleError`` where something cannot be kept aside or cut, such as on a full disk: as
    long as it is there this node may not reign. If cancelled, some may be cut.
    """
    gave_up, stays = False, ""
    for log in await mend_rotten_ends(store, report):
        try:
            gave_up |= await _gave_up(store, log, report)
        except (StorageError, CorruptionError) as error:
            stays = f"what was written last to log {log.name} has rotted, and is not to be written behind: {error}"
    if stays:
        raise CommandNotPossibleError(stays)
    return gave_up


async def _gave_up(store: LogStore, log: PartitionLog, report: Callable[[Notice], None]) -> bool:
    cut = log.open_end
    if cut is None:
        return False
    # Before anything is said to be lost: it may be in vain, again and again, and nothing has changed then.
    await log.keep_aside(cut, epoch=log.term.epoch, reason=PARTED)
    await store.raise_incarnation()
    aside = await log.part_at(cut)
    text = (
        f"log {log.name}: what was written last has rotted from {cut} on, and no node that answers has it whole: it is "
        f"kept in {aside}, the log ends at offset {log.end_offset}, and this node is to join its set again"
    )
    facts = {"log": log.name, "position": cut, "offset": log.end_offset, "quarantine": aside}
    report(Notice("log-end-damaged", text, facts))
    return True


async def note_rotten_cut(store: LogStore, log: PartitionLog, cut: int) -> bool:
    """Before a log is cut at ``cut``, where another history parts: return whether it has rotted there.

    What opened a reign may have been there, and not to know it is no other history: what is cut may count. So it is
    kept aside, and the incarnation is raised (R2). Raises ``DamagedRangeError`` where rot hides whether a batch begins
    there, ``StorageError``; then the incarnation is what it was. If cancelled, some of it is done.
    """
    header = await log.batch_at(cut)
    if header is not None and not any(damage.position <= cut < damage.end_position for damage in log.damages):
        return False
    if await log.begins_at(cut) is None:
        return False
    if header is None or header.base_offset < log.end_offset:
        # First what may be in vain, again and again: nothing has changed then.
        await log.keep_aside(cut, epoch=log.term.epoch, reason=PARTED)
    await store.raise_incarnation()
    return True
