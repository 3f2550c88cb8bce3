"""Operations on producers: the end of one."""

from __future__ import annotations

from mqcore.broker.operations._scope import AdminScope
from mqcore.errors import RejectedError
from mqcore.log import ProducerEnd
from mqcore.operations import EndedProducer, EndProducer
from mqcore.protocol import Code

__all__ = ["end_producer"]


async def end_producer(scope: AdminScope, request: EndProducer) -> EndedProducer:
    """Note that a producer has ended, to be written with messages of others; what was not opened is left alone."""
    partitions = scope.reign().partitions
    try:
        topic_id = bytes.fromhex(request.topic_id)
    except ValueError:
        text = f"argument 'topic_id' must be 32 hexadecimal digits, not {request.topic_id!r}"
        raise RejectedError(text, code=Code.INVALID_REQUEST, name=Code.INVALID_REQUEST.label) from None
    noted = 0
    for index, *stands_at in request.partitions:
        partition = partitions.get((topic_id, index))
        if partition is not None:
            noted += partition.log.note_end(ProducerEnd(request.producer_id, *stands_at))
    return EndedProducer(partitions=noted)
