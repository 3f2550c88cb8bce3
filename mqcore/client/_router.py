"""Which server: one session per server, the one that owns each partition, and where everything else is asked.

The servers that were named when the client connected are tried in their order; the first that answers is *home*: it is
asked for what has no owner yet, and for administration. A server that does not own a partition says which one does
(``not-primary``); from then on that partition's queue and reader use that one. Producers and consumers know partitions
only. Time is kept here, for all: end of waiting, linger, keepalive.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import trio

from mqcore.abc import Transport
from mqcore.client._bell import Bell
from mqcore.client._context import ClientContext
from mqcore.client._session import Session, reason
from mqcore.errors import MqcoreError, NotReachedError, OutcomeUnknownError, RemoteProtocolError, TransportError
from mqcore.protocol import Code, Failed, Result, error_for
from mqcore.registry import create_transport

__all__ = ["User", "Router"]

_log = logging.getLogger("mqcore.client")
_FINAL_CODES = frozenset({Code.NOT_THIS_PROTOCOL, Code.VERSION})
TELL_AFTER_S = 2.0
"""How long there is no answer before that is logged while it is tried further."""


class User(Protocol):
    """A producer or consumer: what it has at servers may move, and its times end."""

    def move(self, source: Session, target: Session) -> None:
        """Go on at ``target`` with every partition that is at ``source``."""
        ...

    def expire(self, now: float) -> float:
        """End what has waited too long; return when to be asked again."""
        ...

    def close(self, why: str) -> None:
        """Take note that nothing will be sent any more."""
        ...


class Router:
    """The sessions of one client. ``users`` are producers and consumers; ``home`` is asked for what has no owner."""

    def __init__(self, transports: Sequence[Transport], context: ClientContext) -> None:
        self.context = context
        self.users: dict[User, None] = {}
        self._transports = list(transports)
        self.home = self._new_session(self._transports[0])
        self._sessions: dict[str, Session] = {}
        self._owners: dict[tuple[bytes, int], Session] = {}
        self._failures: Counter[str] = Counter()
        self._nursery: trio.Nursery | None = None
        self._is_closed = False
        self._home_is_lost = Bell()
        self._alarm = trio.CancelScope()
        self._alarm_at = math.inf

    def _new_session(self, transport: Transport) -> Session:
        return Session(
            transport,
            self.context,
            connected=self._connected,
            unreachable=self._unreachable,
            set_alarm=self.set_alarm,
        )

    # life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect (``NotReachedError`` when no server answers in time), then stay connected until cancelled."""
        try:
            await self._connect_first()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._start(self.home)
                nursery.start_soon(self._watch)
                if len(self._transports) > 1:
                    nursery.start_soon(self._follow_home)
                task_status.started()
        finally:
            self._is_closed = True
            for user in list(self.users):
                user.close("the client was closed")
            for session in self._sessions.values():
                session.close()

    def _start(self, session: Session) -> None:
        assert self._nursery is not None
        self._sessions[session.url] = session
        self._nursery.start_soon(session.run)

    def start_soon(self, task: Callable[[Any], Awaitable[None]], argument: object) -> None:
        """Run ``task(argument)`` beside everything else, until the client is closed. It must raise nothing."""
        if self._nursery is not None:
            self._nursery.start_soon(task, argument)

    async def _connect_first(self) -> None:
        timeout = self.context.options.connect_timeout_ms / 1000
        problems: dict[str, str] = {}
        began, attempt = trio.current_time(), 0
        with trio.move_on_after(timeout):
            while (found := await self._connect_any(self._transports, problems, is_first=True)) is None:
                attempt += 1
                await trio.sleep(self.context.backoff.pause(attempt, self.context.random))
                if attempt > 1 and began + TELL_AFTER_S < trio.current_time() < began + timeout:
                    began = math.inf
                    _log.warning("no server answers, going on trying for %g s: %s", timeout, _joined(problems))
            self.home = found
            return
        missing = {str(each.url): f"{each.url}: no answer" for each in self._transports}
        raise NotReachedError(f"no server answered within {timeout:g} s: {_joined(missing | problems)}")

    async def _connect_any(
        self, transports: Sequence[Transport], problems: dict[str, str], *, is_first: bool = False
    ) -> Session | None:
        """Try each server once, in order; say in ``problems`` why one did not answer.

        ``is_first``: raise what will not pass by itself: a foreign server, ``NotReachedError`` when all are such.
        """
        whole = self.context.options.connect_timeout_ms / 1000
        # A little less than the whole, so that the attempt ends with its reason and is not just cut off.
        timeout = min(max(1.0, whole / len(self._transports)), 0.9 * whole)
        hopeless = 0
        for transport in transports:
            session = self._sessions.get(str(transport.url))
            if session is not None and session.stream is not None:
                return session
            session = self._new_session(transport)
            try:
                await session.connect(timeout)
            except (TransportError, RemoteProtocolError) as error:
                if isinstance(error, RemoteProtocolError) and is_first and error.code in _FINAL_CODES:
                    raise
                problems[session.url] = reason(transport, error)
                hopeless += isinstance(error, TransportError) and not error.retryable
            else:
                return session
        if is_first and hopeless == len(transports):
            raise NotReachedError(f"no server can be reached: {_joined(problems)}")
        return None

    # where what is asked

    def owner_of(self, topic_id: bytes, partition: int) -> Session:
        """The session of the server that owns the partition, as far as is known; else the home session."""
        return self._owners.get((topic_id, partition), self.home)

    def redirect(self, topic_id: bytes, partition: int, facts: Mapping[str, object]) -> Session:
        """Take note of who owns the partition, as a ``not-primary`` says it, and return that server's session."""
        session = self._session_of(facts)
        if session is self.home:
            self._owners.pop((topic_id, partition), None)
        else:
            self._owners[topic_id, partition] = session
        return session

    def _session_of(self, facts: Mapping[str, object]) -> Session:
        """The session of the server that a ``not-primary`` names; the home session when it names none of use.

        Of several addresses of that server one that a session has already, else the one that failed least often: some
        may lead there from other machines only.
        """
        urls = facts.get("urls")
        named = [url for url in urls if isinstance(url, str)] if isinstance(urls, list) else []
        for url in named:
            session = self._sessions.get(url)
            if session is not None and not session.is_closed:
                return session
        for url in sorted(named, key=lambda url: self._failures[url]):
            try:
                session = self._new_session(create_transport(url))
            except MqcoreError as error:
                _log.warning("a server names %s as the owner of a partition, which is of no use: %s", url, error)
                continue
            self._start(session)
            return session
        return self.home

    def _connected(self, session: Session) -> None:
        """One session per server: an address that leads to a server which has one already becomes a name of that."""
        assert session.stream is not None
        node_id = session.stream.welcome.node_id
        for other in list(self._sessions.values()):
            known = other.stream
            if other is not session and known is not None and known.welcome.node_id == node_id:
                self._replace(session, other)
                self._sessions[session.url] = other
                return

    def _unreachable(self, session: Session) -> None:
        """What this server owned may have another owner now: ask for it at home, or look for another home."""
        if session is self.home:
            self._home_is_lost.ring()
        else:
            self._failures[session.url] += 1
            self._replace(session, self.home)

    async def _follow_home(self) -> None:
        while True:
            await self._home_is_lost.wait()
            lost = self.home
            found = await self._connect_any([each for each in self._transports if each is not lost.transport], {})
            if found is None:
                continue
            if self._sessions.get(found.url) is not found:
                self._start(found)
            self.home = found
            _log.warning("%s does not answer: going on at %s", lost.url, found.url)
            self._replace(lost, found)

    def _replace(self, session: Session, target: Session) -> None:
        """Move everything from ``session``, which has nothing in flight, to ``target``, and close it."""
        session.close()
        if self._sessions.get(session.url) is session:
            del self._sessions[session.url]
        for partition, owner in list(self._owners.items()):
            if owner is session:
                if target is self.home:
                    del self._owners[partition]
                else:
                    self._owners[partition] = target
        for user in list(self.users):
            user.move(session, target)
        target.bell.ring()

    # calls

    async def call(self, operation: str, arguments: dict[str, object], *, is_repeatable: bool) -> Any:
        """Request an administrative operation and return its result, a JSON value.

        ``is_repeatable``: it may be requested again when the connection breaks. Raises ``RejectedError``,
        ``RequestFailedError``, ``OutcomeUnknownError`` (requested, no reply, and not repeatable), ``NotReachedError``.
        If cancelled, it may have been done.
        """
        timeout = self.context.options.request_timeout_ms / 1000
        was_sent, redirects = False, 0
        session = self.home
        with trio.move_on_after(timeout):
            while True:
                try:
                    stream = await session.ready_for(len(operation) + 64 * len(arguments))
                except trio.ClosedResourceError:
                    if self._is_closed:
                        raise
                    session = self.home
                    continue
                was_sent = True
                reply = await stream.call(operation, arguments)
                if isinstance(reply, Result):
                    return reply.value
                if isinstance(reply, Failed):
                    if reply.code != Code.NOT_PRIMARY:
                        raise error_for(reply.code, reply.text, dict(reply.facts))
                    was_sent = False
                    session, redirects = self._session_of(reply.facts), redirects + 1
                    if redirects > 1:
                        await trio.sleep(self.context.backoff.pause(redirects - 1, self.context.random))
                elif not is_repeatable:
                    raise OutcomeUnknownError(f"{operation}: the connection broke before the answer: was it done?")
        if was_sent and not is_repeatable:
            raise OutcomeUnknownError(f"{operation}: no answer within {timeout:g} s: was it done?")
        raise NotReachedError(f"{operation}: no answer within {timeout:g} s: is the broker reachable?")

    # time

    def set_alarm(self, at: float) -> None:
        """Make sure that everything is looked after at time ``at`` at the latest."""
        if at < self._alarm_at:
            self._alarm_at = self._alarm.deadline = at

    async def _watch(self) -> None:
        """One task for all times: a timer per batch or request would cost more than they do."""
        keepalive = self.context.options.keepalive_ms / 1000
        look_at = trio.current_time() + keepalive
        while True:
            now = trio.current_time()
            if now >= look_at:
                for session in list(self._sessions.values()):
                    await session.look_after(now, keepalive)
                look_at = now + keepalive
            again = look_at
            for user in list(self.users):
                again = min(again, user.expire(now))
            for session in self._sessions.values():
                session.bell.ring()
            self._alarm_at = again
            with trio.CancelScope(deadline=again) as self._alarm:
                await trio.sleep_forever()


def _joined(problems: Mapping[str, str]) -> str:
    return "; ".join(problems.values())
