"""A member's dealings with the broker of one set: the shell around ``mqcore.groups.GroupSession``.

One task syncs: what the member holds goes out, what it may read comes back, for as long as the consumer lives. Must not
know how partitions are read, nor what is done with messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import trio

from mqcore.client._router import Router
from mqcore.client._stream import RequestStream
from mqcore.errors import MqcoreError, NotReachedError, RejectedError
from mqcore.groups import Grant, GroupSession, MemberSync, SessionChange
from mqcore.protocol import Code, Commit, Committed, Failed, Message, Sync, Synced, error_for

__all__ = ["GroupLink"]

_WAIT_MS_MAX = 2_500
"""Longest wait of a sync: a request that is not answered for longer is asked after (``STALL_S``)."""
_WAIT_SHARE = 3
_PAUSE_S = 0.05
_LEAVE_WITHIN_S = 1.0
_REFUSALS_TOLD = 20
"""Refusals in a row after which the log says what is waited for: a second or two."""

_log = logging.getLogger("mqcore.client")


class GroupLink:
    """The session of one member at the set that owns ``partition``, and all the others of that set.

    ``changed`` is called with what an answer, or time, has changed. ``failure``: what ended the session for good.
    """

    def __init__(
        self,
        router: Router,
        topic_id: bytes,
        partition: int,
        group: str,
        session: GroupSession,
        *,
        assignor: str,
        session_ms: int,
        rebalance_ms: int,
        changed: Callable[[GroupLink, SessionChange], None],
    ) -> None:
        self.session = session
        self.failure: MqcoreError | None = None
        self.joined = trio.Event()
        """Set by the first answer."""
        self._router = router
        self._topic_id = topic_id
        self._partition = partition
        self._group = group
        self._assignor = assignor
        self._session_ms = session_ms
        self._rebalance_ms = rebalance_ms
        self._changed = changed
        self._wake = trio.Event()
        self._inbox: list[tuple[MemberSync, Message | None]] = []
        self._in_flight = 0
        self._redirects = 0
        self._is_over = self._is_resting = False
        self._was_told = False
        """Whether the broker may take this for a member: a sync went out, and it has not refused the member."""

    @property
    def now_us(self) -> int:
        """This side's clock."""
        return round(trio.current_time() * 1e6)

    def lives(self, partition: int) -> bool:
        """Whether a partition may be read at this moment."""
        return partition in self.session.held and self.now_us < self.session.lives_until_us

    def may_commit(self, partition: int) -> bool:
        """Whether a partition is this member's at this moment, be it one that is to be given up."""
        return self.session.generation_of(partition) is not None and self.now_us < self.session.lives_until_us

    def look(self) -> None:
        """Do what time brings about: asked before anything is delivered, for a process may have been stopped."""
        self._apply(self.session.advance(self.now_us))

    def wake(self) -> None:
        """Have the broker told what there is to be told."""
        self._wake.set()

    # syncs

    async def run(self) -> None:
        """Sync until the session has failed for good, ``leave`` was called, or this is cancelled."""
        while self.failure is None and not self._is_over:
            self.look()
            if self._is_resting:
                await self._tell_leaving()
                await self._wake.wait()
                self._wake = trio.Event()
                continue
            while self._inbox:  # first of all: what is sent next says what these have changed
                await self._take(*self._inbox.pop(0))
            if self.failure is None and (self.session.must_sync or not self._in_flight):
                await self._send()
            if self._inbox or self.session.must_sync or self.failure is not None or not self._in_flight:
                continue
            due_us = self.session.due_us
            with trio.move_on_after(3600 if due_us is None else max(0, due_us - self.now_us) / 1e6):
                await self._wake.wait()
            self._wake = trio.Event()
        self.joined.set()

    async def _send(self) -> None:
        """Send a sync, if there is a connection within a moment."""
        stream: RequestStream | None = None
        with trio.move_on_after(_PAUSE_S):
            try:
                stream = await self._router.owner_of(self._topic_id, self._partition).ready_for(self._size)
            except trio.ClosedResourceError:
                await trio.sleep_forever()  # for the pause: by then another server may be known
        if stream is None or self._is_over or self._is_resting:
            return
        if "group_members_max" not in stream.welcome.limits:
            text = f"the broker {stream.welcome.node_name} is of a release without consumer groups"
            self._fail(RejectedError(text, code=Code.UNKNOWN_OPERATION, name=Code.UNKNOWN_OPERATION.label))
            return
        sync = self.session.next_sync(self.now_us)
        self._was_told = True
        wait_ms = min(self._session_ms // _WAIT_SHARE, _WAIT_MS_MAX) if self.joined.is_set() else 0
        self._in_flight += 1

        def on_reply(message: Message | None) -> None:
            self._in_flight -= 1
            self._inbox.append((sync, message))
            self._wake.set()

        stream.request(self._message(sync, stream.next_id(), wait_ms=wait_ms, leaves=False), on_reply)
        await stream.flush()

    @property
    def _size(self) -> int:
        return 700 + 12 * (len(self.session.held) + len(self.session.ending))

    def _message(self, sync: MemberSync, request_id: int, *, wait_ms: int, leaves: bool) -> Sync:
        return Sync(
            request_id, self._topic_id, self._group, sync.member, sync.token, sync.sequence, sync.is_fresh, leaves,
            sync.seen, self._session_ms, self._rebalance_ms, wait_ms, self._assignor, list(sync.held.items()),
        )  # fmt: skip

    async def _take(self, sync: MemberSync, message: Message | None) -> None:
        if isinstance(message, Synced):
            self._redirects = 0
            granted: Mapping[int, Grant] | None = None
            if message.granted is not None:
                granted = {number: Grant(by, offset, epoch) for number, by, offset, epoch in message.granted}
            self.look()
            self._apply(self.session.answered(sync.sequence, message.generation, granted, self.now_us))
            self.joined.set()
            return
        self.session.unanswered(sync.sequence)
        if isinstance(message, Failed) and not self._may_be_repeated(message):
            self._fail(error_for(message.code, message.text, dict(message.facts)))
        elif not isinstance(message, Failed) or message.code != Code.OVERTAKEN:
            self._redirects += 1
            if isinstance(message, Failed) and self._redirects == _REFUSALS_TOLD:
                _log.warning("group %s: %s waits to be taken in: %s", self._group, sync.member, message.text)
            context = self._router.context
            with trio.move_on_after(context.backoff.redirect_pause(self._redirects, context.random)):
                await trio.sleep_forever()

    def _may_be_repeated(self, failed: Failed) -> bool:
        """Whether the same may succeed, here or at the server that is named."""
        if failed.code == Code.NOT_PRIMARY:
            self._router.redirect(self._topic_id, self._partition, failed.facts)
            return True
        known = failed.code in Code._value2member_map_
        return failed.code == Code.OVERTAKEN or (known and Code(failed.code).retryable)

    def _fail(self, error: MqcoreError) -> None:
        self.failure = error
        self._was_told = False
        self._apply(self.session.begin_anew())

    def _apply(self, change: SessionChange) -> None:
        if change.gained or change.lost or self.failure is not None:
            self._changed(self, change)

    # commits

    async def commit(
        self, entries: Sequence[tuple[int, int, int, int]], timeout_s: float
    ) -> list[tuple[int, int, int]]:
        """Commit entries (partition, generation, offset, epoch) and return the cursors that are in force.

        Repeated until there is an answer: doing it twice is the same as once. Raises ``RejectedError`` for what is not
        this member's any more, ``RequestFailedError``, ``NotReachedError``. If cancelled, it may be committed.
        """
        redirects = 0
        with trio.move_on_after(timeout_s):
            while True:
                try:
                    session = self._router.owner_of(self._topic_id, self._partition)
                    stream = await session.ready_for(500 + 28 * len(entries))
                except trio.ClosedResourceError:
                    await trio.sleep(_PAUSE_S)
                    continue
                sync = self.session
                request = Commit(stream.next_id(), self._topic_id, self._group, sync.member, sync.token, entries)
                reply = await stream.ask(request)
                if isinstance(reply, Committed):
                    return list(reply.cursors)
                if isinstance(reply, Failed) and not self._may_be_repeated(reply):
                    error = error_for(reply.code, reply.text, dict(reply.facts))
                    # A broker that has just begun to reign does not know its members before they have synced.
                    if reply.code != Code.NOT_OWNER or not all(self._holds(*entry[:2]) for entry in entries):
                        raise error
                    self.session.must_sync = True
                    self.wake()
                redirects += 1
                await trio.sleep(self._router.context.backoff.redirect_pause(redirects, self._router.context.random))
        raise NotReachedError(f"group {self._group!r}: no answer to a commit within {timeout_s:g} s")

    def _holds(self, partition: int, generation: int) -> bool:
        return self.session.generation_of(partition) == generation and self.now_us < self.session.lives_until_us

    async def leave(self) -> None:
        """Tell the broker that the member leaves, if it can be told within a moment. Raises nothing."""
        self._is_over = True
        self._wake.set()
        await self._tell_leaving()

    def rest(self) -> None:
        """Give everything up and be no member until ``go_on``."""
        self._is_resting = True
        self._apply(self.session.begin_anew())
        self._wake.set()

    def go_on(self) -> None:
        """Join again after ``rest``."""
        self._is_resting = False
        self.session.must_sync = True
        self._wake.set()

    async def _tell_leaving(self) -> None:
        if not self._was_told:
            return
        self._was_told = False
        with trio.move_on_after(_LEAVE_WITHIN_S):
            stream = self._router.owner_of(self._topic_id, self._partition).stream
            if stream is not None and stream.may_send(self._size):
                sync = self.session.next_sync(self.now_us)
                await stream.ask(self._message(sync, stream.next_id(), wait_ms=0, leaves=True))
