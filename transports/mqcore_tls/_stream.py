"""A TLS stream over another byte stream: Python's ``ssl`` with its bytes in memory. Must not know of sockets or files.

One task may send while another receives. The records that one side has made leave in the order in which they were
made, whoever made them: a lock keeps that. What was encrypted and could not be sent whole ends the stream.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import trio

from mqcore.errors import TransportError
from mqcore.links import ClosableStream
from mqcore.ports import Buffer

__all__ = ["TlsStream", "alert_in_words", "names_of", "subject_of"]

T = TypeVar("T")
RECEIVE_BYTES = 256 * 1024
"""What is asked of the connection at once: sixteen records. Each stream keeps a buffer of it."""
RECORD_BYTES = 16 * 1024
"""Most that a record carries (RFC 8446, section 5.1); shorter buffers are joined, as each record has its cost."""
SEND_BYTES = 256 * 1024
"""What is encrypted at most before it has to leave: the memory of a sender whose peer does not read."""
CLOSE_NOTIFY_TIMEOUT_S = 1.0
LINGER_S = 1.0
"""How long a peer whose handshake is refused has to take the reason, before the connection is reset under it."""
PLAIN_ANSWER = bytes.fromhex("15030300020246") + bytes.fromhex("15030300020100")
"""What a client that does not speak TLS is answered: two alerts, by which it can tell that TLS is spoken here."""
_HANDSHAKE_RECORD = 0x16


class TlsStream(ClosableStream):
    """TLS over ``inner``; ``shake_hands`` comes first. ``server_name`` is checked against the server's certificate."""

    def __init__(self, inner: ClosableStream, context: ssl.SSLContext, *, server_name: str | None = None) -> None:
        self.inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._leaving = trio.StrictFIFOLock()
        self._is_sending = False
        self._is_torn = False
        self._is_closed = False  # by its user
        self._has_answered = False
        self._is_first = server_name is None  # of what a client sends
        self._expires_at = math.inf
        self._ended_because: str | None = None
        self.looks: Callable[[float], object] | None = None
        """Called with the time before anything is read; it may ``end`` this stream."""

    async def shake_hands(self) -> None:
        """Raises ``ssl.SSLError``, ``trio.BrokenResourceError``.

        If it fails or is cancelled, the stream is of no more use; the peer had time to take the reason.
        """
        try:
            await self._until_done(self._tls.do_handshake)
        except ssl.SSLError:
            await self._linger()
            raise
        if not_after := self.certificate.get("notAfter"):
            self._expires_at = trio.current_time() + ssl.cert_time_to_seconds(str(not_after)) - time.time()

    async def _linger(self) -> None:
        """Wait until the peer closes: what it sent and nobody read would reset the connection, and the reason with it.

        Where it is the peer that refused there was nothing to answer, and nothing is waited for.
        """
        if self._has_answered:
            with trio.move_on_after(LINGER_S), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while await self.inner.receive_into(self._buffer):
                    pass
        self.inner.close()

    @property
    def certificate(self) -> dict[str, object]:
        """The peer's certificate as ``ssl.SSLSocket.getpeercert`` gives it; empty where it showed none."""
        found = self._tls.getpeercert()
        return dict(found) if found else {}

    @property
    def version(self) -> str:
        """Version of the protocol, such as ``TLSv1.3``."""
        return self._tls.version() or ""

    # receiving

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """See ``ByteStream``: 0 at an end that the peer has said; one that was cut off is a broken stream."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            size = self._read(memoryview(buffer))
            if size is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return size
            return await self._until_done(lambda: self._read(memoryview(buffer)))
        except ssl.SSLError as error:
            raise self._broken(error) from self._cause(error)
        except trio.ClosedResourceError:
            raise self._closed_error() from None

    def _read(self, buffer: memoryview) -> int | None:
        """Read what there is, 0 at the end; None where there is nothing yet."""
        size = 0
        now = trio.current_time()
        if self.looks is not None:
            self.looks(now)
        if self._ended_because is not None:
            raise self._closed_error()
        if now >= self._expires_at:
            self.close()
            text = "the peer's certificate has expired since it connected: renew it and connect again"
            raise trio.BrokenResourceError(text) from TransportError(text, retryable=False)
        try:
            while size < len(buffer):
                read: int = self._tls.read(len(buffer) - size, buffer[size:])  # type: ignore[assignment]  # a count
                if not read:  # the peer has said the end
                    break
                size += read
        except ssl.SSLWantReadError:
            return size or None
        except ssl.SSLError:
            if not size:
                raise  # told at the next call else, after what came before it
        return size

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See ``trio.abc.ReceiveStream``."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"max_bytes = {max_bytes}: must be at least 1")
        buffer = bytearray(max_bytes or 65_536)
        return bytes(buffer[: await self.receive_into(buffer)])

    async def _until_done(self, step: Callable[[], T | None]) -> T:
        """Do ``step`` again and again, with what comes in between, until it is done."""
        while True:
            result: T | None = None
            try:
                result = step()
                is_done = result is not None or step == self._tls.do_handshake
            except ssl.SSLWantReadError:
                is_done = False
            except ssl.SSLError:
                self._has_answered = self._has_answered or bool(self._outgoing.pending)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._send_made()  # an alert that says why
                raise
            # Where a task is sending, it takes along what was made here: waiting for it, neither side might read.
            if self._outgoing.pending and not self._leaving.locked():
                await self._send_made()
            if is_done:
                return result  # type: ignore[return-value]  # a handshake has none
            received = await self.inner.receive_into(self._buffer)
            if received:
                if self._is_first:
                    self._is_first = False
                    await self._answer_plain(self._buffer[0])
                self._incoming.write(self._buffer[:received])
            else:
                self._incoming.write_eof()

    async def _answer_plain(self, byte: int) -> None:
        """Tell a client that begins with ``byte`` and speaks no TLS; OpenSSL, which does not answer all, refuses it."""
        if byte != _HANDSHAKE_RECORD:
            self._has_answered = True
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.inner.send_buffers([PLAIN_ANSWER])

    # sending

    async def send_all(self, data: Buffer) -> None:
        """See ``trio.abc.SendStream``."""
        await self.send_buffers([memoryview(data).cast("B")])
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """See ``ByteStream``. Once something was encrypted, a write that ends early closes the stream."""
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_sending = True
        try:
            if self.closed:
                raise self._closed_error()
            waiting = 0
            for piece in pieces_of(buffers):
                if waiting + len(piece) > SEND_BYTES:
                    await self._send_made()
                    waiting = 0
                self._tls.write(piece)
                waiting += len(piece)
            await self._send_made()
        except ssl.SSLError as error:
            raise self._broken(error) from self._cause(error)
        except trio.ClosedResourceError:
            raise self._closed_error() from None
        finally:
            self._is_sending = False

    async def _send_made(self) -> None:
        """Send the records that were made. What is made meanwhile by the other task, which waits, leaves too."""
        async with self._leaving:
            while self._outgoing.pending:
                try:
                    await self.inner.send_buffers([self._outgoing.read()])
                except BaseException:
                    self._is_torn = True
                    self.inner.close()
                    raise

    async def wait_send_all_might_not_block(self) -> None:
        """See ``trio.abc.SendStream``."""
        await self.inner.wait_send_all_might_not_block()

    # closing

    @property
    def closed(self) -> bool:
        """See ``ClosableStream``."""
        return self.inner.closed

    def close(self) -> None:
        """See ``ClosableStream``. The end is said if the connection takes it at once."""
        self._is_closed = True
        if not self.closed and not self._is_torn and not self._leaving.locked():
            self._make_close_notify()
            if data := self._outgoing.read():
                self.inner.send_now([data])
        self.inner.close()

    def end(self, why: str) -> None:
        """Close it for ``why``, which its user is told as of a stream that broke. Idempotent."""
        if not self._is_closed and self._ended_because is None:
            self._ended_because = why
            self.close()

    async def aclose(self) -> None:
        """Say the end, for a second at most, and close. It is closed even if this is cancelled. Idempotent."""
        self._is_closed = True
        try:
            if not self.closed and not self._is_torn:
                self._make_close_notify()
                with trio.move_on_after(CLOSE_NOTIFY_TIMEOUT_S):
                    await self._send_made()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.inner.close()
        await trio.lowlevel.checkpoint()

    def _make_close_notify(self) -> None:
        with suppress(ssl.SSLError, ValueError):  # wants the peer's, which nobody waits for; or no handshake was done
            self._tls.unwrap()

    def _cause(self, error: ssl.SSLError) -> TransportError:
        """What a client is told of a stream that broke: the peer's alert, after which trying again is of no use."""
        return TransportError(alert_in_words(error), retryable=isinstance(error, ssl.SSLEOFError))

    def _broken(self, error: ssl.SSLError) -> Exception:
        if self.closed:
            return self._closed_error()
        if isinstance(error, ssl.SSLEOFError):
            return trio.BrokenResourceError("the connection ended without the end of TLS")
        return trio.BrokenResourceError(f"TLS: {alert_in_words(error)}")

    def _closed_error(self) -> Exception:
        if self._ended_because is not None:
            return trio.BrokenResourceError(self._ended_because)
        if self._is_torn and not self._is_closed:
            return trio.BrokenResourceError("a write ended early, which closed the stream")
        return trio.ClosedResourceError("the stream is closed")


