"""The connection to one server through time: connecting again, the writer, what waits for the credit.

Everything that sends hangs on ``pump``: lanes hand over what is ready, one writer sends it in few calls. Must not know
of other servers, nor of what is sent.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sized
from typing import Protocol

import trio

from mqcore.abc import Link, Transport
from mqcore.client._bell import Bell, wait_in, wake
from mqcore.client._context import ClientContext
from mqcore.client._stream import RequestStream, greet
from mqcore.errors import BrokenLinkError, RemoteProtocolError, TransportError
from mqcore.protocol import Code, Message

__all__ = ["STALL_S", "Session", "Source", "reason"]

_log = logging.getLogger("mqcore.client")
LOGIN_PAUSE_S = 15.0
"""How long a login that failed is not tried again."""
STALL_S = 3.0
"""How long a request is without an answer before it is asked why."""
_SILENT = "it takes connections and says nothing: is it a broker of mqcore, and the right port?"


class Source(Protocol):
    """What sends through a session: the lane of a producer. Raises nothing."""

    is_blocked: bool
    """Whether the credit ended before everything was sent that ``pump`` had to send."""

    @property
    def line(self) -> Sized:
        """What waits for a turn to send; empty: ``pump`` has nothing to do."""
        ...

    def pump(self, outlet: RequestStream, now: float) -> float:
        """Hand what is ready to ``outlet``; return when to be asked again (infinity: when something happens)."""
        ...

    def connected(self, outlet: RequestStream) -> None:
        """Take note of a new connection, and of what its server allows."""
        ...


class Session:
    """One client's main stream to one server: calls and batches. Bulk reads have streams of their own.

    ``unreachable(session)`` is called after every attempt to connect again that failed, ``connected(session)`` after
    one that did not; ``set_alarm(at)`` has the session pumped at that time.
    """

    def __init__(
        self,
        transport: Transport,
        context: ClientContext,
        *,
        connected: Callable[[Session], None],
        unreachable: Callable[[Session], None],
        stalled: Callable[[Session], None],
        set_alarm: Callable[[float], None],
        attempt_s: float,
        told: dict[str, str],
    ) -> None:
        self.transport = transport
        self.url = str(transport.url)
        self.stream: RequestStream | None = None
        self.sources: list[Source] = []
        self.bell = Bell()
        self.is_closed = False
        self._context = context
        self._connected = connected
        self._unreachable = unreachable
        self._stalled = stalled
        self._oldest: int | None = None
        self._oldest_since = math.inf
        self._set_alarm = set_alarm
        self._attempt_s = attempt_s
        self._told = told
        self._is_looked_after = False
        self._link: Link | None = None
        self._scope = trio.CancelScope()
        self._first_source = 0
        self._waiting_for_stream: list[trio.lowlevel.Task] = []
        self._waiting_for_credit: list[trio.lowlevel.Task] = []

    # connecting

    async def run(self) -> None:
        """Stay connected until cancelled or closed."""
        options = self._context.options
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    brief = 0
                    while True:
                        if self.stream is None:
                            await self._reconnect()
                        since = trio.current_time()
                        await self._receive()
                        lasted_ms = (trio.current_time() - since) * 1000
                        brief = brief + 1 if lasted_ms < options.retry_ms_max else 0
                        if brief > 1:  # answered, and gone at once: something there fails again and again
                            await trio.sleep(self._context.backoff.pause(brief - 1, self._context.random))
        finally:
            self.close()
            await self._disconnect()

    def close(self) -> None:
        """Have ``run`` end; what waits for the session is told. Idempotent."""
        self.is_closed = True
        self._scope.cancel()
        wake(self._waiting_for_stream)

    async def aclose(self) -> None:
        """Close a session that is not ``run``. Shielded from cancellation."""
        self.close()
        await self._disconnect()

    async def connect(self, timeout_s: float) -> None:
        """Connect once. Raises ``TransportError``, ``RemoteProtocolError``. If cancelled, nothing stays open."""
        link: Link | None = None
        try:
            with trio.fail_after(timeout_s):
                link = await self.transport.connect()
                stream = await self._greet(link, b"")
        except BaseException as error:
            if link is not None:
                await trio.aclose_forcefully(link)
            if isinstance(error, trio.TooSlowError):
                text = "no answer in time" if link is None else _SILENT
                raise BrokenLinkError(f"{self.url}: {text}") from None
            raise
        stream.on_credit = self._on_credit
        stream.on_left_over = self.bell.ring
        self._link, self.stream = link, stream
        self._told.pop(self.url, None)
        for source in self.sources:
            source.connected(stream)
        wake(self._waiting_for_stream)
        self.bell.ring()
        self._connected(self)

    async def _greet(self, link: Link, session: bytes) -> RequestStream:
        raw = await link.open_stream()
        try:
            return await greet(raw, name=self._context.options.name, session=session, limits=self._context.limits)
        except BaseException:
            await trio.aclose_forcefully(raw)
            raise

    async def _reconnect(self) -> None:
        context, attempt = self._context, 0
        while True:
            try:
                await self.connect(self._attempt_s)
                return
            except (TransportError, RemoteProtocolError) as caught:
                error: Exception = caught
                attempt += 1
                text, told = str(error), self._told.get(self.url)
                if told is None or (isinstance(error, RemoteProtocolError) and text != told):
                    # A refusal is another matter than silence: said again when it changes.
                    _log.warning("connecting again fails, going on trying: %s", reason(self.transport, error))
                    if len(self._told) >= context.limits.servers_max:
                        self._told.clear()
                    self._told[self.url] = text
            self._unreachable(self)
            pause_s = context.backoff.pause(attempt, context.random)
            # Tried as often as a server that is away, a login that fails would have its whole address made to wait.
            is_login = isinstance(error, RemoteProtocolError) and error.code == Code.LOGIN_FAILED
            await trio.sleep(max(pause_s, LOGIN_PAUSE_S) if is_login else pause_s)

    async def _receive(self) -> None:
        """Receive until the connection is over, then tell everything that waits for a reply.

        In a task of its own: Trio resumes a task through every coroutine that it is in, at each read.
        """
        stream = self.stream
        assert stream is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive)
        _log.info("%s; connecting again", stream.why_over)
        await self._disconnect()

    async def _disconnect(self) -> None:
        stream, self.stream = self.stream, None
        link, self._link = self._link, None
        if stream is not None:
            stream.broken()
            wake(self._waiting_for_credit)
        if link is not None:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(link)

    async def ready(self) -> RequestStream:
        """Return the stream, waiting until there is one. A checkpoint only when it waits. No effect if cancelled.

        Raises ``trio.ClosedResourceError`` when the session is closed.
        """
        while self.stream is None:
            if self.is_closed:
                raise trio.ClosedResourceError("the client is closed")
            await wait_in(self._waiting_for_stream)
        return self.stream

    async def ready_for(self, size: int) -> RequestStream:
        """Return the stream once its credit allows a request of ``size`` bytes. Raises as ``ready``."""
        while not (stream := await self.ready()).may_send(size):
            await wait_in(self._waiting_for_credit)
        return stream

    async def open_stream(self) -> RequestStream:
        """Return a further stream of this session, waiting for the connection.

        Raises ``TransportError``, ``RemoteProtocolError``, ``trio.ClosedResourceError``.
        """
        main = await self.ready()
        link = self._link
        assert link is not None
        try:
            with trio.fail_after(self._attempt_s):
                return await self._greet(link, main.welcome.session)
        except trio.TooSlowError:
            raise BrokenLinkError("the server did not answer the handshake in time") from None

    async def ask_beside(self, operation: str) -> Message | None:
        """Request an administrative operation without arguments on a stream of its own, and return the reply.

        None when that broke. What holds up the main stream does not hold it up. Raises as ``open_stream``.
        """
        stream = await self.open_stream()
        reply: Message | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.receive)
                reply = await stream.call(operation, {})
                nursery.cancel_scope.cancel()
        finally:
            await stream.aclose()
        return reply

    # sending

    def add(self, source: Source) -> None:
        """Let ``source`` send through this session."""
        self.sources = [*self.sources, source]

    def remove(self, source: Source) -> None:
        """Forget ``source``. A new list each time: a source may leave in the middle of ``pump``."""
        self.sources = [each for each in self.sources if each is not source]

    def pump(self) -> None:
        """Collect what is ready from every source; ``RequestStream.flush`` sends it.

        The sources take turns: one that the credit stops is the first next time, and those behind it wait. Else a large
        request would never get its turn among many small ones that always fit.
        """
        stream, sources = self.stream, self.sources
        if stream is None:
            return
        now = trio.current_time()
        again = math.inf
        first, self._first_source = self._first_source, 0
        for number in range(len(sources)):
            source = sources[(first + number) % len(sources)]
            if source.line:
                before = len(stream.requests)
                again = min(again, source.pump(stream, now))
                if source.is_blocked:
                    has_sent = len(stream.requests) > before
                    self._first_source = (first + number + has_sent) % len(sources)
                    break
        if again < math.inf:
            self._set_alarm(again)

    async def _write(self) -> None:
        while True:
            await self.bell.wait()
            self.pump()
            while (stream := self.stream) is not None and stream.unsent and not stream.is_sending:
                await stream.flush()
                self.pump()

    def _on_credit(self) -> None:
        wake(self._waiting_for_credit)
        self.bell.ring()

    async def look_after(self, now: float, patience_s: float) -> None:
        """Ask a server that was silent for ``patience_s`` whether it lives; after as long again, drop one that is gone.

        One that answers on another connection lives, whatever keeps this one waiting: a send that waits for a copy
        holds up what comes behind it. It is dropped all the same once it was silent for twice ``keepalive_ms``.
        """
        stream = self.stream
        if stream is None or self._is_looked_after:
            return
        self._look_for_stall(stream, now)
        if now - stream.active_at < patience_s:
            return
        if not stream.requests or now - stream.active_at < 2 * patience_s:
            stream.ping()
            self.bell.ring()
            return
        self._is_looked_after = True
        try:
            is_over = now - stream.active_at >= 2 * self._context.options.keepalive_ms / 1000
            if (is_over or not await self._answers(patience_s)) and self.stream is stream:
                _log.warning("%s has been silent for %g s: connecting again", self.url, now - stream.active_at)
                await stream.aclose()
                self._unreachable(self)
        finally:
            self._is_looked_after = False

    def _look_for_stall(self, stream: RequestStream, now: float) -> None:
        """Report, once, a request that is the oldest without an answer for long, as one is that waits for a copy."""
        oldest = next(iter(stream.requests), None)
        if oldest is None or oldest != self._oldest:
            self._oldest, self._oldest_since = oldest, now
        elif now - self._oldest_since >= STALL_S:
            self._oldest_since = math.inf
            self._stalled(self)

    async def _answers(self, timeout_s: float) -> bool:
        """Whether the server answers on a connection that is made for this and closed again."""
        link: Link | None = None
        try:
            with trio.fail_after(timeout_s):
                link = await self.transport.connect()
                await (await self._greet(link, b"")).aclose()
            return True
        except (TransportError, trio.TooSlowError):
            return False
        except RemoteProtocolError:  # a refusal is an answer
            return True
        finally:
            if link is not None:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(link)


def reason(transport: Transport, error: Exception) -> str:
    """Why a server was not reached, with its URL."""
    return str(error) if str(transport.url) in str(error) else f"{transport.url}: {error}"
