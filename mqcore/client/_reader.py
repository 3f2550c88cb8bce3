"""Reads partitions from one server, over a stream of its own, in the task that calls. Shell around a fetch plan."""

from __future__ import annotations

import logging
import math

import trio

from mqcore.client._context import ClientContext
from mqcore.client._fetch_plan import STALE_MAX, FetchPlan
from mqcore.client._session import Session
from mqcore.client._stream import RequestStream
from mqcore.errors import BrokenLinkError, RemoteProtocolError, TransportError
from mqcore.protocol import Code, Failed, Fetched

__all__ = ["Reader"]

_log = logging.getLogger("mqcore.client")
_LINK_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, TransportError, RemoteProtocolError)
POLL_PAUSE_S = 0.1
"""Pause between answers without a message that a broker gives at once, because it lets no fetch wait."""
TELL_AFTER_S = 3.0
"""How long nothing can be read before that is logged; a refusal is logged at once."""


class Reader:
    """``plan`` says what is read and holds what was received; ``stream`` is the open one, None while there is none.

    ``wait_ms``: how long the server may hold a request; ``partitions_max``: how many partitions it may read.
    """

    def __init__(
        self, session: Session, plan: FetchPlan, context: ClientContext, wait_ms: int, partitions_max: int
    ) -> None:
        self.session = session
        self.plan = plan
        self.partitions_max = partitions_max
        self.is_connecting = False
        self._context = context
        self._silence_s = (wait_ms + context.options.request_timeout_ms) / 1000
        self.stream: RequestStream | None = None
        self._attempt = 0
        self._refusals = 0
        self._resume_at = 0.0
        self._round_at = -math.inf
        self._broken_since = 0.0
        self._is_reported = False
        self._is_told_of_tags = False
        self._is_closed = False

    async def connect(self) -> None:
        """Try to connect, once, after a pause when the last attempt failed. If cancelled, nothing stays open."""
        self.is_connecting = True
        try:
            if self._attempt:
                await trio.sleep(self._context.backoff.pause(self._attempt, self._context.random))
            stream = await self.session.open_stream()
            if self._is_closed:
                await stream.aclose()
            else:
                self._agree_on_tags(stream)
                self.stream = stream
        except _LINK_ERRORS as error:
            await self._broken(error)
        finally:
            self.is_connecting = False

    def _agree_on_tags(self, stream: RequestStream) -> None:
        """Have the server choose by tags if it can; else this client reads everything and chooses itself."""
        tags, limits = self.plan.tags, stream.limits
        self.plan.names_tags = bool(tags) and (
            len(tags) <= limits.fetch_tags_max and max(map(len, tags)) <= limits.tag_bytes_max
        )
        if tags and not self.plan.names_tags and not self._is_told_of_tags:
            self._is_told_of_tags = True
            _log.warning(
                "consumer of topic %r: the server does not choose by these tags (it is older, or its limits "
                "fetch_tags_max and tag_bytes_max say so): everything is read, and chosen from here", self.plan.topic,
            )  # fmt: skip

    async def receive(self) -> None:
        """Take in one answer, asking first and asking ahead; no longer connected when the stream broke.

        Returns with nothing after ``stream.interrupt``. Raises ``RemoteProtocolError`` for what no new connection would
        change. No effect if cancelled.
        """
        plan, stream = self.plan, self.stream
        assert stream is not None
        try:
            await self._request(stream)
            message = await stream.receive_message(self._silence_s)
            if message is None:
                if stream.is_at_end:
                    raise BrokenLinkError("the server closed the connection")
                return
            self._attempt = 0
            if type(message) is Fetched:
                plan.fetched(message)
                self._refusals = 0
            elif isinstance(message, Failed):
                plan.failed(message)
            if plan.must_pause or plan.is_round_empty:
                self._put_off()
            elif plan.chunks:
                await self._request(stream)
        except _LINK_ERRORS as error:
            await self._broken(error)
            if isinstance(error, RemoteProtocolError) and error.code == Code.FRAME_TOO_LARGE:
                # It would come again, and be too large again.
                text = f"{error}: raise frame_bytes_max of this client's limits, or seek past it"
                raise RemoteProtocolError(f"topic {plan.topic!r}: {text}", error.code) from error

    def _put_off(self) -> None:
        """Ask again later only. A time and not a pause: what cancels the waiting for it does not begin it anew.

        A round of answers without a message that took its time is no reason: the server lets requests wait. One that
        does not would be asked again and again, at once.
        """
        now = trio.current_time()
        if self.plan.must_pause:
            self._refusals += 1
            self._resume_at = now + self._context.backoff.pause(self._refusals, self._context.random)
        else:
            self._resume_at = self._round_at = max(now, self._round_at + POLL_PAUSE_S)
        self.plan.must_pause = self.plan.is_round_empty = False

    async def _request(self, stream: RequestStream) -> None:
        plan = self.plan
        if len(plan.asked) > len(plan.cursors) + STALE_MAX:
            raise BrokenLinkError("too many answers on their way that are not wanted any more")
        if self._resume_at:
            await trio.sleep_until(self._resume_at)
            self._resume_at = 0.0
        while plan.idle and stream.may_send(plan.fetch_size):
            fetch = plan.next_fetch(stream.next_id())
            if fetch is None:
                break
            stream.request(fetch)
        if stream.unsent:
            await stream.flush()

    async def _broken(self, error: Exception) -> None:
        stream, self.stream = self.stream, None
        if self._is_closed:
            return
        self.plan.broken()
        if stream is not None:
            await stream.aclose()
        self._report(error)
        self._attempt += 1

    def _report(self, error: Exception) -> None:
        """Log what keeps messages away: once, when it lasts; a refusal at once."""
        now = trio.current_time()
        if self._attempt == 0:
            self._broken_since, self._is_reported = now, False
        level = logging.INFO
        if not self._is_reported and (
            isinstance(error, RemoteProtocolError) or now - self._broken_since > TELL_AFTER_S
        ):
            level, self._is_reported = logging.WARNING, True
        _log.log(level, "consumer of topic %r: %s; connecting again", self.plan.topic, error)

    async def aclose(self) -> None:
        """Close the stream, even if this is cancelled. Idempotent."""
        self._is_closed = True
        stream, self.stream = self.stream, None
        if stream is not None:
            await stream.aclose()
