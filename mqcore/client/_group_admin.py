"""Administration of consumer groups: every set is asked for what it owns, and the answers are put together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import attrs

from mqcore.client._admin import Admin, time_ms
from mqcore.client._owners import Owners
from mqcore.client._results import ask
from mqcore.client._router import Router
from mqcore.client._session import Session
from mqcore.errors import RejectedError
from mqcore.operations import (
    DeletedGroup,
    DeleteGroup,
    DescribeGroup,
    GroupDescription,
    GroupMemberState,
    GroupSummary,
    GroupTopicState,
    ListGroups,
    ResetGroup,
    ResetPartition,
)
from mqcore.protocol import Code

__all__ = ["GroupAdmin"]


class GroupAdmin:
    """Requests about consumer groups. Errors and cancellation as those of ``Admin``."""

    def __init__(self, router: Router, admin: Admin) -> None:
        self._router = router
        self._owners = Owners(router, admin)

    async def list_groups(self) -> list[GroupSummary]:
        """Return every group that has members or cursors, by name."""
        found: dict[str, GroupSummary] = {}
        for session in await self._owners.all():
            after = ""
            while True:
                page = await ask(
                    self._router, ListGroups(after=after), tuple[GroupSummary, ...], is_repeatable=True, at=session
                )
                if not page:
                    break
                for each in page:
                    known = found.get(each.name, each)
                    topics = tuple(sorted({*known.topics, *each.topics}))
                    members = max(known.members, each.members)  # a member is one of every set
                    found[each.name] = attrs.evolve(each, topics=topics, members=members)
                after = page[-1].name
        return [found[name] for name in sorted(found)]

    async def describe(self, name: str, topic: str | None = None) -> list[GroupTopicState]:
        """Return where a group stands, for each of its topics or for one. ``RejectedError`` for an unknown group."""
        states: dict[str, GroupTopicState] = {}
        refusal: RejectedError | None = None
        for session in await self._owners.all() if topic is None else await self._owners.of_topic(topic):
            try:
                first = await self._describe_at(session, name, topic or "")
                states[first.state.topic] = _merged(states.get(first.state.topic), first.state)
                for other in first.topics if topic is None else ():
                    if other != first.state.topic:
                        more = (await self._describe_at(session, name, other)).state
                        states[other] = _merged(states.get(other), more)
            except RejectedError as error:
                if error.code != Code.UNKNOWN_GROUP:
                    raise
                refusal = error
        if not states and refusal is not None:
            raise refusal
        return [states[each] for each in sorted(states)]

    async def _describe_at(self, session: Session | None, name: str, topic: str) -> GroupDescription:
        whole: GroupDescription | None = None
        while True:
            after = whole.state.partitions[-1].partition if whole is not None else -1
            request = DescribeGroup(name=name, topic=whole.state.topic if whole is not None else topic, after=after)
            page = await ask(self._router, request, GroupDescription, is_repeatable=True, at=session)
            if whole is None:
                whole = page
            else:
                partitions = whole.state.partitions + page.state.partitions
                whole = attrs.evolve(whole, state=attrs.evolve(whole.state, partitions=partitions))
            if not page.state.partitions:
                return whole

    async def reset(
        self, name: str, topic: str, to: str | int | datetime, partitions: Sequence[int] | None = None
    ) -> list[ResetPartition]:
        """Move the cursors of a group that has no members to ``"start"``, ``"end"``, an offset or a ``datetime``.

        Returns where each partition's was and is; ``partitions``: of these only. Each set moves its own, all or none:
        after an error, or if cancelled, some sets may have, and doing it again does the rest. ``RejectedError`` by
        ``name``: ``group-in-use`` while the group has members, or had some when the broker began that may still read;
        ``cursor-past-end`` and ``not-yet`` for an offset beyond what is there, or is committed; ``unknown-topic``,
        ``unknown-partition``; ``limit-reached`` where cursors or groups would be too many; ``invalid-request`` for a
        name that no group can have; ``cursors-not-ready`` while the broker reads cursors, ``storage-stopped`` when it
        cannot; ``access-denied``. ``OutcomeUnknownError`` when the log of cursors failed meanwhile.
        """
        found = await self._owners.resolve(topic)
        moved: list[ResetPartition] = []
        for session, own in self._owners.owned(found, range(found.partitions) if partitions is None else partitions):
            if isinstance(to, int):
                request = ResetGroup(name=name, topic=topic, offset=to, partitions=tuple(own))
            else:
                at = time_ms(to) if isinstance(to, datetime) else to
                request = ResetGroup(name=name, topic=topic, to=at, partitions=tuple(own))
            moved += await ask(self._router, request, tuple[ResetPartition, ...], is_repeatable=True, at=session)
        return sorted(moved, key=lambda each: each.partition)

    async def delete(self, name: str, topic: str | None = None) -> list[str]:
        """Delete a group that has no members, or its cursors of one topic; return the topics that it had cursors of."""
        deleted: set[str] = set()
        refusal: RejectedError | None = None
        for session in await self._owners.all() if topic is None else await self._owners.of_topic(topic):
            request = DeleteGroup(name=name, topic=topic or "")
            try:
                deleted.update((await ask(self._router, request, DeletedGroup, is_repeatable=False, at=session)).topics)
            except RejectedError as error:
                if error.code != Code.UNKNOWN_GROUP:
                    raise
                refusal = error
        if not deleted and refusal is not None:
            raise refusal
        return sorted(deleted)


def _merged(known: GroupTopicState | None, more: GroupTopicState) -> GroupTopicState:
    """What two sets say of a topic, put together."""
    if known is None:
        return more
    members = {each.name: each for each in known.members}
    for each in more.members:
        other: GroupMemberState | None = members.get(each.name)
        count = each.partitions + (other.partitions if other is not None else 0)
        members[each.name] = attrs.evolve(each, partitions=count)
    return attrs.evolve(
        known,
        assignor=known.assignor or more.assignor,
        generation=max(known.generation, more.generation),
        settled=known.settled and more.settled,
        members=tuple(members[name] for name in sorted(members)),
        partitions=tuple(sorted(known.partitions + more.partitions, key=lambda each: each.partition)),
    )
