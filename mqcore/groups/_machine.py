"""The broker's half of a consumer group of one topic: who is a member, and who owns which partition. No I/O, no clock.

A partition is with its owner until the owner has given it up, has left, or was silent for its session; only then it is
given to the next one, under a new generation, which fences what the last one commits late. Two members never own one
partition at a time, and a member reads nothing that it does not own: its own half (``GroupSession``) ends its session
by its own clock before this one does.

A machine lives in one reign. In the next one members claim what they hold; what none claims is given to nobody before
the longest session of the last reign is over, for its owner may still be reading.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from mqcore.groups._due import DueTimes
from mqcore.groups._values import MemberFacts, MemberSync, View

__all__ = ["Assign", "GroupMachine", "MemberInUseError", "StaleSyncError"]

Assign: TypeAlias = Callable[[Sequence[str], Sequence[int], Mapping[int, str]], Mapping[int, str]]
"""As ``mqcore.abc.Assignor.assign``."""


class MemberInUseError(Exception):
    """Another member of that name is in the group. ``client`` is what that one calls itself."""

    def __init__(self, client: str, heard_us: int) -> None:
        super().__init__(client)
        self.client = client
        self.heard_us = heard_us


class StaleSyncError(Exception):
    """A sync that was overtaken by a later one of the same member: it says nothing any more."""


class _Member:
    """A member: what it owns (by generation of the grant), until when it lives, until when it has to give up what."""

    __slots__ = (
        "client",
        "deadline_us",
        "heard_at_us",
        "late",
        "owned",
        "rebalance_us",
        "sequence",
        "session_us",
        "token",
    )

    def __init__(self, token: bytes, client: str) -> None:
        self.token = token
        self.client = client
        self.sequence = -1
        self.session_us = self.rebalance_us = self.deadline_us = self.heard_at_us = 0
        self.late: dict[int, int] = {}
        """Partitions that are to be another member's, and until when each has to be given up."""
        self.owned: dict[int, int] = {}


