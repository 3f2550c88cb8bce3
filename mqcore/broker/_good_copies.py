"""One batch of a log as another node of the set has it, to put what has rotted right (G12): both ends of it.

What is sent is checked by whoever asked, as a copy of the primary's would be. Must not know why a batch is wanted.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mqcore.batch import verify_body
from mqcore.errors import CommandNotPossibleError, MqcoreError
from mqcore.log import EpochEntry, LogStore, salt_of_name
from mqcore.operations import FetchBatch, StoredBatch, from_result, to_arguments

__all__ = ["GoodCopyAsker", "stored_batch"]

AskAll = Callable[[str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Asks every other node of the set for an operation; returns the answers of those that gave one, by name."""


class GoodCopyAsker:
    """Asks all other nodes of a set for one batch; of what they answer nothing is believed."""

    def __init__(self, ask_all: AskAll) -> None:
        self._ask_all = ask_all

    async def ask(self, log: str, position: int, reign: EpochEntry) -> dict[str, bytes]:
        """Return what the others, by name, have at ``position`` of a log, of that ``reign``. Raises nothing."""
        request = FetchBatch(log=log, position=position, epoch=reign.number, reign_id=reign.reign_id.hex())
        found: dict[str, bytes] = {}
        for name, answer in (await self._ask_all("set.batch", to_arguments(request))).items():
            try:
                found[name] = base64.b64decode(from_result(StoredBatch, answer).batch, validate=True)
            except ValueError:
                continue  # nonsense is no good copy, and is no reason to stop reading either
        return found


async def stored_batch(store: LogStore, request: FetchBatch, bytes_max: int) -> StoredBatch:
    """Return the batch at a position of a log, whole, if the reign that is named wrote there; with an id of zeros: one
    of that number, for who does not know more of it.

    Raises ``CommandNotPossibleError`` where that is not so, or it is damaged or too large here, too.
    """
    salt = salt_of_name(request.log)
    if salt is None or request.log not in await store.list_logs():
        raise CommandNotPossibleError(f"no log {request.log[:200]!r} of a partition here")
    try:
        log = await store.open_log(request.log, salt=salt)
        wrote = [each for each in log.history if each.start_position <= request.position]
        reigns = [(each.number, reign_id.hex()) for each in wrote[-1:] for reign_id in (each.reign_id, bytes(16))]
        if (request.epoch, request.reign_id) not in reigns:
            raise CommandNotPossibleError(f"another reign wrote at {request.position} of {request.log} here")
        header = await log.batch_at(request.position)
        if header is None or header.size > bytes_max:
            raise CommandNotPossibleError(f"no whole batch at {request.position} of {request.log} here")
        # Unchecked: what is damaged here as well would be asked for at the node that asks, and so on for ever.
        end = request.position + header.size
        stored = await log.read_stored(request.position, header.size, end, is_checked=False, asks=False)
        batch = b"".join(stored.chunks)
        verify_body(batch, header, f"{request.log} at {request.position}")
    except MqcoreError as error:
        raise CommandNotPossibleError(str(error)) from error
    return StoredBatch(batch=base64.b64encode(batch).decode())
