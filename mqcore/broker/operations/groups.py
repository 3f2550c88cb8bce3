"""Operations on consumer groups: list, describe, reset, delete."""

from __future__ import annotations

from collections import Counter

from mqcore.broker._group_entry import TopicGroup, check_position
from mqcore.broker._group_room import GroupRoom, refused
from mqcore.broker._partition import Partition
from mqcore.broker._reign import Reign
from mqcore.broker._topics import Topic
from mqcore.broker.operations._scope import AdminScope, Page
from mqcore.errors import RejectedError
from mqcore.groups import NO_CURSOR, pack_cursors, pack_deleted
from mqcore.operations import (
    DeletedGroup,
    DeleteGroup,
    DescribeGroup,
    GroupDescription,
    GroupMemberState,
    GroupPartitionState,
    GroupSummary,
    GroupTopicState,
    ListGroups,
    ResetGroup,
    ResetPartition,
)
from mqcore.protocol import Code

__all__ = ["delete_group", "describe_group", "list_groups", "reset_group"]


async def list_groups(scope: AdminScope, request: ListGroups) -> tuple[GroupSummary, ...]:
    """Return the groups that have members or cursors, a page of them."""
    reign = scope.reign()
    room = _ready(reign)
    topics: dict[str, list[str]] = {}
    for name, topic_id in _keys(room):
        topic = reign.topics.by_id.get(topic_id)
        if topic is not None and scope.may_describe_group(name) and scope.may_describe(topic.name):
            topics.setdefault(name, []).append(topic.name)
    members: Counter[str] = Counter()
    for (name, _), group in room.groups.items():
        members[name] += group.machine.member_count
    page: Page[GroupSummary] = Page(scope.limits, request.limit)
    for name in sorted(each for each in topics if each > request.after):
        if not page.take(GroupSummary(name=name, topics=tuple(sorted(topics[name])), members=members[name])):
            break
    return tuple(page.entries)


async def describe_group(scope: AdminScope, request: DescribeGroup) -> GroupDescription:
    """Return where a group stands in one topic, and who reads it."""
    reign = scope.reign()
    room = _ready(reign)
    topics = [each for each in _topics_of(reign, room, request.name) if scope.may_describe(each.name)]
    if not topics:
        raise _unknown(request.name)
    if request.topic:
        topics_asked = [each for each in topics if each.name == request.topic]
        if not topics_asked:
            text = f"group {request.name!r} has nothing to do with topic {request.topic!r}; it reads {_named(topics)}"
            raise refused(Code.UNKNOWN_GROUP, text)
        topic = topics_asked[0]
    else:
        topic = topics[0]
    group = room.groups.get((request.name, topic.id))
    page: Page[GroupPartitionState] = Page(scope.limits, request.limit)
    for number in reign.own_partitions(topic):
        if number > request.after:
            partition = await reign.open_partition(topic.id, number)
            if not page.take(_state_of(room, request.name, topic, group, partition, number)):
                break
    members = () if group is None or request.after >= 0 else _members(room, group)
    state = GroupTopicState(
        topic=topic.name,
        assignor="" if group is None else group.assignor,
        generation=0 if group is None else group.machine.generation,
        settled=group is None or group.machine.is_settled,
        members=members,
        partitions=tuple(page.entries),
    )
    return GroupDescription(name=request.name, topics=tuple(each.name for each in topics), state=state)


def _members(room: GroupRoom, group: TopicGroup) -> tuple[GroupMemberState, ...]:
    return tuple(
        GroupMemberState(
            name=each.name,
            client=each.client,
            silent_ms=each.heard_us // 1000,
            session_ms=each.session_us // 1000,
            partitions=len(each.partitions),
        )
        for each in group.machine.facts(room.now_us())
    )


def _state_of(
    room: GroupRoom, name: str, topic: Topic, group: TopicGroup | None, partition: Partition, number: int
) -> GroupPartitionState:
    cursor = room.positions(name, topic.id, [number]).get(number)
    log, end_offset = partition.log, partition.committed_offset
    status, begin = "ok", log.start_offset
    if cursor is not None:
        begin = max(begin, cursor[0])
        if cursor[1] and (parts_at := log.divergence(*cursor)) is not None:
            status, begin = "diverged", parts_at
        elif cursor[0] < log.start_offset:
            status = "below-start"
    return GroupPartitionState(
        partition=number,
        offset=None if cursor is None else cursor[0],
        epoch=None if cursor is None else cursor[1],
        end_offset=end_offset,
        lag=max(0, end_offset - begin),
        member="" if group is None else group.machine.owner_of(number) or "",
        status=status,
    )


