"""The client's connection through time: the first server that answers, reconnecting, the writer, the alarm clock.

Everything that sends hangs on ``pump``: producers hand over what is ready, one writer sends it in few calls. Must not
know of what is sent.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import trio

from mqcore.abc import Link, Transport
from mqcore.client._backoff import Backoff
from mqcore.client._bell import Bell, wait_in, wake
from mqcore.client._options import ClientOptions
from mqcore.client._stream import RequestStream, greet
from mqcore.errors import (
    BrokenLinkError,
    NotReachedError,
    OutcomeUnknownError,
    RemoteProtocolError,
    TransportError,
)
from mqcore.limits import Limits
from mqcore.protocol import Call, Code, Failed, Message, Result, error_for

__all__ = ["Session", "Source"]

_log = logging.getLogger("mqcore.client")
_FINAL_CODES = frozenset({Code.NOT_THIS_PROTOCOL, Code.VERSION})
TELL_AFTER_S = 2.0
"""How long nobody answers before that is told while it is tried further."""
_SILENT = "it takes connections and says nothing: is it a broker of mqcore, and the right port?"
_LINK_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, BrokenLinkError, RemoteProtocolError)


class Source(Protocol):
    """Something that has requests to send: a producer."""

    @property
    def has_work(self) -> bool:
        """Whether ``pump`` may have something to send."""
        ...

    def pump(self, stream: RequestStream, now: float) -> float:
        """Hand what is ready to ``stream``; return when to be asked again (infinity: when something happens)."""
        ...

    def expire(self, now: float) -> float:
        """End what has waited too long; return when to be asked again."""
        ...

    def broken(self) -> None:
        """Take note that what was in flight is in doubt."""
        ...

    def close(self, why: str) -> None:
        """Take note that nothing will be sent any more."""
        ...


class Session:
    """One client's main stream: calls and batches. Bulk reads open streams of their own through ``open_stream``."""

    def __init__(
        self,
        transports: Sequence[Transport],
        options: ClientOptions,
        limits: Limits,
        source: random.Random,
        wall_ms: Callable[[], int],
    ) -> None:
        self.options = options
        self.wall_ms = wall_ms
        self.limits = limits
        self.random = source
        self.backoff = Backoff(options.retry_ms_min, options.retry_ms_max)
        self.stream: RequestStream | None = None
        self.sources: dict[Source, None] = {}
        self._transports = list(transports)
        self._link: Link | None = None
        self._is_closed = False
        self._bell = Bell()
        self._alarm = trio.CancelScope()
        self._alarm_at = math.inf
        self._waiting_for_stream: list[trio.lowlevel.Task] = []
        self._waiting_for_credit: list[trio.lowlevel.Task] = []

    # connecting

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect (``NotReachedError`` when nobody answers in time), then stay connected until cancelled."""
        try:
            await self._connect_first()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._watch)
                task_status.started()
                brief = 0
                while True:
                    since = trio.current_time()
                    await self._receive()
                    lasted_ms = (trio.current_time() - since) * 1000
                    brief = brief + 1 if lasted_ms < self.options.retry_ms_max else 0
                    if brief > 1:  # answered, and gone at once: something there fails again and again
                        await trio.sleep(self.backoff.pause(brief - 1, self.random))
                    await self._reconnect()
        finally:
            self._is_closed = True
            for source in list(self.sources):
                source.close("the client was closed")
            wake(self._waiting_for_stream)
            await self._disconnect()

    async def _connect_first(self) -> None:
        timeout = self.options.connect_timeout_ms / 1000
        problems: dict[str, str] = {}
        began, attempt = trio.current_time(), 0
        with trio.move_on_after(timeout):
            while not await self._connect_any(problems, is_first=True):
                attempt += 1
                await trio.sleep(self.backoff.pause(attempt, self.random))
                if attempt > 1 and began + TELL_AFTER_S < trio.current_time() < began + timeout:
                    began = math.inf
                    _log.warning("no server answers, going on trying for %g s: %s", timeout, _reasons(problems))
        if self.stream is None:
            missing = {str(each.url): f"{each.url}: no answer" for each in self._transports}
            raise NotReachedError(f"no server answered within {timeout:g} s: {_reasons(missing | problems)}")

    async def _connect_any(self, problems: dict[str, str], *, is_first: bool = False) -> bool:
        """Try each server once, in order; say in ``problems`` why one did not answer.

        ``is_first``: raise what will not pass by itself: a foreign server, ``NotReachedError`` when all are such.
        """
        hopeless = 0
        for transport in self._transports:
            link: Link | None = None
            try:
                with trio.fail_after(max(1.0, self.options.connect_timeout_ms / 1000 / len(self._transports))):
                    link = await transport.connect()
                    problems[str(transport.url)] = f"{transport.url}: {_SILENT}"
                    stream = await greet(
                        await link.open_stream(), name=self.options.name, session=b"", limits=self.limits
                    )
            except (TransportError, RemoteProtocolError, trio.TooSlowError) as error:
                if isinstance(error, RemoteProtocolError) and is_first and error.code in _FINAL_CODES:
                    raise
                if link is None or not isinstance(error, trio.TooSlowError):
                    problems[str(transport.url)] = _why(transport, error)
                hopeless += isinstance(error, TransportError) and not error.retryable
                if link is not None:
                    await trio.aclose_forcefully(link)
            except BaseException:
                if link is not None:
                    await trio.aclose_forcefully(link)
                raise
            else:
                self._link, self.stream = link, stream
                wake(self._waiting_for_stream)
                self._bell.ring()
                return True
        if is_first and hopeless == len(self._transports):
            raise NotReachedError(f"no server can be reached: {_reasons(problems)}")
        return False

    async def _reconnect(self) -> None:
        attempt = 0
        while True:
            problems: dict[str, str] = {}
            if await self._connect_any(problems):
                return
            attempt += 1
            if attempt == 1:
                _log.warning("connecting again fails, going on trying: %s", "; ".join(problems.values()))
            await trio.sleep(self.backoff.pause(attempt, self.random))

    async def _receive(self) -> None:
        """Receive until the connection is over, then tell everybody who waits for an answer."""
        stream = self.stream
        assert stream is not None
        try:
            await stream.receive(self._after_answers)
        except _LINK_ERRORS as error:
            _log.info("%s; connecting again", error)
        await self._disconnect()

    async def _disconnect(self) -> None:
        stream, self.stream = self.stream, None
        link, self._link = self._link, None
        if stream is not None:
            for source in list(self.sources):
                source.broken()
            for asker in list(stream.requests.values()):
                if isinstance(asker, _PendingCall):
                    asker.broken()
            stream.requests.clear()
            wake(self._waiting_for_credit)
        if link is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(link)

    async def connected(self) -> RequestStream:
        """Return the stream, waiting until there is one. A checkpoint only when it waits. No effect if cancelled."""
        while self.stream is None:
            if self._is_closed:
                raise trio.ClosedResourceError("the client is closed")
            await wait_in(self._waiting_for_stream)
        return self.stream

    async def open_stream(self) -> RequestStream:
        """Return a further stream of this session, waiting for the connection.

        Raises ``TransportError``, ``RemoteProtocolError``.
        """
        main = await self.connected()
        link = self._link
        assert link is not None
        raw = await link.open_stream()
        try:
            with trio.fail_after(self.options.connect_timeout_ms / 1000):
                return await greet(
                    raw, name=self.options.name, session=main.welcome.session, limits=self.limits
                )
        except trio.TooSlowError:
            await trio.aclose_forcefully(raw)
            raise BrokenLinkError("the server did not answer the handshake in time") from None
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise

    # sending

    def ring(self) -> None:
        """Let the writer send what is ready."""
        self._bell.ring()

    def pump(self) -> None:
        """Collect what is ready from every source; ``flush`` sends it."""
        stream = self.stream
        if stream is None:
            return
        now = trio.current_time()
        again = math.inf
        for source in self.sources:
            again = min(again, source.pump(stream, now))
        if again < self._alarm_at:
            self._set_alarm(again)

    async def flush(self) -> None:
        """Send what was collected; a connection that breaks by it is closed, which the receiving task finds."""
        stream = self.stream
        if stream is None or stream.is_sending:
            return
        try:
            await stream.flush()
        except _LINK_ERRORS:
            await stream.aclose()
        finally:
            if stream.has_unsent:
                self._bell.ring()

    async def _write(self) -> None:
        while True:
            await self._bell.wait()
            self.pump()
            while (stream := self.stream) is not None and stream.has_unsent and not stream.is_sending:
                await self.flush()
                self.pump()

    def _after_answers(self) -> None:
        if self._waiting_for_credit:
            wake(self._waiting_for_credit)
        for source in self.sources:
            if source.has_work:
                self._bell.ring()
                return

    # time

    def set_alarm(self, at: float) -> None:
        """Make sure that the sources are asked at time ``at`` at the latest."""
        if at < self._alarm_at:
            self._set_alarm(at)

    def _set_alarm(self, at: float) -> None:
        self._alarm_at = at
        self._alarm.deadline = at

    async def _watch(self) -> None:
        keepalive = self.options.keepalive_ms / 1000
        look_at = trio.current_time() + keepalive
        while True:
            now = trio.current_time()
            if now >= look_at:
                await self._look_after(now, keepalive)
                look_at = now + keepalive
            again = look_at
            for source in list(self.sources):
                again = min(again, source.expire(now))
            self._bell.ring()
            self._alarm_at = again
            with trio.CancelScope(deadline=again) as self._alarm:
                await trio.sleep_forever()

    async def _look_after(self, now: float, keepalive: float) -> None:
        """Ask a silent server whether it lives; drop one that did not answer that in time."""
        stream = self.stream
        if stream is None or now - stream.received_at < keepalive:
            return
        if stream.requests and now - stream.received_at >= 2 * keepalive:
            _log.warning("the server has been silent for %g s: connecting again", now - stream.received_at)
            await stream.aclose()
        else:
            stream.ping()

    # calls

    async def call(self, operation: str, arguments: dict[str, object], *, is_repeatable: bool) -> Any:
        """Ask the broker for an administrative operation and return its result.

        ``is_repeatable``: it may be asked again when the connection breaks. Raises ``RejectedError``,
        ``RequestFailedError``, ``OutcomeUnknownError`` (asked, no answer, and not repeatable), ``NotReachedError``. If
        cancelled, it may have been done.
        """
        timeout = self.options.request_timeout_ms / 1000
        was_asked = False
        with trio.move_on_after(timeout):
            while True:
                stream = await self.connected()
                if not stream.may_send(len(operation) + 64 * len(arguments)):
                    await wait_in(self._waiting_for_credit)
                    continue
                question = _PendingCall()
                was_asked = True
                stream.ask(Call(stream.next_id(), operation, arguments), question)
                await self.flush()
                answer = await question.wait()
                if isinstance(answer, Result):
                    return answer.value
                if isinstance(answer, Failed):
                    raise error_for(answer.code, answer.text, dict(answer.facts))
                if not is_repeatable:
                    raise OutcomeUnknownError(f"{operation}: the connection broke before the answer: was it done?")
        if was_asked and not is_repeatable:
            raise OutcomeUnknownError(f"{operation}: no answer within {timeout:g} s: was it done?")
        raise NotReachedError(f"{operation}: no answer within {timeout:g} s: is the broker reachable?")


class _PendingCall:
    """One call that waits for its answer."""

    def __init__(self) -> None:
        self.owner = self
        self._answer: Message | None = None
        self._is_broken = False
        self._waiters: list[trio.lowlevel.Task] = []

    def answered(self, _: object, message: Message) -> None:
        """Take the answer in."""
        self._answer = message
        wake(self._waiters)

    def broken(self) -> None:
        """Take note that there will be no answer."""
        self._is_broken = True
        wake(self._waiters)

    async def wait(self) -> Message | None:
        """Return the answer; None when the connection broke."""
        while self._answer is None and not self._is_broken:
            await wait_in(self._waiters)
        return self._answer


def _reasons(problems: Mapping[str, str]) -> str:
    return "; ".join(problems.values())


def _why(transport: Transport, error: Exception) -> str:
    text = "no answer in time" if isinstance(error, trio.TooSlowError) else str(error)
    return text if str(transport.url) in text else f"{transport.url}: {text}"
