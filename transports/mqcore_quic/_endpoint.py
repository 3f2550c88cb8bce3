"""One UDP socket and the connections on it: who a datagram is for, timers, what waits for the socket.

Its tasks are Trio's system tasks: neither ``listen`` nor ``connect`` has a nursery of its caller's, and
acknowledgements and timers must run whether or not anybody is reading. A failure of theirs ends the endpoint only.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

import trio

from mqcore.abc import Notice, Peer
from mqcore.errors import TransportError
from mqcore_quic._config import QuicOptions
from mqcore_quic._engine import engine_for
from mqcore_quic._half_open import HalfOpen
from mqcore_quic._link import QuicLink
from mqcore_quic._packets import (
    CONNECTION_ID_BYTES,
    INITIAL_BYTES_MIN,
    UNKNOWN,
    UNKNOWN_FOR_BYTES_MIN,
    VERSION,
    AddressTokens,
    PacketHeader,
    are_of_one_connection,
    parse_header,
    retry_packet,
    version_negotiation_packet,
)
from mqcore_quic._socket import Datagrams, DatagramSocket
from mqcore_quic._windows import WindowShares, full_window

__all__ = ["Endpoint"]

Taken: TypeAlias = dict[tuple[QuicLink, Any], list[tuple[bytes, int]]]
"""By connection and address: datagrams, and the size of those that are in one row."""
UNKNOWN_DATAGRAMS_MIN = 16
"""So many of the largest size may come of a peer that is not admitted, whatever ``before_login_bytes_max`` is."""
UNKNOWN_PAUSE_SECONDS = 0.01
"""Between two answers to packets of connections that are not known: what anybody can ask for has to be cheap."""


class Endpoint:
    """A socket with the connections on it. ``configuration`` gives that of a new connection.

    A client's has the one connection that ``begin`` makes; a server's takes new ones while ``is_accepting``.
    ``admits``: who accepts connections calls ``admit`` of those whose peer is known; the others are held to less.
    """

    def __init__(
        self,
        sock: DatagramSocket,
        options: QuicOptions,
        configuration: Callable[[], Any],
        *,
        report: Callable[[Notice], None],
        random_bytes: Callable[[int], bytes],
        links_max: int,
        is_server: bool,
        admits: bool = False,
    ) -> None:
        self.is_accepting = is_server
        self.accepted: deque[QuicLink] = deque()
        self._sock = sock
        self._options = options
        self._configuration = configuration
        self._report = report
        self._random_bytes = random_bytes
        self._links_max = links_max
        self._is_server = is_server
        self._windows = WindowShares(options.held_bytes_max, links_max, full_window(options.window_bytes))
        # A handshake is a few datagrams, and their size is the peer's to choose.
        most = max(options.before_login_bytes_max, UNKNOWN_DATAGRAMS_MIN * options.datagram_bytes)
        self._unknown_bytes_max = most if admits else None
        self._tokens = AddressTokens(random_bytes(32))
        self._links: dict[QuicLink, None] = {}
        self._by_id: dict[bytes, QuicLink] = {}
        self._half_open = HalfOpen[QuicLink](options.half_open_max, options.half_open_proved_max)
        self._timers: list[tuple[float, int, QuicLink]] = []
        self._numbers = itertools.count()
        self._timer_scope: trio.CancelScope | None = None
        self._has_kept = trio.Event()
        self._unsent: dict[QuicLink, None] = {}
        self._flusher: trio.lowlevel.Task | None = None
        self._scope = trio.CancelScope()
        self._has_ended = trio.Event()
        self._waiting: deque[trio.lowlevel.Task] = deque()
        self._is_closed = False
        self._may_say_unknown_at = -math.inf
        trio.lowlevel.spawn_system_task(self._run)

    # life

    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_time)
                    nursery.start_soon(self._send_kept)
                    nursery.start_soon(self._flush_unsent)
                    await self._receive()
        except Exception as error:
            self._report(Notice("quic-failed", f"an endpoint of quic:// failed, which is a defect: {error!r}"))
        finally:
            self.close()
            self._has_ended.set()

    async def ended(self) -> None:
        """Wait until the tasks of an endpoint that was closed are gone, which they soon are; shielded."""
        if self._is_closed:
            with trio.CancelScope(shield=True):
                await self._has_ended.wait()

    def close(self) -> None:
        """Close the socket, and with it what is left of connections. Idempotent."""
        if self._is_closed:
            return
        self.is_accepting = False
        for link in list(self._links):
            link.fail("the endpoint was closed", 0)
        if self._is_closed:  # with the last of them
            return
        self._is_closed = True
        self._scope.cancel()
        self._sock.wake_waiting()
        self._sock.close()
        while self._waiting:
            trio.lowlevel.reschedule(self._waiting.popleft())

    def stop_accepting(self) -> None:
        """Take no more connections; those that are go on, and the socket goes with the last."""
        self.is_accepting = False
        for link in [*self.accepted, *(each for each in self._links if not each.is_ready)]:
            link.fail("the listener was closed", 0)
        self.accepted.clear()
        while self._waiting:
            trio.lowlevel.reschedule(self._waiting.popleft())
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if not self.is_accepting and not self._links:
            self.close()

    async def next_accepted(self) -> QuicLink:
        """Wait for the next connection that has shaken hands. ``trio.ClosedResourceError`` when there will be none."""
        await trio.lowlevel.checkpoint()
        while True:
            if self.accepted:
                return self.accepted.popleft()
            if not self.is_accepting:
                raise trio.ClosedResourceError("the listener is closed")
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def abort(_: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)

    # sending and timers

    def send(self, datagrams: list[tuple[bytes, Any]]) -> None:
        """See ``LinkEndpoint``."""
        if not self._is_closed and (not self._sock.send(datagrams) or self._sock.is_refused):
            self._has_kept.set()

    def flush_soon(self, link: QuicLink) -> None:
        """See ``LinkEndpoint``."""
        self._unsent[link] = None
        if self._flusher is not None:
            trio.lowlevel.reschedule(self._flusher)
            self._flusher = None

    async def _flush_unsent(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._flusher = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if self._unsent:  # from before this task began
                await trio.lowlevel.checkpoint()
            else:
                self._flusher = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(abort)
            links, self._unsent = self._unsent, {}
            now = trio.current_time()
            for link in links:
                link.flush_now(now)

    async def _send_kept(self) -> None:
        while True:
            await self._has_kept.wait()
            self._has_kept = trio.Event()
            self._look_refused()
            while self._sock.kept and not self._is_closed:
                with suppress(trio.ClosedResourceError):
                    await trio.lowlevel.wait_writable(self._sock.sock)
                    self._sock.send_kept()

    def arm(self, link: QuicLink) -> None:
        """See ``LinkEndpoint``."""
        if link.armed < link.queued_at:
            self._queue(link)
        if self._timer_scope is not None and (at := self._next_time()) != self._timer_scope.deadline:
            self._timer_scope.deadline = at

    def _queue(self, link: QuicLink) -> None:
        link.queued_at = link.armed
        heapq.heappush(self._timers, (link.armed, next(self._numbers), link))

    def _next_time(self) -> float:
        """When the next timer is due. Most are put off before they are: what is not due then costs no wake-up."""
        timers = self._timers
        while timers:
            at, _, link = timers[0]
            if at == link.queued_at and not link.is_gone:
                if at == link.armed:
                    return at
                heapq.heappop(timers)
                self._queue(link)
            else:  # it has another place since
                heapq.heappop(timers)
        return math.inf

    async def _keep_time(self) -> None:
        while True:
            with trio.CancelScope() as self._timer_scope:
                self._timer_scope.deadline = self._next_time()
                await trio.sleep_forever()
            self._timer_scope = None
            now = trio.current_time()
            while self._next_time() <= now:
                _, _, link = heapq.heappop(self._timers)
                link.queued_at = math.inf
                link.on_time(now)
            await trio.lowlevel.checkpoint()

    # receiving

    async def _receive(self) -> None:
        while not self._is_closed:
            try:
                await self._sock.wait_readable()
            except trio.ClosedResourceError:
                return
            found = self._sock.receive()
            now = trio.current_time()
            taken: Taken = {}
            for datagrams in found:
                self._route(datagrams, now, taken)
            for (link, address), parts in taken.items():  # once for each, whatever came for it
                link.receive(parts, address, now)
            self._look_refused()

    def _look_refused(self) -> None:
        """Tell a client's connection that nobody gets what it sends, where the kernel says so."""
        if self._sock.is_refused:
            self._sock.is_refused = False
            if not self._is_server:
                for link in list(self._links):
                    link.refused(trio.current_time())

    def _route(self, datagrams: Datagrams, now: float, taken: Taken) -> None:
        """Add datagrams to what is ``taken`` for the connection that they are for."""
        address, data, size = datagrams
        if size < len(data):
            link = self._by_id.get(data[1 : 1 + CONNECTION_ID_BYTES])
            if link is None or not are_of_one_connection(data, size):
                for piece in datagrams.pieces:
                    self._route(Datagrams(address, piece, len(piece)), now, taken)
                return
        else:
            link = self._link_of(data, address, now)
        if link is not None:
            taken.setdefault((link, address), []).append((data, size))

    def _link_of(self, data: bytes, address: Any, now: float) -> QuicLink | None:
        if not data[0] & 0x80:  # most of all
            link = self._by_id.get(data[1 : 1 + CONNECTION_ID_BYTES])
            if link is None:
                self._take_unknown(data, address, now)
            return link
        header = parse_header(data)
        if header is None:
            return None
        link = self._by_id.get(header.destination)
        if link is not None or not self._is_server or not self.is_accepting or len(data) < INITIAL_BYTES_MIN:
            return link
        if header.version != VERSION:
            if header.version:
                self.send([(version_negotiation_packet(header), address)])
            return None
        return self._accept(header, address, now) if header.is_initial else None

    def _take_unknown(self, data: bytes, address: Any, now: float) -> None:
        """A packet of a connection that is not known: a server says so, now and then; a client may be told so."""
        if self._is_server:
            if len(data) >= UNKNOWN_FOR_BYTES_MIN and now >= self._may_say_unknown_at and self.is_accepting:
                self._may_say_unknown_at = now + UNKNOWN_PAUSE_SECONDS
                self.send([(UNKNOWN, address)])
        elif data == UNKNOWN:
            for link in list(self._links):
                link.doubted(now)

    def _accept(self, header: PacketHeader, address: Any, now: float) -> QuicLink | None:
        """Begin a connection, or have the client prove its address first where it would take room from others."""
        proven = self._tokens.check(address, header.token, header.destination, now) if header.token else None
        is_full = len(self._links) >= self._links_max
        if is_full and not self._half_open:
            return None
        if proven is None and (is_full or self._half_open.must_prove):
            source = self._random_bytes(CONNECTION_ID_BYTES)
            token = self._tokens.issue(address, header.destination, source, now)
            self.send([(retry_packet(header, source, token), address)])
            return None
        # Who goes on is done within a few round trips: the oldest stalls, as one of a proved address may, too.
        too_many = self._half_open.giving_way(address) if proven is not None else None
        if too_many is None and is_full:
            too_many = self._half_open.oldest()
        if too_many is not None:
            too_many.fail("it was the oldest handshake under way when one more came")
        original, retried = (header.destination, None) if proven is None else (proven, header.destination)
        window = self._windows.take()
        try:
            engine = engine_for(
                self._options, self._configuration(), window_bytes=window, original_id=original, retry_id=retried
            )
        except TransportError as error:
            self._windows.give_back(window)
            self._report(Notice("quic-not-accepted", str(error)))
            return None
        peer = Peer(address=_in_words(address))
        unknown = self._unknown_bytes_max
        link = QuicLink(
            engine, self, self._options, peer, is_client=False, now=now, window_bytes=window, unknown_bytes_max=unknown
        )
        self._links[link] = None
        self._half_open.add(link, address, is_proved=proven is not None)
        self.add_id(header.destination, link)
        self.add_id(engine.own_id, link)
        return link

    def begin(self, address: Any, peer: Peer) -> QuicLink:
        """Begin a client's connection to ``address``."""
        now = trio.current_time()
        engine = engine_for(self._options, self._configuration())
        link = QuicLink(engine, self, self._options, peer, is_client=True, now=now)
        self._links[link] = None
        self.add_id(engine.own_id, link)
        engine.connect(address, now)
        link.flush()
        return link

    # what connections tell

    def add_id(self, connection_id: bytes, link: QuicLink) -> None:
        """See ``LinkEndpoint``."""
        if self._by_id.setdefault(connection_id, link) is link:
            link.ids.add(connection_id)

    def remove_id(self, connection_id: bytes) -> None:
        """See ``LinkEndpoint``."""
        link = self._by_id.pop(connection_id, None)
        if link is not None:
            link.ids.discard(connection_id)

    def ready(self, link: QuicLink) -> None:
        """See ``LinkEndpoint``."""
        self._half_open.discard(link)
        if self._is_server:
            self.accepted.append(link)
            if self._waiting:
                trio.lowlevel.reschedule(self._waiting.popleft())

    def forget(self, link: QuicLink) -> None:
        """See ``LinkEndpoint``."""
        if self._links.pop(link, link) is None:
            self._half_open.discard(link)
            if self._is_server:
                self._windows.give_back(link.window_bytes)
            for connection_id in link.ids:
                self._by_id.pop(connection_id, None)
            with suppress(ValueError):
                self.accepted.remove(link)
            if not self._is_server:
                self.is_accepting = False
            self._close_if_idle()


def _in_words(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