def pieces_of(buffers: Sequence[Buffer]) -> Iterator[Buffer]:
    """Give the bytes of ``buffers`` in pieces of at most ``SEND_BYTES``, what is short joined."""
    short: list[Buffer] = []
    size = 0
    for buffer in buffers:
        if len(buffer) < RECORD_BYTES:
            short.append(buffer)
            size += len(buffer)
        if short and (size >= RECORD_BYTES or len(buffer) >= RECORD_BYTES):
            yield short[0] if len(short) == 1 else b"".join(short)
            short, size = [], 0
        if len(buffer) >= RECORD_BYTES:
            view = memoryview(buffer).cast("B")
            for begin in range(0, len(view), SEND_BYTES):
                yield view[begin : begin + SEND_BYTES]
    if size:
        yield short[0] if len(short) == 1 else b"".join(short)


_ALERTS = {
    "CERTIFICATE_REQUIRED": "the server asks for a certificate of this client: give one (--cert, --key)",
    "UNKNOWN_CA": "the peer does not trust who signed this side's certificate",
    "CERTIFICATE_EXPIRED": "this side's certificate is expired, says the peer",
    "BAD_CERTIFICATE": "the peer refuses this side's certificate",
    "CERTIFICATE_UNKNOWN": "the peer refuses this side's certificate",
    "PROTOCOL_VERSION": "the peer speaks no version of TLS that this side does: 1.3 is needed",
    "HANDSHAKE_FAILURE": "the two sides have no way in common to encrypt",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS here: is the other side tcp://?",
    "HTTP_REQUEST": "the peer speaks HTTP, not TLS",
    "UNEXPECTED_MESSAGE": "the peer does not speak TLS here",
    "RECORD_LAYER_FAILURE": "the peer does not speak TLS here: is the other side tcp://?",
    "NOT_ENOUGH_DATA": "the peer does not speak TLS here",
}


