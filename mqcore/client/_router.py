"""Which server: one session per server, the one that owns each partition, and where everything else is asked.

The servers that were named when the client connected are tried in their order; the first that answers is *home*: it is
asked for what has no owner yet, and for administration. ``topic.resolve`` says which others there are and what they
own. A server that does not own a partition says which one does (``not-primary``), or that it does not know, and then
the other nodes of the set are asked in turn. Producers and consumers know partitions only. Time is kept here, for all:
end of waiting, linger, keepalive.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import trio

from mqcore.abc import Transport
from mqcore.client._bell import Bell
from mqcore.client._context import ClientContext
from mqcore.client._places import Places
from mqcore.client._refusals import who_is_here
from mqcore.client._session import STALL_S, Session, reason
from mqcore.errors import (
    ConfigurationError,
    MqcoreError,
    NotReachedError,
    OutcomeUnknownError,
    RemoteProtocolError,
    TransportError,
)
from mqcore.operations import SetDescription, TopicInfo, from_result
from mqcore.protocol import Code, Failed, Message, Result, error_for

__all__ = ["User", "Router"]

_log = logging.getLogger("mqcore.client")
_FINAL_CODES = frozenset(
    {Code.NOT_THIS_PROTOCOL, Code.VERSION, Code.LOGIN_REQUIRED, Code.LOGIN_FAILED, Code.UNKNOWN_MECHANISM}
)
URLS_MAX = 16
"""Addresses of one server that are taken from a ``not-primary``."""
URL_CHARACTERS_MAX = 2_048
"""Longest of them."""
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
        self.places = Places()
        self._told: dict[str, str] = {}
        """Servers of which it was logged that they are not reached: once each, however often they are tried."""
        self._transports = list(transports)
        self._is_encrypted = all(each.capabilities.encrypted for each in self._transports)
        self.home = self._new_session(self._transports[0])
        self._sessions: dict[str, Session] = {}
        self._owners: dict[tuple[bytes, int], Session] = {}
        self._tries: Counter[str] = Counter()
        """How often each URL was gone to in vain: not reached, or not the owner and not knowing who is."""
        self._nursery: trio.Nursery | None = None
        self._is_closed = False
        self._home_is_lost = Bell()
        self._alarm = trio.CancelScope()
        self._alarm_at = math.inf
        self._look_at = -math.inf

    def _new_session(self, transport: Transport) -> Session:
        return Session(
            transport,
            self.context,
            connected=self._connected,
            unreachable=self._unreachable,
            stalled=lambda session: self.start_soon(self._say_why, session),
            set_alarm=self.set_alarm,
            attempt_s=self._attempt_s(),
            told=self._told,
        )

    def _transport_to(self, url: str) -> Transport:
        """A transport to a server that another one has named; ``ConfigurationError`` and more for one of no use."""
        transport = self.context.transport(url)
        if self._is_encrypted and not transport.capabilities.encrypted:
            raise ConfigurationError("it is not encrypted, and the servers that this client was given are")
        return transport

    def _attempt_s(self) -> float:
        """How long one attempt to connect takes at most.

        A little less than the whole time, so that it ends with its reason and is not just cut off; a share of it where
        there are other servers, which are not to wait for one that is silent.
        """
        whole = self.context.options.connect_timeout_ms / 1000
        return min(max(1.0, whole / len(self._transports)), 0.9 * whole)

    # life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect (``NotReachedError`` when no server answers in time), then stay connected until ``close``."""
        try:
            await self._connect_first()
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._start(self.home)
                nursery.start_soon(self._watch)
                nursery.start_soon(self._follow_home)
                task_status.started()
                # Members commit and leave when the block is cancelled; who is cancelled by now will have no block.
                nursery.cancel_scope.shield = trio.current_effective_deadline() > -math.inf
        finally:
            self._is_closed = True
            for user in list(self.users):
                user.close("the client was closed")
            for session in self._sessions.values():
                session.close()

    def close(self) -> None:
        """End ``run``. Idempotent."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

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

        ``is_first``: raise what will not pass by itself: a foreign server, own files of no use, all of them hopeless.
        """
        timeout, hopeless = self._attempt_s(), 0
        for transport in transports:
            session = self._sessions.get(str(transport.url))
            if session is not None and session.stream is not None:
                return session
            session = self._new_session(transport)
            try:
                await session.connect(timeout)
            except (TransportError, RemoteProtocolError) as error:
                if is_first and (isinstance(error, ConfigurationError) or getattr(error, "code", None) in _FINAL_CODES):
                    raise
                problems[session.url] = reason(transport, error)
                hopeless += isinstance(error, TransportError) and not error.retryable
            else:
                if session.is_closed:  # it leads to a server that has a session, which goes by both names now
                    await session.aclose()
                    session = self._sessions[session.url]
                return session
        if is_first and hopeless == len(transports):
            raise NotReachedError(f"no server can be reached: {_joined(problems)}")
        return None

    # where what is asked

    def learn(self, info: TopicInfo) -> None:
        """Take in what ``topic.resolve`` said: servers that were not named, and who owns what."""
        self.places.learn(info)
        known = {str(each.url) for each in self._transports}
        for url in self.places.urls:
            if url not in known and len(self._transports) < self.context.limits.servers_max:
                self._look_at = -math.inf  # less patience with the silent, now that there are others
                self.set_alarm(trio.current_time())
                try:
                    self._transports.append(self._transport_to(url))
                except MqcoreError as error:
                    _log.info("%s, a server of the cluster, cannot be used from here: %s", url, error)

    def owner_of(self, topic_id: bytes, partition: int) -> Session:
        """The session of the server that owns the partition, as far as is known; else the home session."""
        owner = self._owners.get((topic_id, partition))
        if owner is None or owner.is_closed:
            primary = self.places.primary(topic_id, partition)
            owner = None if primary is None else self._session_at(primary.urls)
        return owner or self._any_of_set(topic_id, partition) or self.home

    def _any_of_set(self, topic_id: bytes, partition: int) -> Session | None:
        """A node of the set that owns the partition, where that is known and home is in another one."""
        nodes = self.places.nodes(topic_id, partition)
        if not nodes or any(self.home.url in node.urls for node in nodes):
            return None
        return self._session_at(min(nodes, key=lambda node: min(self._tries[url] for url in node.urls)).urls)

    def redirect(self, topic_id: bytes, partition: int, facts: Mapping[str, object]) -> Session:
        """Take note of who owns the partition, as a ``not-primary`` says it, and return that server's session.

        One that does not say it is no owner, nor does it know one: the next node of the set is asked.
        """
        session = self._session_at(_urls_in(facts))
        if session is None:
            nodes = self.places.nodes(topic_id, partition)
            session = self._another([node.urls for node in nodes], self.owner_of(topic_id, partition))
        else:
            self.places.reigns(topic_id, partition, session.url)
        self._owners[topic_id, partition] = session
        return session

    def source_of(self, topic_id: bytes, partition: int, read_from: str) -> tuple[Session, bool]:
        """The session to read the partition from by a consumer's ``read_from``, and whether a replica may answer."""
        nodes = self.places.nodes(topic_id, partition)
        primary = self.places.primary(topic_id, partition)
        if not nodes or read_from == "primary" or (read_from != "any" and primary is not None):
            return self.owner_of(topic_id, partition), False
        # Those that were reached best, by chance among equals, so that consumers spread over the nodes of a set.
        tries = [min(self._tries[url] for url in node.urls) for node in nodes]
        best = [node for node, count in zip(nodes, tries, strict=True) if count == min(tries)]
        session = self._session_at(self.context.random.choice(best).urls)
        return session or self.owner_of(topic_id, partition), True

    def _session_at(self, urls: Sequence[str]) -> Session | None:
        """The session of the server that ``urls`` lead to, None when there is none of use.

        Of several addresses of that server one that a session has already, else the one that failed least often: some
        may lead there from other machines only.
        """
        for url in urls:
            session = self._sessions.get(url)
            if session is not None and not session.is_closed:
                return session
        for url in sorted(urls, key=lambda url: self._tries[url]):
            if len(self._sessions) >= self.context.limits.servers_max:
                # Not closed to make room: the servers in use are worth more than one that may not even be there.
                _log.warning("a server names one more server than the limit servers_max allows: %s", url)
                break
            try:
                session = self._new_session(self._transport_to(url))
            except MqcoreError as error:
                _log.warning("a server names %s as the owner of a partition, which is of no use: %s", url, error)
                continue
            self._start(session)
            return session
        return None

    def _another(self, nodes: Sequence[Sequence[str]], current: Session) -> Session:
        """The session of another server than ``current``, the one that was tried in vain least often.

        ``nodes``: the URLs of each that may be asked; none: all that are known, each at its own address.
        """
        self._tried_in_vain(current.url)
        candidates = [
            urls
            for urls in nodes or [(str(each.url),) for each in self._transports]
            if current.url not in urls and not any(self._sessions.get(url) is current for url in urls)
        ]
        for urls in sorted(candidates, key=lambda urls: min(self._tries[url] for url in urls)):
            session = self._session_at(urls)
            if session is not None:
                return session
        return self.home

    def _tried_in_vain(self, url: str) -> None:
        if len(self._tries) >= self.context.limits.servers_max:
            self._tries.clear()  # an order of trying is all that is forgotten
        self._tries[url] += 1

    def _connected(self, session: Session) -> None:
        """One session per server: an address that leads to a server which has one already becomes a name of that."""
        assert session.stream is not None
        node_id = session.stream.welcome.node_id
        for other in list(self._sessions.values()):
            known = other.stream
            if other is not session and known is not None and known.welcome.node_id == node_id:
                if session is self.home:
                    self.home = other
                self._replace(session, other)
                self._sessions[session.url] = other
                return

    def _unreachable(self, session: Session) -> None:
        """What this server owned may have another owner now: ask for it at home, or look for another home."""
        self._tried_in_vain(session.url)
        self.places.is_gone(session.url)
        if session is self.home:
            self._home_is_lost.ring()
        else:
            self._replace(session, self.home)

    async def _say_why(self, session: Session) -> None:
        """Log what a request waits for, as far as the server's set tells: most likely for a node that is away."""
        reply: Message | None = None
        with trio.move_on_after(STALL_S), suppress(MqcoreError, trio.ClosedResourceError):
            reply = await session.ask_beside("set.describe")
        if not isinstance(reply, Result):
            return
        with suppress(ValueError):
            found = from_result(SetDescription, reply.value)
            _log.warning("%s has not answered for %g s, waiting: %s", session.url, STALL_S, who_is_here(found))

    async def _follow_home(self) -> None:
        while True:
            await self._home_is_lost.wait()
            lost = self.home
            found = await self._connect_any([each for each in self._transports if each is not lost.transport], {})
            if found is None:
                continue
            is_new = found not in self._sessions.values()
            if lost is not self.home or lost.stream is not None:  # it came back while others were tried
                if is_new:
                    await found.aclose()
                continue
            if is_new:
                self._start(found)
            self.home = found
            _log.warning("%s does not answer: going on at %s", lost.url, found.url)
            self._replace(lost, found)

    def _replace(self, session: Session, target: Session) -> None:
        """Move everything from ``session``, which has nothing in flight, to ``target``, and close it."""
        session.close()
        for url in [url for url, known in self._sessions.items() if known is session]:
            del self._sessions[url]
        for partition, owner in list(self._owners.items()):
            if owner is session:
                self._owners[partition] = target
        for user in list(self.users):
            user.move(session, target)
        target.bell.ring()

    # calls

    async def call(
        self, operation: str, arguments: dict[str, object], *, is_repeatable: bool, at: Session | None = None
    ) -> Any:
        """Request an administrative operation and return its result, a JSON value. ``at``: where, first; None: at home.

        ``is_repeatable``: it may be requested again when the connection breaks. Raises ``RejectedError``,
        ``RequestFailedError``, ``OutcomeUnknownError`` (requested, no reply, and not repeatable), ``NotReachedError``.
        If cancelled, it may have been done.
        """
        timeout = self.context.options.request_timeout_ms / 1000
        was_sent, redirects, refusal = False, 0, "is the broker reachable?"
        session = at or self.home
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
                    was_sent, refusal = False, f"the last node asked says: {reply.text}"
                    redirects += 1
                    session = self._session_at(_urls_in(reply.facts)) or self._another((), session)
                    if redirects > 1:
                        await trio.sleep(self.context.backoff.redirect_pause(redirects - 1, self.context.random))
                elif not is_repeatable:
                    raise OutcomeUnknownError(f"{operation}: the connection broke before the answer: was it done?")
        if was_sent and not is_repeatable:
            raise OutcomeUnknownError(f"{operation}: no answer within {timeout:g} s: was it done?")
        text = "it may have been done, and repeating it does no harm" if was_sent else refusal
        raise NotReachedError(f"{operation}: no answer within {timeout:g} s: {text}")

    # time

    def set_alarm(self, at: float) -> None:
        """Make sure that everything is looked after at time ``at`` at the latest."""
        if at < self._alarm_at:
            self._alarm_at = self._alarm.deadline = at

    async def _watch(self) -> None:
        """One task for all times: a timer per batch or request would cost more than they do."""
        while True:
            now = trio.current_time()
            if now >= self._look_at:
                keepalive = self._keepalive_s()
                for session in list(self._sessions.values()):
                    self.start_soon(partial(session.look_after, now), keepalive)
                self._look_at = now + keepalive
            again = self._look_at
            for user in list(self.users):
                again = min(again, user.expire(now))
            for session in self._sessions.values():
                session.bell.ring()
            self._alarm_at = again
            with trio.CancelScope(deadline=again) as self._alarm:
                await trio.sleep_forever()

    def _keepalive_s(self) -> float:
        """How long a server may be silent before it is asked whether it lives; short where another could take over."""
        options = self.context.options
        alone = len(self._transports) == 1
        return (options.keepalive_ms if alone else min(options.keepalive_ms, options.suspect_ms)) / 1000


def _urls_in(facts: Mapping[str, object]) -> list[str]:
    urls = facts.get("urls")
    named = urls[:URLS_MAX] if isinstance(urls, list) else []
    return [url for url in named if isinstance(url, str) and len(url) <= URL_CHARACTERS_MAX]


def _joined(problems: Mapping[str, str]) -> str:
    return "; ".join(problems.values())
