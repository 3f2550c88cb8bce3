"""Operations on offsets: where a partition starts, ends, or was at a time."""

from __future__ import annotations

from mqcore.broker.operations._scope import AdminScope
from mqcore.operations import FoundOffset, LookUpOffset

__all__ = ["look_up_offset"]


async def look_up_offset(scope: AdminScope, request: LookUpOffset) -> FoundOffset:
    """Return a position; never one beyond the committed offset, which is where a consumer's world ends."""
    reign = scope.reign()
    topic = reign.topics.get(request.topic)
    partition = await reign.open_partition(topic.id, request.partition)
    if request.at == "start":
        offset = partition.log.start_offset
    elif isinstance(request.at, int):
        offset = min(await partition.log.offset_at_time(request.at), partition.committed_offset)
    else:
        offset = partition.committed_offset
    return FoundOffset(offset=offset, epoch=partition.log.epoch_at(offset))