async def reset_group(scope: AdminScope, request: ResetGroup) -> tuple[ResetPartition, ...]:
    """Move cursors of a group that has no members; all of them or none."""
    reign = scope.reign()
    room = _ready(reign)
    if scope.permit is not None:  # whoever may only move cursors is not told whether there is a topic of the name
        scope.permit.check("describe", f"topic:{request.topic}")
    topic = reign.topics.get(request.topic)
    own = reign.own_partitions(topic)
    numbers = list(request.partitions) or own
    moved: list[ResetPartition] = []
    for number in numbers:
        partition = await reign.open_partition(topic.id, number)
        where = f"partition {number} of topic {topic.name!r}"
        offset = await _offset_of(partition, request)
        offset, epoch = check_position(partition, where, offset, 0, (NO_CURSOR, 0))
        before = room.positions(request.name, topic.id, [number]).get(number)
        moved.append(
            ResetPartition(partition=number, offset=offset, epoch=epoch, before=None if before is None else before[0])
        )
    # Looked at last: a member that joined while logs were opened would go on reading from where it was.
    room.maker.check_name(request.name)
    key = (request.name, topic.id)
    _refuse_members(room, key)
    room.check_count(key, [each.partition for each in moved])
    await room.put({key: pack_cursors(*key, [(each.partition, each.offset, each.epoch) for each in moved])})
    return tuple(moved)


async def _offset_of(partition: Partition, request: ResetGroup) -> int:
    log = partition.log
    if request.offset is not None:
        return request.offset
    if request.to == "start":
        return log.start_offset
    if request.to == "end":
        return partition.committed_offset
    assert isinstance(request.to, int)
    return min(await log.offset_at_time(request.to), partition.committed_offset)


async def delete_group(scope: AdminScope, request: DeleteGroup) -> DeletedGroup:
    """Delete the cursors of a group that has no members."""
    reign = scope.reign()
    room = _ready(reign)
    topics = [each for each in _topics_of(reign, room, request.name) if request.topic in ("", each.name)]
    if not topics:
        raise refused(Code.UNKNOWN_GROUP, f"group {request.name!r} has nothing to do with topic {request.topic!r}")
    keys = [(request.name, topic.id) for topic in topics]
    for key in keys:
        _refuse_members(room, key)
    # All at once: a member that joins while the first is written would have the others deleted under it.
    await room.put({key: pack_deleted(*key) for key in keys})
    return DeletedGroup(name=request.name, topics=tuple(each.name for each in topics if scope.may_describe(each.name)))


def _ready(reign: Reign) -> GroupRoom:
    reign.groups.check_ready()
    return reign.groups


def _keys(room: GroupRoom) -> set[tuple[str, bytes]]:
    return {*room.groups, *room.cursors.table.topics}


def _topics_of(reign: Reign, room: GroupRoom, name: str) -> list[Topic]:
    """The topics of a group, by name. Raises ``RejectedError`` for a group that is not there."""
    found = [reign.topics.by_id[key[1]] for key in _keys(room) if key[0] == name and key[1] in reign.topics.by_id]
    if not found:
        raise _unknown(name)
    return sorted(found, key=lambda topic: topic.name)


def _unknown(name: str) -> RejectedError:
    text = f"no group {name!r} here: it has neither members nor cursors; 'mqcore group list' shows them all"
    return refused(Code.UNKNOWN_GROUP, text)


def _named(topics: list[Topic]) -> str:
    return ", ".join(each.name for each in topics)


def _refuse_members(room: GroupRoom, key: tuple[str, bytes]) -> None:
    """Raise ``RejectedError`` where the group has members here, or the last reign had some that may still read."""
    group = room.groups.get(key)
    if group is not None:
        group.machine.expire(room.now_us())
    if group is not None and not group.machine.is_empty:
        members = group.machine.members
        text = f"group {key[0]!r} has {len(members)} member{'s' * (len(members) > 1)}, such as {members[0]!r}"
        raise refused(Code.GROUP_IN_USE, f"{text}: stop them first, they would go on from where they are")
    held_for_us = room.held_for_us(key)
    if held_for_us:
        text = f"group {key[0]!r} had members when this broker began to serve, which may still read"
        raise refused(Code.GROUP_IN_USE, f"{text}: stop them, and ask again in {held_for_us / 1e6:.1f} s")
