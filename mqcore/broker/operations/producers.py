"""Operations on producers: the end of one without a name, and the names of others."""

from __future__ import annotations

from mqcore.broker._partition import Partition
from mqcore.broker._reign import Reign
from mqcore.broker._sends import WaitingCaller
from mqcore.broker._topics import Topic
from mqcore.broker.operations._scope import AdminScope, Page
from mqcore.errors import OutcomeUnknownError, RejectedError
from mqcore.groups import NamedProducer
from mqcore.log import ProducerEnd, SentBefore
from mqcore.operations import (
    ClaimedProducer,
    ClaimProducer,
    DeletedProducer,
    DeleteProducer,
    DescribeProducer,
    EndedProducer,
    EndProducer,
    ListProducers,
    ProducerDescription,
    ProducerPartitionState,
    ProducerSummary,
)
from mqcore.protocol import Code, SendPolicy

__all__ = ["claim_producer", "delete_producer", "describe_producer", "end_producer", "list_producers"]


async def end_producer(scope: AdminScope, request: EndProducer) -> EndedProducer:
    """Note that a producer has ended, to be written with messages of others; what was not opened is left alone."""
    reign = scope.reign()
    topic_id = bytes.fromhex(_hexadecimal("topic_id", request.topic_id))
    if reign.names.why_refused is not None or request.producer_id in reign.names.of_topic(topic_id).by_id:
        return EndedProducer(partitions=0)  # it has, or may have, a name: the next process asks what was sent
    noted = 0
    for index, *stands_at in request.partitions:
        partition = reign.partitions.get((topic_id, index))
        if partition is not None:
            noted += partition.log.note_end(ProducerEnd(request.producer_id, *stands_at))
    return EndedProducer(partitions=noted)


async def claim_producer(scope: AdminScope, request: ClaimProducer) -> ClaimedProducer:
    """Give a name to who asks, or take over what another set gave; committed when it returns."""
    reign, topic = _topic_of(scope, request.topic)
    if scope.permit is not None:
        scope.permit.check("produce", f"topic:{topic.name}")
    gives = 0 in reign.own_partitions(topic)
    if gives and request.claim:
        raise _invalid(f"the set of partition 0 of topic {topic.name!r} gives claims: ask without one")
    if not gives and not request.claim:
        raise reign.not_here(topic.owner_of(0))
    if gives:
        named = await reign.names.claim(topic, request.name, request.above, request.producer_id)
    else:
        claim = bytes.fromhex(_hexadecimal("claim", request.claim))
        named = NamedProducer.of_claim(request.name, request.producer_id, claim)
        await reign.names.take_over(topic, named)
    return ClaimedProducer(name=named.name, producer_id=named.producer_id, epoch=named.epoch, claim=named.claim.hex())


async def list_producers(scope: AdminScope, request: ListProducers) -> tuple[ProducerSummary, ...]:
    """Return the names of producers, a page of them."""
    reign = _ready(scope)
    found: list[tuple[str, str, NamedProducer]] = []
    for topic_id, named in reign.names.named():
        topic = reign.topics.by_id.get(topic_id)
        if topic is not None and scope.may_describe_producer(named.name) and scope.may_describe(topic.name):
            found.append((named.name, topic.name, named))
    page: Page[ProducerSummary] = Page(scope.limits, request.limit)
    for name, topic_name, named in sorted(each for each in found if each[:2] > request.after):
        summary = ProducerSummary(name=name, topic=topic_name, epoch=named.epoch, producer_id=named.producer_id)
        if not page.take(summary):
            break
    return tuple(page.entries)


async def describe_producer(scope: AdminScope, request: DescribeProducer) -> ProducerDescription:
    """Return what partitions have of a producer, a page of them."""
    reign, topic = _topic_of(scope, request.topic)
    named = reign.names.get(topic, request.name)
    page: Page[ProducerPartitionState] = Page(scope.limits, request.limit)
    for number in reign.own_partitions(topic):
        if number > request.after:
            partition = await reign.open_partition(topic.id, number)
            if not page.take(await _state_of(partition, number, named, is_settled=request.is_settled)):
                break
    return ProducerDescription(
        name=named.name,
        topic=topic.name,
        epoch=named.epoch,
        producer_id=named.producer_id,
        partitions=tuple(page.entries),
    )


async def _state_of(
    partition: Partition, number: int, named: NamedProducer, *, is_settled: bool
) -> ProducerPartitionState:
    producers = partition.log.producers
    sent: SentBefore | None = None

    async def look() -> None:
        nonlocal sent
        sent = producers.sent_by(named.producer_id)

    # In turn with appends: what was taken in before the name was claimed is in the log by then.
    await partition.alone(look)
    if partition.failure is not None and (refusal := partition.refusal(SendPolicy.TOPIC)) is not None:
        # It was not looked at, or what it has may be gone with the next start. That is not "none", nor "forgotten": the
        # next process would begin with sequences that the log may have.
        code, text = refusal
        raise RejectedError(text, code=code, name=code.label, retryable=code.retryable)
    if sent is None or not sent.is_sure or partition.log.damage_of(sent.end_offset - 1) is not None:
        status = "forgotten" if sent is not None or producers.has_forgotten else "none"
        return ProducerPartitionState(partition=number, status=status)
    if is_settled:
        caller = WaitingCaller()
        partition.answer_when_committed(sent.end_offset, SendPolicy.TOPIC, (caller, 0, sent.end_offset - 1, True))
        await caller.answered.wait()
        if not caller.is_committed:
            raise OutcomeUnknownError(f"log {partition.log.name}: what it has is not committed: {partition.failure}")
    return ProducerPartitionState(
        partition=number, status="stored", last_offset=sent.end_offset - 1, producer_epoch=sent.producer_epoch
    )


async def delete_producer(scope: AdminScope, request: DeleteProducer) -> DeletedProducer:
    """Forget the name of a producer; committed when it returns."""
    reign, topic = _topic_of(scope, request.topic)
    named = await reign.names.delete(topic, request.name)
    return DeletedProducer(name=named.name, topic=topic.name, epoch=named.epoch)


def _topic_of(scope: AdminScope, name: str) -> tuple[Reign, Topic]:
    """The reign, whose names are known, and the topic. Raises ``RejectedError``."""
    reign = _ready(scope)
    if scope.permit is not None:  # whoever may only use a name is not told whether there is a topic of that one
        scope.permit.check("describe", f"topic:{name}")
    return reign, reign.topics.get(name)


def _ready(scope: AdminScope) -> Reign:
    reign = scope.reign()
    if (error := reign.names.why_refused) is not None:
        raise error
    return reign


def _hexadecimal(argument: str, text: str) -> str:
    try:
        if len(bytes.fromhex(text)) == 16:
            return text
    except ValueError:
        pass
    raise _invalid(f"argument {argument!r} must be 32 hexadecimal digits, not {text!r}")


def _invalid(text: str) -> RejectedError:
    return RejectedError(text, code=Code.INVALID_REQUEST, name=Code.INVALID_REQUEST.label)