class GroupMachine:
    """Members and owners of ``partitions``.

    ``generation``: below every one that this reign hands out, above every earlier one. ``generations``: where those of
    this reign come from, growing; one source for all its groups, so that a group that begins anew repeats none.
    ``holds_until_us``: until then nothing is given to anybody that was not claimed. ``gather_us``: how long a change
    waits for others to be settled with it. ``complain`` takes what an assignor did wrong; its result is replaced by
    equal shares then.
    """

    def __init__(
        self,
        assign: Assign,
        partitions: Iterable[int],
        *,
        generation: int,
        generations: Iterator[int] | None = None,
        holds_until_us: int = 0,
        gather_us: int = 0,
        complain: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.generation = generation
        self.changed: set[str] = set()
        """Members whose view has changed since this was last emptied."""
        self.gone: set[str] = set()
        """Members that are none any more since this was last emptied."""
        self.session_us_max = 0
        """The longest session of the members that there were since there was none."""
        self._assign = assign
        self._partitions = sorted(partitions)
        self._first_generation = generation
        self._generations = itertools.count(generation + 1) if generations is None else generations
        self._holds_until_us: int | None = holds_until_us or None
        self._gather_us = gather_us
        self._complain = complain
        self._members: dict[str, _Member] = {}
        self._due: DueTimes[str] = DueTimes()
        self._owners: dict[int, str] = {}
        self._target: dict[int, str] = {}
        self._free: set[int] = set(self._partitions)
        self._settle_at_us: int | None = None

    # what is known

    @property
    def is_empty(self) -> bool:
        """Whether there is no member."""
        return not self._members

    @property
    def members(self) -> list[str]:
        """Names of the members, sorted."""
        return sorted(self._members)

    @property
    def member_count(self) -> int:
        """How many members there are."""
        return len(self._members)

    def is_member(self, name: str) -> bool:
        """Whether there is a member of that name."""
        return name in self._members

    @property
    def is_settled(self) -> bool:
        """Whether every partition is with the member that is to have it."""
        return self._settle_at_us is None and self._owners == self._target and not self._free

    def facts(self, now_us: int) -> list[MemberFacts]:
        """What people are told of each member, by name."""
        return [
            MemberFacts(name, tuple(sorted(each.owned)), now_us - each.heard_at_us, each.session_us, each.client)
            for name, each in sorted(self._members.items())
        ]

    def view(self, name: str) -> View:
        """What a member may read now."""
        target = self._target
        owned = self._members[name].owned
        return View(self.generation, {number: by for number, by in owned.items() if target.get(number) == name})

    def may_commit(self, name: str, token: bytes, partition: int, generation: int) -> bool:
        """Whether ``name`` owns the partition by a grant of ``generation``: what is late is fenced by this."""
        member = self._members.get(name)
        return member is not None and member.token == token and member.owned.get(partition) == generation

    def owner_of(self, partition: int) -> str | None:
        """The member that owns a partition."""
        return self._owners.get(partition)

    # events

    def synced(self, sync: MemberSync, now_us: int, client: str = "") -> None:
        """Take in a sync.

        Raises ``MemberInUseError``, ``StaleSyncError``; then nothing has changed but what time brings about.
        """
        self.expire(now_us)
        member = self._members.get(sync.member)
        if member is None:
            member = self._members[sync.member] = _Member(sync.token, client)
            self.gone.discard(sync.member)
            self._settle_soon(now_us)
        elif member.token != sync.token:
            raise MemberInUseError(member.client, now_us - member.heard_at_us)
        elif sync.sequence <= member.sequence:
            raise StaleSyncError
        else:
            self._take_back(sync, member, now_us)
        if not sync.is_fresh:
            self._claim(sync, member)  # the first that arrives need not be the last that was sent
        member.sequence = sync.sequence
        member.session_us, member.rebalance_us = sync.session_us, sync.rebalance_us
        member.heard_at_us, member.deadline_us = now_us, now_us + sync.session_us
        self.session_us_max = max(self.session_us_max, sync.session_us)
        self._note_due(sync.member, member)

    def left(self, name: str, token: bytes, now_us: int) -> None:
        """Take in that a member leaves; it holds nothing any more."""
        member = self._members.get(name)
        if member is not None and member.token == token:
            self._remove(name, now_us)

    def partitions_changed(self, partitions: Iterable[int], now_us: int) -> None:
        """Take in partitions that were added."""
        added = set(partitions).difference(self._partitions)
        if added:
            self._partitions = sorted(added.union(self._partitions))
            self._free |= added
            self._settle_soon(now_us)

    def assign_by(self, assign: Assign) -> None:
        """Share partitions out by another assignor from the next change on."""
        self._assign = assign

    def expire(self, now_us: int) -> None:
        """Put out the members that are silent; what they had is given to nobody before ``advance``."""
        for name in self._due.take(now_us):
            self._remove(name, now_us)

    def advance(self, now_us: int, *, busy: Container[int] = (), session_us_max: int | None = None) -> None:
        """Do what time brings about: members that are silent lose what they have, changes are settled.

        Nothing of ``busy`` is given to anybody yet, and nothing to members of a longer session than ``session_us_max``.
        What is given already is not touched: a member goes on with that.
        """
        self.expire(now_us)
        if self._holds_until_us is not None:
            if now_us < self._holds_until_us:
                return
            self._holds_until_us = None
            self._settle_soon(now_us)
        if self._settle_at_us is not None and now_us >= self._settle_at_us:
            self._settle_at_us = None
            self._reassign(now_us)
        self._grant_free(busy, session_us_max)

    def due_us(self) -> int | None:
        """When ``advance`` is to be called at the latest; None: not before the next event."""
        change_us = self._settle_at_us if self._holds_until_us is None else self._holds_until_us
        return min((each for each in (self._due.first_us, change_us) if each is not None), default=None)

    # inside

    def _settle_soon(self, now_us: int) -> None:
        if self._settle_at_us is None:
            self._settle_at_us = now_us + self._gather_us

    def _claim(self, sync: MemberSync, member: _Member) -> None:
        """Leave a member what it held when the last reign ended; of two that claim it the later grant is the true one.

        The earlier one's session was over by its own clock before the later grant was made: it does not read.
        """
        if self._holds_until_us is None:
            return
        for partition, generation in sync.held.items():
            if generation >= self._first_generation or (partition not in self._owners and partition not in self._free):
                continue
            owner = self._owners.get(partition)
            if owner is not None:
                if self._members[owner].owned[partition] >= generation:
                    continue
                self._release(partition, owner)
            self._own(partition, sync.member, member, generation)
            self._target[partition] = sync.member

    def _take_back(self, sync: MemberSync, member: _Member, now_us: int) -> None:
        """Take back what a member does not hold any more, or never took."""
        gone = [
            partition
            for partition, generation in member.owned.items()
            if sync.is_fresh or (generation <= sync.seen and sync.held.get(partition) != generation)
        ]
        for partition in gone:
            self._release(partition, sync.member)
        if gone and sync.is_fresh:
            self._settle_soon(now_us)
        if gone:
            self._note_late(sync.member, member, now_us)

    def _own(self, partition: int, name: str, member: _Member, generation: int) -> None:
        self._free.discard(partition)
        self._owners[partition] = name
        member.owned[partition] = generation
        self.changed.add(name)

    def _release(self, partition: int, name: str) -> None:
        del self._owners[partition]
        del self._members[name].owned[partition]
        self._free.add(partition)
        self.changed.add(name)

    def _remove(self, name: str, now_us: int) -> None:
        for partition in list(self._members[name].owned):
            self._release(partition, name)
        del self._members[name]
        self._due.discard(name)
        self.changed.discard(name)
        self.gone.add(name)
        if not self._members:
            self.session_us_max = 0
        self._settle_soon(now_us)

    def _reassign(self, now_us: int) -> None:
        names = sorted(self._members)
        self._target = self._shares(names) if names else {}
        for name, member in self._members.items():
            self._note_late(name, member, now_us)
            self.changed.add(name)

    def _note_late(self, name: str, member: _Member, now_us: int) -> None:
        """Note until when a member has to give up what is to be another's."""
        target, by_us = self._target, now_us + member.rebalance_us
        member.late = {
            partition: member.late.get(partition, by_us) for partition in member.owned if target.get(partition) != name
        }
        self._note_due(name, member)

    def _note_due(self, name: str, member: _Member) -> None:
        """Note when a member is put out unless it is heard of, or gives up what is late, before."""
        self._due.set(name, min(member.deadline_us, min(member.late.values(), default=member.deadline_us)))

    def _shares(self, names: Sequence[str]) -> dict[int, str]:
        try:
            shares = dict(self._assign(names, tuple(self._partitions), dict(self._owners)))
        except Exception as error:  # a part of somebody's own
            self._complain(f"the assignor failed, equal shares are used: {error!r}")
        else:
            if shares.keys() == set(self._partitions) and set(shares.values()) <= set(names):
                return shares
            self._complain("the assignor left out a partition or named an unknown member, equal shares are used")
        return {partition: names[number % len(names)] for number, partition in enumerate(self._partitions)}

    def _grant_free(self, busy: Container[int], session_us_max: int | None) -> None:
        """Give away what has no owner and is to have one, under a generation that no earlier grant has."""
        target, members = self._target, self._members
        grants = [
            (partition, name, member)
            for partition in self._free
            if partition not in busy and (name := target.get(partition)) is not None
            and (member := members.get(name)) is not None
            and (session_us_max is None or member.session_us <= session_us_max)
        ]  # fmt: skip
        if grants:
            self.generation = next(self._generations)
            for partition, name, member in grants:
                self._own(partition, name, member, self.generation)
