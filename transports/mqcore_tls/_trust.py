"""Whom a listener believes, and the open connections of clients that were believed: they end with their authority.

The files are looked at before each handshake, and when an open connection receives, once a second at most: there is no
timer. Must not know of sockets.
"""

from __future__ import annotations

import ssl
import weakref
from collections.abc import Callable

import trio

from mqcore.abc import Notice
from mqcore.followed import FollowedFiles
from mqcore_tls._stream import TlsStream

__all__ = ["ClientTrust"]

LOOK_SECONDS = 1.0
ENDED = "an authority that clients were believed by is none any more (client_ca has changed): connect again"


class ClientTrust:
    """The contexts of the listener at ``url``, and the streams that have shaken hands under them.

    Which of several authorities stands behind a client cannot be told afterwards, as the certificates in between are
    not kept. So when one is gone from the file all streams end; whoever is still believed connects again.
    """

    def __init__(self, contexts: FollowedFiles[ssl.SSLContext], url: str, report: Callable[[Notice], None]) -> None:
        self._contexts = contexts
        self._url = url
        self._report = report
        self._context = contexts.current()
        self._authorities = _authorities_of(self._context)
        self._streams: weakref.WeakSet[TlsStream] = weakref.WeakSet()
        self._look_at = trio.current_time() + LOOK_SECONDS

    def current(self) -> ssl.SSLContext:
        """Return what the next handshake is made with."""
        self._look_at = trio.current_time() + LOOK_SECONDS
        context = self._contexts.current()
        if context is not self._context:
            authorities = _authorities_of(context)
            if self._authorities - authorities:
                self._end_all()
            self._context, self._authorities = context, authorities
        return context

    def keep(self, stream: TlsStream, context: ssl.SSLContext) -> None:
        """Take in ``stream``, which has shaken hands under ``context``; it ends at once where that is not enough."""
        if context is not self._context and _authorities_of(context) - self._authorities:
            stream.end(ENDED)
            return
        if self._authorities:
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


def _authorities_of(context: ssl.SSLContext) -> frozenset[bytes]:
    """Return the certificates of those whom clients are believed by; none where none are asked for."""
    if context.verify_mode is ssl.CERT_NONE:
        return frozenset()
    return frozenset(context.get_ca_certs(binary_form=True))
