"""Operations on topics: create, alter, delete, list, describe, resolve."""

from __future__ import annotations

import trio

from mqcore.broker._reign import Reign
from mqcore.broker._topics import Topic, config_from_json, config_to_json
from mqcore.broker.operations._scope import AdminScope, Page
from mqcore.errors import MqcoreError, StorageError
from mqcore.operations import (
    AlterTopic,
    CreateTopic,
    DeletedTopic,
    DeleteTopic,
    DescribeTopic,
    ListTopics,
    PartitionState,
    ResolveTopic,
    TopicDescription,
    TopicInfo,
    TopicSummary,
)
from mqcore.protocol import Code

__all__ = ["alter_topic", "create_topic", "delete_topic", "describe_topic", "list_topics", "resolve_topic"]

DAMAGES_SHOWN_MAX = 100
"""Damaged ranges of one log that a description names."""


def _details(topic: Topic) -> TopicInfo:
    config = config_to_json(topic.config)
    return TopicInfo(name=topic.name, id=topic.id.hex(), partitions=topic.partitions, config=config)


async def create_topic(scope: AdminScope, request: CreateTopic) -> TopicInfo:
    """Create a topic; durable when it returns."""
    reign = scope.reign()
    config = config_from_json({"partitions": request.partitions, **request.config})
    reign.check_topic_config(request.name, config)
    return _details(await reign.topics.create(request.name, config))


async def list_topics(scope: AdminScope, request: ListTopics) -> list[TopicSummary]:
    """Return one page of the topics, by name."""
    by_name = scope.reign().topics.by_name
    page: Page[TopicSummary] = Page(scope.limits, request.limit)
    for name in sorted(name for name in by_name if name > request.after):
        topic = by_name[name]
        if not page.take(TopicSummary(name=name, id=topic.id.hex(), partitions=topic.partitions)):
            break
    return page.entries


async def describe_topic(scope: AdminScope, request: DescribeTopic) -> TopicDescription:
    """Return a topic and one page of its partitions, each opened for it."""
    reign = scope.reign()
    topic = reign.topics.get(request.name, to_use=False)
    page: Page[PartitionState] = Page(scope.limits, request.limit)
    for index in range(max(request.after, -1) + 1, topic.partitions):
        if not page.take(await _facts_of(reign, topic, index)):
            break
    details = _details(topic)
    return TopicDescription(
        name=details.name,
        id=details.id,
        partitions=details.partitions,
        config=details.config,
        logs=tuple(page.entries),
    )


async def _facts_of(reign: Reign, topic: Topic, index: int) -> PartitionState:
    partition = await reign.open_partition(topic.id, index)
    log = partition.log
    return PartitionState(
        partition=index,
        start_offset=log.start_offset,
        committed_offset=partition.committed_offset,
        durable_offset=log.durable_offset,
        end_offset=log.end_offset,
        bytes=log.bytes_total,
        epoch=log.epoch_at(log.end_offset),
        failure=str(partition.failure) if partition.failure else None,
        damaged=tuple((damage.first_offset, damage.next_offset) for damage in log.damages[:DAMAGES_SHOWN_MAX]),
    )


async def resolve_topic(scope: AdminScope, request: ResolveTopic) -> TopicInfo:
    """Return a topic; opens no log."""
    return _details(scope.reign().topics.get(request.name))


async def alter_topic(scope: AdminScope, request: AlterTopic) -> TopicInfo:
    """Change a topic; durable, and in force for what is appended from now on, when it returns."""
    reign = scope.reign()
    changes = dict(request.config)
    if request.partitions is not None:
        changes["partitions"] = request.partitions
    topic = await reign.topics.alter(request.name, changes, reign.check_topic_config)
    reign.topic_altered(reign.topics.by_id.get(topic.id, topic))  # another change may have come after this one
    return _details(topic)


async def delete_topic(scope: AdminScope, request: DeleteTopic) -> DeletedTopic:
    """Delete a topic; durable, and its logs are gone, when it returns."""
    reign = scope.reign()
    deleted: list[Topic] = []
    with trio.CancelScope(shield=True):  # the caller may leave: a deletion that is durable goes on to its end
        deleted.append(await _delete(reign, request.name))
    return DeletedTopic(name=deleted[0].name, id=deleted[0].id.hex())


async def _delete(reign: Reign, name: str) -> Topic:
    try:
        topic = await reign.topics.delete(name)
    except MqcoreError as error:
        for topic_id in list(reign.topics.in_doubt):
            await reign.retire_partitions(topic_id, Code.STORAGE_STOPPED, error)
        raise
    try:
        await reign.remove_logs(topic.id)
    except StorageError as error:
        if error.kind != "closed":
            raise
        # The reign has ended. The topic is deleted all the same, and the next reign removes its logs before it serves:
        # told that nothing was done, a client would ask again and hear of an unknown topic.
    return topic
