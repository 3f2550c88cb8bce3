"""A member's half of a consumer group at one broker: what it may read, and until when. No I/O, no clock.

Its session counts from when a sync was *sent*, shortened by a margin for clocks that run differently; the broker's
counts from when that sync arrived. So a member that is cut off, stopped or slow ends its session first, and by the time
the broker gives its partitions away it reads none of them. An answer that comes after that end is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mqcore.groups._values import Grant, MemberSync

__all__ = ["GroupSession", "SessionChange"]

_MARGIN_SHARE = 10
"""Of a session: how much earlier a member takes it for over than the broker; 10 stands for clocks 10 % apart."""


@attrs.frozen
class SessionChange:
    """What an answer, or time, has changed: partitions to read from now on, partitions to read no more.

    ``is_lost``: what is in ``lost`` may be with another member already, and cannot be committed any more.
    """

    gained: Mapping[int, Grant] = attrs.field(factory=dict)
    lost: frozenset[int] = frozenset()
    is_lost: bool = False


class GroupSession:
    """The session of ``member``. ``session_us``, ``rebalance_us``: what it asks the broker for.

    ``held`` are the partitions that it reads, with the generation of their grants, ``ending`` those that it has to
    give up and has not finished with.
    """

    def __init__(self, member: str, token: bytes, *, session_us: int, rebalance_us: int) -> None:
        self.member = member
        self.held: dict[int, int] = {}
        self.ending: dict[int, int] = {}
        self.lives_until_us = 0
        """When the session is over by this side's clock; what is held may be read before that and not after."""
        self._token = token
        self._session_us = session_us
        self._rebalance_us = rebalance_us
        self._sequence = 0
        self._seen = 0
        self._answered = 0
        """Sequence of the newest sync whose answer was followed, or that was given up for lost."""
        self._is_fresh = True
        self._give_up_by_us: int | None = None
        self._sent_at_us: dict[int, int] = {}
        self._followed_sent_at_us = 0
        """When the sync was sent whose answer was followed last."""
        self._given_up: dict[int, int] = {}
        self.must_sync = True
        """Whether the broker is to be told of something at once."""

    @property
    def token(self) -> bytes:
        """16 bytes that tell this member from another of its name."""
        return self._token

    def generation_of(self, partition: int) -> int | None:
        """Generation of the grant by which a partition is held; None when it is not."""
        return self.held.get(partition, self.ending.get(partition))

    def next_sync(self, now_us: int) -> MemberSync:
        """The sync to send at ``now_us``."""
        if self._is_fresh:
            self._answered = self._sequence  # it says that no earlier answer is followed: so none may be
        self._sequence += 1
        self._sent_at_us[self._sequence] = now_us
        self.must_sync = False
        held = {} if self._is_fresh else {**self.held, **self.ending}
        return MemberSync(
            self.member, self._token, self._sequence, self._is_fresh, self._seen,
            self._session_us, self._rebalance_us, held,
        )  # fmt: skip

    def unanswered(self, sequence: int) -> None:
        """Take in that a sync gets no answer: the connection broke."""
        self._sent_at_us.pop(sequence, None)

    def answered(
        self, sequence: int, generation: int, granted: Mapping[int, Grant] | None, now_us: int
    ) -> SessionChange:
        """Take in the answer to a sync: what the member may read, None for just what it said it holds."""
        sent_at_us = self._sent_at_us.pop(sequence, None)
        lives_until_us = 0 if sent_at_us is None else sent_at_us + self._session_us - self._session_us // _MARGIN_SHARE
        if sent_at_us is None or sequence <= self._answered or now_us >= lives_until_us:
            return SessionChange()  # overtaken, or too late to be believed
        self._answered = sequence
        self._is_fresh = False
        self._seen = max(self._seen, generation)
        self.lives_until_us = max(self.lives_until_us, lives_until_us)
        if granted is None:
            self._followed_sent_at_us = sent_at_us
            return SessionChange()
        gained = {
            partition: grant
            for partition, grant in granted.items()
            if grant.generation > self._given_up.get(partition, 0) and self.held.get(partition) != grant.generation
            and self.ending.get(partition) != grant.generation
        }  # fmt: skip
        lost = {
            partition for partition, by in self.held.items() if partition not in granted or granted[partition][0] != by
        }
        for partition in lost:
            self.ending[partition] = self.held.pop(partition)
        for partition in gained.keys() & self.ending.keys():
            del gained[partition]  # when it is finished with under its last grant, the broker gives it again
        for partition, grant in gained.items():
            self.held[partition] = grant.generation
        if lost:
            self.must_sync = True
            if self._give_up_by_us is None:
                # The broker counts from when it decided that, which was after it answered the sync before this one.
                since_us = self._followed_sent_at_us
                self._give_up_by_us = since_us + self._rebalance_us - self._rebalance_us // _MARGIN_SHARE
        self._followed_sent_at_us = sent_at_us
        return SessionChange(gained, frozenset(lost))

    def finished(self, partition: int) -> None:
        """Take in that nothing of a partition that is to be given up is in anybody's hands any more."""
        generation = self.ending.pop(partition, None)
        if generation is not None:
            self._given_up[partition] = generation
            self.must_sync = True
        if not self.ending:
            self._give_up_by_us = None

    @property
    def due_us(self) -> int | None:
        """When the session, or the time to give something up, is over by this side's clock; None: nothing is held."""
        if not self.held and not self.ending:
            return None
        return self.lives_until_us if self._give_up_by_us is None else min(self.lives_until_us, self._give_up_by_us)

    def advance(self, now_us: int) -> SessionChange:
        """End the session if it is over by now: nothing is held any more, and it begins anew with the next sync."""
        due_us = self.due_us
        if due_us is None or now_us < due_us:
            return SessionChange()
        return self.begin_anew()

    def begin_anew(self) -> SessionChange:
        """Hold nothing any more: the next sync says so."""
        lost = frozenset(self.held.keys() | self.ending.keys())
        self.held.clear()
        self.ending.clear()
        self._answered = self._sequence  # what was asked for before is not followed
        self._sent_at_us.clear()
        self._is_fresh = self.must_sync = True
        self._give_up_by_us = None
        return SessionChange(lost=lost, is_lost=bool(lost))
