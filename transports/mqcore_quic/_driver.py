"""Runs the engine of one connection: what comes in, what is due, what goes out. Must not know of streams."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import trio

from mqcore.abc import Peer
from mqcore.errors import TransportError
from mqcore_quic._config import QuicOptions
from mqcore_quic._engine import QuicEngine
from mqcore_quic._outlet import LinkEndpoint
from mqcore_quic._pause import TimerPause
from mqcore_quic._refusals import CODE_BROKEN_RULE, CODE_TOO_MUCH
from mqcore_quic._silence import Silence

__all__ = ["EngineDriver"]

L = TypeVar("L", bound="EngineDriver[Any]")
"""The class of connections, as their endpoint knows them."""
TOGETHER_SECONDS = 0.0001
"""What is to be sent so soon after something was sent waits until others had their turn, and goes with theirs."""


class EngineDriver(ABC, Generic[L]):
    """The connection of ``engine`` to ``peer``, on the endpoint ``outlet``.

    ``unknown_bytes_max``: all that may come of the peer before it is admitted; None: whatever comes.
    """

    def __init__(
        self,
        engine: QuicEngine,
        outlet: LinkEndpoint[L],
        options: QuicOptions,
        peer: Peer,
        *,
        now: float,
        unknown_bytes_max: int | None,
    ) -> None:
        self.engine = engine
        self.peer = peer
        self.ids: set[bytes] = set()
        self.armed = math.inf
        self.queued_at = math.inf
        """Its place among the endpoint's timers, which is not later than ``armed``."""
        self.is_ready = False
        self.is_gone = False
        self._outlet = outlet
        self._options = options
        self._unknown_left = unknown_bytes_max
        self._silence = Silence(options.idle_timeout_ms / 1000, now)
        self._pause = TimerPause()
        self._cannot_send = False
        self._sent_at = -math.inf
        self._handshake_until = now + options.handshake_timeout_ms / 1000

    @abstractmethod
    def _handle_events(self) -> None:
        """Do what the engine has to tell."""

    @abstractmethod
    def _end(self, error: BaseException) -> None:
        """The connection is over, because of ``error``. Idempotent."""

    @abstractmethod
    def _this(self) -> L:
        """Return this connection, as its endpoint knows it."""

    # what the endpoint tells

    def receive(self, parts: Sequence[tuple[bytes, int]], address: Any, now: float) -> None:
        """Take in what came from ``address``, and send what it asks for.

        ``parts`` are datagrams and their size: of one, or of many in a row, of which the last may be shorter.
        """
        if self.is_gone:  # since this round took what is for it
            return
        if self._unknown_left is not None:
            self._unknown_left -= sum(len(data) for data, _ in parts)
            if self._unknown_left < 0:  # no engine holds more than it was given
                self.fail("too much was sent before a login, or a greeting (before_login_bytes_max)", CODE_TOO_MUCH)
                return
        self._silence.heard(now)
        self._cannot_send = False
        self._pause.heard()
        try:
            self.engine.receive(parts, address, now)
            self._handle_events()
            self.flush_now(now)
        except Exception as error:  # an engine that a packet makes fail is at its end: it is the peer's packet
            self._failed(error)

    def on_time(self, now: float) -> None:
        """Do what is due, and say when to be called again."""
        self.armed = math.inf
        if not self.is_ready and now >= self._handshake_until:
            self.fail(f"no handshake within {self._options.handshake_timeout_ms / 1000:g} s")
            return
        if self._silence.is_gone(now):
            text = "the peer does not know the connection any more: it was ended or started again"
            self._end(TransportError(f"{self.peer.address}: {text}"))
            return
        try:
            self._do_due(now)
        except Exception as error:
            self._failed(error)

    def _do_due(self, now: float) -> None:
        deadline = self.engine.deadline()
        if deadline is not None and deadline <= now and not self._cannot_send:
            self._pause.ran(now)
            self.engine.on_deadline(now)
            self._handle_events()
        if self.is_ready and not self.is_gone and self._silence.is_to_be_asked(now):
            self._ask()
        self.flush_now(now)

    def doubted(self, now: float) -> None:
        """Somebody says that the peer does not know this connection: ask it, and believe it if nothing comes back."""
        if self.is_ready and not self.is_gone and self._silence.doubt(now):
            self._ask()
            self.flush_now(now)

    def _ask(self) -> None:
        with suppress(Exception):  # the peer has ended it, which the engine tells when it has drained
            self.engine.ping()

    def refused(self, now: float) -> None:
        """The peer's machine says that nobody listens there; an established connection asks before it believes that."""
        if self.is_ready:
            self.doubted(now)
            return
        text = "nothing listens there: start the broker, or check host and port"
        self._end(TransportError(f"{self.peer.address}: {text}"))

    # its end

    def _failed(self, error: Exception) -> None:
        """An engine that fails ends its own connection only."""
        self._end(TransportError(f"the connection to {self.peer.address} failed: {error!r}"))

    def fail(self, why: str, code: int = CODE_BROKEN_RULE) -> None:
        """End the connection for ``why``, which the peer is told too."""
        self._shut(code, why)
        self._end(TransportError(f"{self.peer.address}: {why}"))

    def _shut(self, code: int, why: str) -> None:
        with suppress(Exception):  # what the engine has ended already needs no more
            self._transmit(trio.current_time())  # what was put off: nothing but its end comes out of a closed engine
            self.engine.close(code, why[:200])
            self._transmit(trio.current_time())

    # what goes out

    def flush(self) -> None:
        """Have sent what the engine has to send: at once, or with what others add now, if it was only just done."""
        if self.is_gone:
            return
        now = trio.current_time()
        if now - self._sent_at < TOGETHER_SECONDS:
            self._outlet.flush_soon(self._this())
        else:
            self.flush_now(now)

    def flush_now(self, now: float) -> None:
        """Send what the engine has to send, and say when to be called again."""
        if self.is_gone:
            return
        try:
            self._transmit(now)
        except Exception as error:
            self._failed(error)
        if self.is_gone:
            return
        at = self._silence.next_at() if self.is_ready else self._handshake_until
        deadline = self.engine.deadline()
        if deadline is not None and not self._cannot_send:
            at = min(at, max(deadline, self._pause.earliest(now)))
        if at != self.armed:
            self.armed = at
            self._outlet.arm(self._this())

    def _transmit(self, now: float) -> None:
        try:
            datagrams = self.engine.transmit(now)
        except Exception:
            if self.is_ready:
                raise
            self._cannot_send = True  # qh3, to a client that has not proved its address: until more of it comes
            return
        if datagrams:
            self._sent_at = now
            self._pause.sent(now)
            self._outlet.send(datagrams)