def alert_in_words(error: ssl.SSLError) -> str:
    """What is wrong, for people: from OpenSSL's names of reasons."""
    reason = error.reason or ""
    known = next((text for name, text in _ALERTS.items() if name in reason), None)
    return known or reason.lower().replace("_", " ") or str(error)


_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}


def subject_of(certificate: dict[str, object]) -> str | None:
    """The subject of a certificate as text, as in ``O=Example,CN=client``; None without one.

    Written as RFC 4514 has it (the last part first), its special characters escaped: no two subjects look alike.
    """
    parts: list[str] = []
    groups: Any = certificate.get("subject") or ()
    for group in reversed(groups):
        parts.append("+".join(f"{_SHORT.get(name, name)}={_escaped(value)}" for name, value in group))
    return ",".join(parts) or None


def names_of(certificate: dict[str, object]) -> tuple[str, ...]:
    """The alternative names of a certificate, as in ``DNS:broker.example.org``."""
    names = certificate.get("subjectAltName")
    return tuple(f"{kind}:{name}" for kind, name in names) if isinstance(names, tuple) else ()


def _escaped(value: str) -> str:
    text = "".join(f"\\{char}" if char in ',+"\\<>;=' else char for char in value)
    if text.startswith(("#", " ")):
        text = f"\\{text}"
    return f"{text[:-1]}\\ " if text.endswith(" ") and len(value) > 1 else text
