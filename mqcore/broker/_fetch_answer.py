"""The answer to one fetch: what is read of a partition, up to the committed offset and not beyond.

Must not know of connections: whether the answer still has somewhere to go is their subject.
"""

from __future__ import annotations

from typing import Protocol

from mqcore.errors import CorruptionError, MqcoreError, StorageError
from mqcore.limits import Limits
from mqcore.log import DamagedRangeError, PartitionLog
from mqcore.protocol import Code, Failed, Fetch, Fetched

__all__ = ["Fetchable", "answer_fetch", "refusal_of_tags"]


class Fetchable(Protocol):
    """What a fetch needs of a partition."""

    @property
    def log(self) -> PartitionLog:
        """Its batches."""
        ...

    @property
    def committed_offset(self) -> int:
        """Where what may be read ends."""
        ...

    @property
    def closure(self) -> tuple[Code, str] | None:
        """Why nothing is served any more, or None."""

    @property
    def known_age_ms(self) -> int | None:
        """How old a replica's knowledge is of what is committed; None on the primary."""
        ...

    passed_bytes: int
    """Of the batches that fetches with tags passed over."""

    @property
    def judged_epoch_max(self) -> int:
        """The latest epoch of which a reader may be told here that it has left the log's history."""
        ...

    def stop(self, error: MqcoreError) -> None:
        """Stop for good after a failed flush."""


def refusal_of_tags(fetch: Fetch, limits: Limits) -> str:
    """Return why a fetch may not name the tags that it names; empty if it may."""
    if len(fetch.tags) <= limits.fetch_tags_max and max(map(len, fetch.tags)) <= limits.tag_bytes_max:
        return ""
    return (
        f"a fetch may name {limits.fetch_tags_max} tags of {limits.tag_bytes_max} bytes each "
        "(limits fetch_tags_max, tag_bytes_max)"
    )


async def answer_fetch(partition: Fetchable, fetch: Fetch, bytes_max: int) -> Fetched | Failed:
    """Read what ``fetch`` asks for, about ``bytes_max`` bytes at most. Nothing happened if cancelled.

    One with tags is answered with the position up to which batches were looked at, whatever was passed over.
    """
    if partition.closure is not None:
        return Failed(fetch.request_id, *partition.closure, {})
    log, offset = partition.log, fetch.offset
    start_offset = log.start_offset
    if offset < start_offset:
        text = f"offset {offset} is below the log's start {start_offset}: seek to the start"
        facts = {"start_offset": start_offset, "committed_offset": partition.committed_offset}
        return Failed(fetch.request_id, Code.BELOW_START, text, facts)
    diverged = log.divergence(offset, fetch.epoch) if fetch.epoch else None
    if diverged is not None and fetch.epoch > partition.judged_epoch_max:
        # What it has read may be on its way here, or of a reign that nobody has told this node of: it waits (G06).
        next_epoch = fetch.epoch if fetch.tags else None
        committed = partition.committed_offset
        return Fetched(fetch.request_id, offset, start_offset, committed, (), partition.known_age_ms, next_epoch)
    if diverged is not None:
        text = f"offset {offset} of epoch {fetch.epoch} is not in this log's history; it parts at {diverged}"
        # The epoch too: a reader that read a higher one from below that offset left this history there.
        facts = {"offset": diverged, "epoch": log.epoch_up_to(fetch.epoch)}
        return Failed(fetch.request_id, Code.DIVERGED, text, facts)
    committed = partition.committed_offset
    tags = frozenset(fetch.tags) if fetch.tags else None
    next_epoch = None if tags is None else fetch.epoch
    if offset >= committed:
        return Fetched(fetch.request_id, offset, start_offset, committed, (), partition.known_age_ms, next_epoch)
    try:
        # No other node is asked meanwhile: what else the connection has asked for would wait for that, too.
        result = await log.read(offset, min(max(fetch.bytes_max, 1), bytes_max), committed, asks=False, tags=tags)
    except DamagedRangeError as error:
        facts = {"offset": error.first_offset, "next_offset": error.next_offset}
        return Failed(fetch.request_id, Code.DAMAGED, str(error), facts)
    except (StorageError, CorruptionError) as error:
        return Failed(fetch.request_id, *(partition.closure or (Code.READ_FAILED, str(error))), {})
    if log.failed is not None:
        partition.stop(log.failed)  # the read may be the first to notice; what is not durable is committed no more
        committed = partition.committed_offset
        if result.next_offset > committed:  # it was, when the read began
            return await answer_fetch(partition, fetch, bytes_max)
    committed = max(committed, partition.committed_offset)  # what is known now, which is as old as is said (G19)
    age_ms = partition.known_age_ms
    if tags is not None:
        partition.passed_bytes += result.passed_bytes
        next_epoch = result.epoch or fetch.epoch
    return Fetched(fetch.request_id, result.next_offset, start_offset, committed, result.chunks, age_ms, next_epoch)
