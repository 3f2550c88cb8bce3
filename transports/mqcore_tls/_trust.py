"""Whom a listener believes, and the open connections of clients that were believed: they end with their authority.

The files are looked at before each handshake, and when an open connection receives, once a second at most: there is no
timer. Must not know of sockets.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import trio

from mqcore.abc import Notice
from mqcore.followed import FollowedFiles
from mqcore_tls._contexts import ServerContext
from mqcore_tls._stream import TlsStream

__all__ = ["ClientTrust"]

LOOK_SECONDS = 1.0
ENDED = "an authority that clients were believed by is none any more (client_ca has changed): connect again"


class ClientTrust:
    """The contexts of the listener at ``url``, and the streams that have shaken hands under them.

    Which of several authorities stands behind a client cannot be told afterwards, as the certificates in between are
    not kept. So when one is gone from the file all streams end; whoever is still believed connects again.
    """

    def __init__(self, contexts: FollowedFiles[ServerContext], url: str, report: Callable[[Notice], None]) -> None:
        self._contexts = contexts
        self._url = url
        self._report = report
        self._context = contexts.current()
        self._streams: weakref.WeakSet[TlsStream] = weakref.WeakSet()
        self._look_at = trio.current_time() + LOOK_SECONDS

    def current(self) -> ServerContext:
        """Return what the next handshake is made with."""
        self._look_at = trio.current_time() + LOOK_SECONDS
        context = self._contexts.current()
        if context is not self._context:
            is_one_gone = bool(self._context.believed - context.believed)
            self._context = context
            if is_one_gone:
                self._end_all()
        return context

    def keep(self, stream: TlsStream, context: ServerContext) -> None:
        """Take in ``stream``, which has shaken hands under ``context``; it ends at once where that is not enough."""
        if context.believed - self._context.believed:
            stream.end(ENDED)
            return
        if self._context.believed:
            stream.looks = self._look
            self._streams.add(stream)

    def _look(self, now: float) -> None:
        if now >= self._look_at:
            self.current()

    def _end_all(self) -> None:
        streams = [stream for stream in self._streams if not stream.closed]
        self._streams.clear()
        for stream in streams:
            stream.end(ENDED)
        text = f"{self._url}: client_ca has lost an authority: {len(streams)} open connections of clients were ended"
        self._report(Notice("clients-ended", text, {"url": self._url, "connections": len(streams)}))
