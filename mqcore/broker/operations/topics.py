"""Operations on topics: create, alter, delete, list, describe, resolve."""

from __future__ import annotations

import attrs
import trio

from mqcore.broker._reign import Reign
from mqcore.broker._topic_config import config_from_json, config_to_json
from mqcore.broker._topics import Topic
from mqcore.broker.operations._scope import AdminScope, Page
from mqcore.errors import MqcoreError, StorageError
from mqcore.operations import (
    AlterTopic,
    ClusterNode,
    ClusterSet,
    CreateTopic,
    DeletedTopic,
    DeleteTopic,
    DescribeTopic,
    ListTopics,
    PartitionState,
    PlaceTopics,
    ResolveTopic,
    TopicDescription,
    TopicInfo,
    TopicSummary,
)
from mqcore.protocol import Code

__all__ = [
    "alter_topic",
    "create_topic",
    "delete_topic",
    "describe_topic",
    "list_topics",
    "place_topics",
    "resolve_topic",
]

DAMAGES_SHOWN_MAX = 100
"""Damaged ranges of one log that a description names."""


def _details(scope: AdminScope, topic: Topic) -> TopicInfo:
    config = config_to_json(topic.config)
    info = TopicInfo(name=topic.name, id=topic.id.hex(), partitions=topic.partitions, config=config)
    keeper = scope.roles
    if keeper is None:
        return info
    names = topic.sets or (keeper.set.name,)
    primary = keeper.config.name if keeper.reign is not None else ""
    sets = tuple(
        ClusterSet(
            name=each.name,
            nodes=tuple(ClusterNode(name=node.name, urls=node.urls) for node in each.nodes),
            primary=primary if each.name == keeper.set.name else "",
        )
        for each in keeper.cluster.sets
        if each.name in names
    )
    known = [each.name for each in sets]
    if not set(names) <= set(known):
        return info  # a set that this node's configuration does not have
    owners = tuple(known.index(names[index % len(names)]) for index in range(topic.partitions))
    return attrs.evolve(info, sets=sets, owners=owners)


def _map_reign(scope: AdminScope) -> Reign:
    """The reign, of the set that keeps the map of topics. Raises ``NotPrimaryError`` that names it, elsewhere."""
    reign = scope.reign()
    if not reign.keeps_map:
        raise reign.not_here(reign.topics.set_names[0])
    return reign


async def create_topic(scope: AdminScope, request: CreateTopic) -> TopicInfo:
    """Create a topic; durable when it returns, and known to the other sets that answer."""
    reign = _map_reign(scope)
    config = config_from_json({"partitions": request.partitions, **request.config})
    reign.check_topic_config(request.name, config)
    topic = await reign.topics.create(request.name, config)
    await reign.topic_created(topic)
    await reign.topics.told(topic.id)
    return _details(scope, topic)


async def place_topics(scope: AdminScope, request: PlaceTopics) -> None:
    """Take topics over as the map has them; durable when it returns."""
    reign = scope.reign()
    for placed in request.topics:
        topic_id = bytes.fromhex(placed.id)
        known = reign.topics.by_id.get(topic_id)
        if placed.config is None:
            if known is not None and known.sets:  # one of this set alone is not the map's to delete
                await _delete(reign, known.name)
            continue
        topic = Topic(topic_id, placed.name, config_from_json(placed.config), placed.sets)
        reign.check_topic_config(topic.name, topic.config)
        if await reign.topics.place(topic):
            await reign.topic_created(topic)
            reign.topic_altered(topic)


async def list_topics(scope: AdminScope, request: ListTopics) -> list[TopicSummary]:
    """Return one page of the topics, by name."""
    by_name = scope.reign().topics.by_name
    page: Page[TopicSummary] = Page(scope.limits, request.limit)
    for name in sorted(name for name in by_name if name > request.after and scope.may_describe(name)):
        topic = by_name[name]
        if not page.take(TopicSummary(name=name, id=topic.id.hex(), partitions=topic.partitions)):
            break
    return page.entries


async def describe_topic(scope: AdminScope, request: DescribeTopic) -> TopicDescription:
    """Return a topic and one page of its partitions, each opened for it."""
    reign = scope.reign()
    topic = reign.topics.get(request.name, to_use=False)
    page: Page[PartitionState] = Page(scope.limits, request.limit)
    for index in reign.own_partitions(topic):
        if index > request.after and not page.take(await _facts_of(reign, topic, index)):
            break
    details = _details(scope, topic)
    return TopicDescription(
        name=details.name,
        id=details.id,
        partitions=details.partitions,
        config=details.config,
        sets=details.sets,
        owners=details.owners,
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
    """Return a topic, and where its partitions are; opens no log. A replica answers for a primary that is gone."""
    return _details(scope, _copied(scope, request.name) or scope.reign().topics.get(request.name))


def _copied(scope: AdminScope, name: str) -> Topic | None:
    """The topic as a replica knows it, if it has not heard of its primary for so long that nobody else may know.

    Not sooner: a topic that was made anew, or has just been made, is known to the primary first.
    """
    keeper = scope.roles
    follower = keeper.follower if keeper is not None else None
    if keeper is None or follower is None or follower.known_age_ms < keeper.cluster.replica_timeout_ms:
        return None
    return follower.topics.by_name.get(name)


async def alter_topic(scope: AdminScope, request: AlterTopic) -> TopicInfo:
    """Change a topic; durable, and in force for what is appended from now on, when it returns."""
    reign = _map_reign(scope)
    changes = dict(request.config)
    if request.partitions is not None:
        changes["partitions"] = request.partitions
    topic = await reign.topics.alter(request.name, changes, reign.check_topic_config)
    reign.topic_altered(reign.topics.by_id.get(topic.id, topic))  # another change may have come after this one
    await reign.topics.told(topic.id)
    return _details(scope, topic)


async def delete_topic(scope: AdminScope, request: DeleteTopic) -> DeletedTopic:
    """Delete a topic; durable, and its logs are gone, when it returns."""
    reign = _map_reign(scope)
    deleted: list[Topic] = []
    with trio.CancelScope(shield=True):  # the caller may leave: a deletion that is durable goes on to its end
        deleted.append(await _delete(reign, request.name))
    await reign.topics.told(deleted[0].id)
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
