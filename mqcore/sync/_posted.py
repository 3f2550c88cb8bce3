"""What threads have posted, on its way to Trio: in the order of posting, many messages at one crossing, bounded."""

from __future__ import annotations

import copy
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeAlias

import trio

from mqcore.batch import HeaderPairs
from mqcore.client import Delivery as TrioDelivery
from mqcore.client import Policy, Producer, Receipt
from mqcore.client.shells import freeze
from mqcore.errors import ClosedError, RejectedError
from mqcore.nurseries import one_error
from mqcore.ports import Buffer
from mqcore.sync._portal import Portal

__all__ = ["Delivery", "Posted"]

BYTES_MAX = 4 * 1024 * 1024
"""What may wait to cross over, payload and overhead: little, as the producer itself holds the rest."""
OVERHEAD_BYTES = 200
"""What one message that waits to cross over costs beside its payload, about."""


class Delivery:
    """The outcome of what was posted, now or later. It may be dropped: the messages go their way without it."""

    __slots__ = ("_callbacks", "_error", "_inner", "_portal")

    def __init__(self, portal: Portal, inner: TrioDelivery | None = None) -> None:
        self._portal = portal
        self._inner = inner
        self._error: Exception | None = None
        self._callbacks: list[Callable[[], object]] | None = None

    @property
    def count(self) -> int:
        """Messages whose outcome this is: one, or those of one batch, in their order."""
        return 1 if self._inner is None else self._inner.count

    @property
    def is_done(self) -> bool:
        """Whether ``result`` would return or raise the outcome."""
        return self._error is not None or (self._inner is not None and self._inner.is_done)

    def result(self) -> Receipt:
        """Return the receipt.

        Raises ``RejectedError``, ``OutcomeUnknownError``, what ``post`` of the Trio client would have raised, and
        ``RuntimeError`` before ``is_done``.
        """
        if self._error is not None:
            raise copy.copy(self._error)
        if self._inner is None:
            raise RuntimeError("the outcome is not known yet")
        return self._inner.result()

    def wait(self, timeout: float | None = None) -> Receipt:
        """Wait for the outcome, for ``timeout`` seconds at most, and return the receipt.

        Raises as ``result``, and ``TimeoutError``: the message goes its way, and waiting again is allowed.
        """
        if not self.is_done:
            known = threading.Event()
            self._portal.at_end.add(known.set)
            try:
                self._portal.soon(self._watch, known.set)
                if not known.wait(timeout):
                    raise TimeoutError(f"no outcome within {timeout} s; the message goes its way")
            finally:
                self._portal.at_end.discard(known.set)
            if not self.is_done:
                raise ClosedError("the client's thread has ended: the outcome is unknown")
        return self.result()

    # in Trio's thread

    def _watch(self, callback: Callable[[], object]) -> None:
        if self._error is not None:
            callback()
        elif self._inner is not None:
            self._inner.add_done_callback(callback)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def _settle(self, inner: TrioDelivery | Exception) -> None:
        if isinstance(inner, Exception):
            self._error = inner
        else:
            self._inner = inner
        if self._callbacks is not None:
            for callback in self._callbacks:
                self._watch(callback)
            self._callbacks = None


_Message: TypeAlias = tuple[bytes, bytes | None, HeaderPairs, int | None, Policy | None, str | None, Delivery]


class Posted:
    """The messages between the threads that post and one producer of Trio's."""

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._messages: deque[_Message] = deque()
        self._bytes = 0
        self._is_closed = False
        self._rung: trio.Event | None = None  # made in Trio; taken by the thread that rings
        self._turn = trio.Lock()

    def post(
        self,
        value: Buffer,
        key: Buffer | None,
        headers: HeaderPairs,
        partition: int | None,
        policy: Policy | None,
        tag: str | None = None,
    ) -> Delivery:
        """Queue one message, waiting for room; called in any thread. Raises ``ClosedError``, ``TypeError``."""
        if type(value) is not bytes:
            value = freeze(value, "value")
        if key is not None:
            key = freeze(key, "key")
        delivery = Delivery(self._portal)
        with self._lock:
            while self._bytes > BYTES_MAX and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                raise ClosedError("the producer was closed")
            self._messages.append((value, key, headers, partition, policy, tag, delivery))
            self._bytes += len(value) + OVERHEAD_BYTES
            if self._rung is not None:
                # Before it is forgotten: an interrupt between the two would leave what is queued to wait for good.
                self._portal.soon(self._rung.set)
                self._rung = None
        return delivery

    # in Trio's thread

    @property
    def has_crossed(self) -> bool:
        """Whether everything that was posted has crossed."""
        return not self._messages and not self._turn.locked()

    @asynccontextmanager
    async def crossing(self, opening: AbstractAsyncContextManager[Producer]) -> AsyncIterator[Producer]:
        """Take what is posted to the producer that is opened; leaving waits until everything has crossed."""
        async with opening as producer:
            self._portal.at_end.add(self._close)
            try:
                with one_error():
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._cross_on, producer)
                        yield producer
                        await self.cross(producer)
                        nursery.cancel_scope.cancel()
            finally:
                self._close()

    async def _cross_on(self, producer: Producer) -> None:
        while True:
            rung = trio.Event()
            with self._lock:
                if not self._messages:
                    self._rung = rung
            if self._rung is rung:
                await rung.wait()
            await self.cross(producer)

    async def cross(self, producer: Producer) -> None:
        """Have crossed what was posted before."""
        async with self._turn:
            with self._lock:
                messages, self._messages = self._messages, deque()
            size = 0
            try:
                while messages:
                    value, key, headers, partition, policy, tag, delivery = messages[0]
                    size += len(value) + OVERHEAD_BYTES
                    try:
                        inner = producer.post(value, key, headers, partition, policy=policy, tag=tag)
                    except trio.WouldBlock:
                        size -= len(value) + OVERHEAD_BYTES
                        await producer.wait_for_room(len(value))
                        continue
                    except trio.ClosedResourceError as error:
                        delivery._settle(ClosedError(str(error)))
                    except Exception as error:
                        delivery._settle(error)
                    else:
                        delivery._settle(inner)
                    messages.popleft()
            finally:
                self._drop(messages)
                size += sum(len(message[0]) + OVERHEAD_BYTES for message in messages)
                with self._lock:
                    self._bytes -= size
                    self._changed.notify_all()

    def _close(self) -> None:
        self._portal.at_end.discard(self._close)
        with self._lock:
            self._is_closed = True
            messages, self._messages = self._messages, deque()
            self._changed.notify_all()
        self._drop(messages)

    def _drop(self, messages: deque[_Message]) -> None:
        for message in messages:
            text = "the producer was closed before the message was sent"
            message[-1]._settle(RejectedError(text, name="not-sent", retryable=True))
