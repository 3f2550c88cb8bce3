"""One batch of a log as another node of the set has it, to put what has rotted right (G12): both ends of it.

What is sent is checked by whoever asked, as a copy of the primary's would be. Must not know why a batch is wanted.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs

from mqcore.batch import verify_body
from mqcore.broker._asking import Asked
from mqcore.errors import CommandNotPossibleError, CorruptionError, MqcoreError
from mqcore.log import (
    UNKNOWN_REIGN,
    Answers,
    CopyThere,
    EpochEntry,
    LogPoint,
    LogStore,
    PartitionLog,
    salt_of_name,
)
from mqcore.operations import FetchBatch, StoredBatch, from_result, to_arguments

__all__ = ["GoodCopyAsker", "stored_batch"]

_BATCH_BYTES_MAX = 1 << 30
"""No batch is larger, whatever the limits were when it was sent."""

AskAll = Callable[[str, Mapping[str, Any]], Awaitable[Asked[Any]]]
"""Asks every other node of the set for an operation; returns the answers of those that gave one, by name."""


class GoodCopyAsker:
    """Asks all other nodes of a set for one batch; of what they answer nothing is believed.

    ``store``: of the node that asks.
    """

    def __init__(self, ask_all: AskAll, store: LogStore) -> None:
        self._ask_all = ask_all
        self._store = store

    async def ask(self, log: str, position: int, reign: EpochEntry) -> Answers:
        """Return what the others, by name, have at ``position`` of a log, of that ``reign``. Raises nothing."""
        request = FetchBatch(log=log, position=position, epoch=reign.number, reign_id=reign.reign_id.hex())
        asked, is_complete = await self._ask(request)
        follows = self._store.metadata.term.followed is not None
        found = {name: _copy_there(stored, data, follows=follows) for name, (stored, data) in asked.items()}
        partial = {name: asked[name][0].size for name, copy in found.items() if len(copy.batch) < asked[name][0].size}
        while partial:
            begin = min(len(found[name].batch) for name in partial)
            more, _ = await self._ask(attrs.evolve(request, begin=begin))
            for name, size in list(partial.items()):
                before = found[name].batch
                if len(before) > begin:
                    continue  # its answers are larger
                stored, data = more.get(name, (StoredBatch(), b""))
                if not data or stored.size != size or begin + len(data) > size:
                    # It has it, and has not sent it: that is not the same as to have it no more.
                    del partial[name], found[name]
                    is_complete = False
                    continue
                found[name] = found[name]._replace(batch=before + data)
                if begin + len(data) == size:
                    del partial[name]
        return Answers(found, is_complete=is_complete)

    async def _ask(self, request: FetchBatch) -> tuple[dict[str, tuple[StoredBatch, bytes]], bool]:
        """What all others answer, by name, with the bytes that came; whether every one did."""
        asked = await self._ask_all("set.batch", to_arguments(request))
        found: dict[str, tuple[StoredBatch, bytes]] = {}
        for name, answer in asked.answers.items():
            # Nonsense is no good copy, and is no reason to stop reading either.
            with suppress(ValueError):
                stored = from_result(StoredBatch, answer)
                if len(bytes.fromhex(stored.reign_id)) not in (0, len(UNKNOWN_REIGN)) or stored.size > _BATCH_BYTES_MAX:
                    raise ValueError(f"{stored.reign_id!r} is no id of a reign, or {stored.size} bytes no batch")
                found[name] = stored, base64.b64decode(stored.batch, validate=True)
        return found, not asked.silent and len(found) == len(asked.answers)


def _copy_there(stored: StoredBatch, batch: bytes, *, follows: bool) -> CopyThere:
    reign = None
    if stored.epoch:
        reign_id = bytes.fromhex(stored.reign_id)
        reign = EpochEntry(stored.epoch, reign_id or UNKNOWN_REIGN, stored.start_position, stored.start_offset)
    end = LogPoint(stored.end_position, stored.end_offset)
    return CopyThere(batch, end, reign, is_followed=follows and stored.is_of_primary)


async def stored_batch(store: LogStore, request: FetchBatch, bytes_max: int) -> StoredBatch:
    """Return the batch at a position of a log, whole, if the reign that is named wrote there; with an id of zeros: one
    of that number, for who does not know more of it. Where it is not so, or it is damaged here too, that is said.

    At most ``bytes_max`` of it at once, from where the request says. Raises ``CommandNotPossibleError`` where it cannot
    be told.
    """
    salt = salt_of_name(request.log)
    if salt is None:
        raise CommandNotPossibleError(f"no log {request.log[:200]!r} of a partition here")
    if request.log not in await store.list_logs():
        return StoredBatch()
    try:
        log = await store.open_log(request.log, salt=salt)
        if not log.start_position <= request.position < log.end_position:
            return StoredBatch()
        wrote = [each for each in log.history if each.start_position <= request.position]
        reigns = [(each.number, reign_id.hex()) for each in wrote[-1:] for reign_id in (each.reign_id, bytes(16))]
        if (request.epoch, request.reign_id) not in reigns:
            return StoredBatch()
        header = await log.batch_at(request.position)
        if header is not None:
            # Unchecked: what is damaged here as well would be asked for at the node that asks, and so on for ever.
            end = request.position + header.size
            stored = await log.read_stored(request.position, header.size, end, is_checked=False, asks=False)
            batch = b"".join(stored.chunks)
            with suppress(CorruptionError):
                if not request.begin:  # the whole is looked at once, and again by who asks
                    verify_body(batch, header, f"{request.log} at {request.position}")
                piece = batch[request.begin : request.begin + bytes_max]
                is_primary = log.term.reign is not None
                return StoredBatch(batch=base64.b64encode(piece).decode(), size=len(batch), is_of_primary=is_primary)
        return await _damaged_batch(log, request.position)
    except MqcoreError as error:
        raise CommandNotPossibleError(str(error)) from error


async def _damaged_batch(log: PartitionLog, position: int) -> StoredBatch:
    """What is known of a batch that has rotted here, if one began at ``position``."""
    with suppress(CorruptionError):
        if await log.begins_at(position) is None:
            return StoredBatch()
        await log.read_stored(position, 1, log.end_position, asks=False)  # finds out how far the damage reaches
    for damage in log.damages:
        if damage.position == position and not damage.is_given_up and log.open_end is None:
            reign = [each for each in log.history if each.start_position <= damage.end_position][-1:]
            number, reign_id, start_position, start_offset = reign[0] if reign else (0, b"", 0, 0)
            return StoredBatch(
                end_position=damage.end_position,
                end_offset=damage.next_offset,
                epoch=number,
                reign_id=reign_id.hex(),
                start_position=start_position,
                start_offset=start_offset,
            )
    return StoredBatch()
