"""Listening and connecting: TLS over the TCP transport. Must not know of the protocol that the streams carry."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import attrs
import trio

from mqcore.abc import ByteStream, Link, Listener, Notice, Peer, TlsOptions, Transport, TransportCapabilities
from mqcore.abc import TransportContext as Context
from mqcore.errors import TransportError
from mqcore.followed import FollowedFiles
from mqcore.links import ClosableStream, PassThroughLink, StreamLink
from mqcore.registry import create_transport
from mqcore.url import Url
from mqcore_tls._config import TlsTransportOptions
from mqcore_tls._contexts import client_context, followed, server_context
from mqcore_tls._handshakes import Handshakes
from mqcore_tls._stream import TlsStream, alert_in_words, names_of, subject_of
from mqcore_tls._trust import ClientTrust

__all__ = ["TlsTransport"]

_CERTIFICATE_REMEDIES = {
    # Numbers of X509_V_ERR_...: https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
    9: "it is not valid yet: is the clock of one of the machines wrong?",
    10: "it is expired: the server needs a new one",
    18: "it is signed by itself: name it, or its authority, as ca (--ca FILE)",
    19: "its authority is not trusted here: name that as ca (--ca FILE)",
    20: "its authority is not known here: name that as ca (--ca FILE)",
    21: "its authority is not known here: name that as ca (--ca FILE)",
    62: "it is not for this name: connect to a name that it has, or give server_name (MQCORE_TLS_SERVER_NAME)",
    64: "it is not for this address: connect to a name that it has, or give server_name (MQCORE_TLS_SERVER_NAME)",
}


class TlsTransport(Transport):
    """The transport part of the scheme ``tls``."""

    options_class = TlsTransportOptions

    def __init__(self, url: Url, options: TlsTransportOptions, context: Context) -> None:
        super().__init__(url, options, context)
        self._files = options.over(context.tls)
        self._capabilities = TransportCapabilities(
            half_close=False, simulable=True, encrypted=True, authenticated=self._files.client_ca is not None
        )
        self._server_name = self._files.server_name or url.address[0]
        self._timeout_s: float = options.handshake_timeout_ms / 1000
        self._half_open_max: int = options.half_open_max
        self._inner = create_transport(Url("tcp", url.rest), context)
        self._as_client: FollowedFiles[ssl.SSLContext] | None = None

    @property
    def capabilities(self) -> TransportCapabilities:
        """No half-close: who was told the end of TLS may send nothing any more."""
        return self._capabilities

    @property
    def files(self) -> TlsOptions:
        """Those of the URL, then those of the broker or client."""
        return self._files

    def check_files(self) -> None:
        """See ``Transport``."""
        server_context(self._files, str(self.url))

    async def listen(self) -> Listener:
        """Listen at the URL. Raises ``TransportError`` for what is wrong with a certificate too."""
        contexts = followed(server_context, self._files, str(self.url), self.context.report)
        try:
            listener = await self._inner.listen()
        except TransportError as error:
            raise self._as_own(error) from error
        handshakes = Handshakes(self._half_open_max, self.context.report)
        url = Url(self.url.scheme, listener.url.rest)
        trust = ClientTrust(contexts, str(url), self.context.report)
        return _TlsListener(listener, url, trust, self._timeout_s, handshakes)

    async def connect(self) -> Link:
        """Connect to the URL. Raises ``TransportError``. If cancelled, nothing stays open."""
        stream, address = await self._connect_stream()
        return StreamLink(stream, _known(Peer(address=address), stream), self._connect_again)

    async def _connect_again(self) -> TlsStream:
        return (await self._connect_stream())[0]

    async def _connect_stream(self) -> tuple[TlsStream, str]:
        if self._as_client is None:
            self._as_client = followed(client_context, self._files, str(self.url), self.context.report)
        context = self._as_client.current()
        try:
            link = await self._inner.connect()
        except TransportError as error:
            raise self._as_own(error) from error
        try:
            inner = await link.open_stream()
            assert isinstance(inner, ClosableStream)
            stream = TlsStream(inner, context, server_name=self._server_name)
            with trio.fail_after(self._timeout_s):
                await stream.shake_hands()
        except BaseException as error:
            await trio.aclose_forcefully(link)
            if isinstance(error, (ssl.SSLError, trio.BrokenResourceError, trio.TooSlowError)):
                raise self._not_connected(error) from error
            raise
        return stream, link.peer.address

    def _as_own(self, error: TransportError) -> TransportError:
        text = str(error).replace(f"{self._inner.url}", f"{self.url}")
        return TransportError(text, retryable=error.retryable)

    def _not_connected(self, error: BaseException) -> TransportError:
        where = f"cannot connect {self.url}"
        if isinstance(error, ssl.SSLCertVerificationError):
            why = _CERTIFICATE_REMEDIES.get(error.verify_code, error.verify_message.lower())
            return TransportError(f"{where}: the server's certificate is refused: {why}", retryable=False)
        if isinstance(error, ssl.SSLEOFError):
            return TransportError(f"{where}: the server hung up during the handshake: does it speak TLS there?")
        if isinstance(error, ssl.SSLError):
            return TransportError(f"{where}: {alert_in_words(error)}", retryable=False)
        if isinstance(error, trio.TooSlowError):
            return TransportError(f"{where}: no handshake within {self._timeout_s:g} s: does it speak TLS there?")
        return TransportError(f"{where}: the connection broke during the handshake ({error})")


def _known(peer: Peer, stream: TlsStream) -> Peer:
    certificate = stream.certificate
    return attrs.evolve(peer, tls_subject=subject_of(certificate), tls_names=names_of(certificate))


class _TlsListener(Listener):
    """Accepts connections; each shakes hands when its stream is asked for, so that none waits for another."""

    def __init__(
        self,
        inner: Listener,
        url: Url,
        trust: ClientTrust,
        timeout_s: float,
        handshakes: Handshakes,
    ) -> None:
        self.url = url
        self._inner = inner
        self._trust = trust
        self._timeout_s = timeout_s
        self._handshakes = handshakes

    async def accept(self) -> Link:
        """See ``Listener``."""
        link = await self._inner.accept()
        return _AcceptedLink(link, self._trust, self._timeout_s, self._handshakes, self._refused)

    def _refused(self, peer: Peer, why: str) -> None:
        text = f"{self.url}: no handshake with {peer.address}: {why}"
        self._handshakes.tell(
            Notice("tls-handshake-failed", text, {"url": str(self.url), "peer": peer.address, "why": why})
        )

    async def aclose(self) -> None:
        """See ``Listener``."""
        await self._inner.aclose()


class _AcceptedLink(PassThroughLink):
    """A connection to a client, which has shaken hands once its stream was given out."""

    def __init__(
        self,
        inner: Link,
        trust: ClientTrust,
        timeout_s: float,
        handshakes: Handshakes,
        refused: Callable[[Peer, str], None],
    ) -> None:
        super().__init__(inner)
        self._trust = trust
        self._timeout_s = timeout_s
        self._handshakes = handshakes
        self._refused = refused
        self._stream: TlsStream | None = None

    async def accept_stream(self) -> ByteStream:
        """Shake hands and return the one stream. ``trio.BrokenResourceError`` where it fails, which was reported."""
        inner = await self.inner.accept_stream()
        assert isinstance(inner, ClosableStream)
        context = self._trust.current()
        self._stream = stream = TlsStream(inner, context)
        try:
            with self._handshakes.one() as scope, trio.fail_after(self._timeout_s):
                await stream.shake_hands()
        except (ssl.SSLError, trio.BrokenResourceError, trio.TooSlowError) as error:
            self._refused(self.peer, self._why(error))
            raise trio.BrokenResourceError("no handshake") from error
        if scope.cancelled_caught:
            text = f"it was the oldest of {self._handshakes.most} under way when one more came (half_open_max)"
            self._refused(self.peer, text)
            raise trio.BrokenResourceError("no handshake")
        self._trust.keep(stream, context)
        self.peer = _known(self.peer, stream)
        return stream

    def _why(self, error: BaseException) -> str:
        if isinstance(error, trio.TooSlowError):
            return f"it was not done within {self._timeout_s:g} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is refused: {error.verify_message}"
        if isinstance(error, ssl.SSLError) and "PEER_DID_NOT_RETURN" in (error.reason or ""):
            return "it showed no certificate, and client_ca demands one"
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return alert_in_words(error)
        return "it hung up"

    async def aclose(self) -> None:
        """Close the stream, even if this is cancelled. Idempotent."""
        if self._stream is not None:
            self._stream.close()
        await self.inner.aclose()
