"""Operations on what this node keeps aside: list it, show its batches, delete it. Nothing here puts it back."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mqcore.abc import Log
from mqcore.broker.operations._scope import AdminScope, Page
from mqcore.errors import RejectedError
from mqcore.log import QUARANTINE_MARK, SideFile, read_side_file, side_file_batches
from mqcore.operations import (
    DeletedQuarantined,
    DeleteQuarantined,
    ListQuarantined,
    QuarantinedBatches,
    QuarantinedSuffix,
    ShowQuarantined,
)
from mqcore.protocol import Code

__all__ = ["delete_quarantined", "list_quarantined", "show_quarantined", "suffix_of"]


async def list_quarantined(scope: AdminScope, request: ListQuarantined) -> list[QuarantinedSuffix]:
    """Return one page of what is kept aside, by name; each is read for it."""
    page: Page[QuarantinedSuffix] = Page(scope.limits, request.limit)
    for name in sorted(await scope.store.backend.list_logs()):
        if QUARANTINE_MARK in name and name > request.after:
            async with _opened(scope, name) as log:
                found = await read_side_file(log)
            topic_id = found.log.partition("-")[0]
            if not page.take(suffix_of(found, scope.topic_name(topic_id))):
                break
    return page.entries


async def show_quarantined(scope: AdminScope, request: ShowQuarantined) -> QuarantinedBatches:
    """Return batches of a side file in base64, as many as fit one reply."""
    bytes_max = scope.limits.admin_bytes_max * 3 // 4 - 2048
    async with _opened(scope, request.name) as log:
        batches, following = await side_file_batches(log, request.position, bytes_max)
    return QuarantinedBatches(
        batches=tuple(base64.b64encode(batch).decode() for batch in batches), next_position=following
    )


async def delete_quarantined(scope: AdminScope, request: DeleteQuarantined) -> DeletedQuarantined:
    """Delete a side file; durable when it returns."""
    async with _opened(scope, request.name) as log:
        size = log.end - log.start
    await scope.store.delete_log(request.name)
    return DeletedQuarantined(name=request.name, bytes=size)


def suffix_of(found: SideFile, topic: str) -> QuarantinedSuffix:
    """Return a side file as the answer states it; ``topic``: its topic's name, empty when unknown."""
    topic_id, _, partition = found.log.partition("-")
    return QuarantinedSuffix(
        name=found.name,
        topic=topic,
        topic_id=topic_id if partition.isdigit() else "",
        partition=int(partition) if partition.isdigit() else 0,
        epoch=found.epoch,
        position=found.position,
        bytes=found.end - found.begin,
        messages=found.messages,
        first_offset=found.first_offset,
        end_offset=found.end_offset,
        unreadable_bytes=found.unreadable_bytes,
    )


@asynccontextmanager
async def _opened(scope: AdminScope, name: str) -> AsyncIterator[Log]:
    """Open a side file for reading. Raises ``RejectedError`` for what is none."""
    if QUARANTINE_MARK not in name or name not in await scope.store.backend.list_logs():
        text = f"nothing called {name[:200]!r} is kept aside here: 'mqcore quarantine list' shows what is"
        raise RejectedError(text, code=Code.INVALID_REQUEST, name=Code.INVALID_REQUEST.label)
    log = await scope.store.backend.open_log(name)
    try:
        yield log
    finally:
        await log.aclose()
