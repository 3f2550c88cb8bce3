"""The end of a producer, as its broker is told: it then forgets at once what a client that dies is remembered by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import trio

from mqcore.client._partition_queue import PartitionQueue
from mqcore.client._session import Session
from mqcore.operations import EndProducer, to_arguments

__all__ = ["report_end"]

PARTITIONS_A_CALL_MAX = 1_000
ANSWER_WITHIN_S = 1.0
"""How long a closing producer waits for all answers: the broker forgets it anyway, after ``producer_retention_ms``."""


async def report_end(
    topic_id: bytes, producer_id: int, queues: Iterable[PartitionQueue], session_of: Mapping[int, Session]
) -> None:
    """Tell each server where the producer has ended in order. Raises nothing: what is not told is only kept longer.

    If cancelled, servers may or may not have been told.
    """
    entries: dict[Session, list[tuple[int, int, int]]] = {}
    for queue in queues:
        if queue.has_ended_in_order:
            entry = queue.partition, queue.epoch, queue.next_sequence
            entries.setdefault(session_of[queue.partition], []).append(entry)
    with trio.move_on_after(ANSWER_WITHIN_S):
        for session, partitions in entries.items():
            for at in range(0, len(partitions), PARTITIONS_A_CALL_MAX):
                some = tuple(partitions[at : at + PARTITIONS_A_CALL_MAX])
                request = EndProducer(topic_id=topic_id.hex(), producer_id=producer_id, partitions=some)
                stream = session.stream
                if stream is None or not stream.may_send(64 * len(some) + 128):
                    break
                await stream.call("producer.end", to_arguments(request))
