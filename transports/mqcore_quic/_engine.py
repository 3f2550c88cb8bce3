"""The seam to the libraries that speak QUIC: public names only, and events of our own. Must not know of sockets."""

from __future__ import annotations

import copy
import importlib
import math
import ssl
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

from mqcore.abc import TlsOptions
from mqcore.certificates import load_authorities, load_pair, read_certificates
from mqcore.errors import CertificateError, TransportError
from mqcore.ports import Buffer
from mqcore_quic._config import QuicOptions
from mqcore_quic._held import HeldBytes, NoRoomError, watched_configuration
from mqcore_quic._packets import CONNECTION_ID_BYTES
from mqcore_quic._windows import full_window

__all__ = [
    "StreamArrived",
    "LinkEnded",
    "QuicEngine",
    "EngineEvent",
    "IdRemoved",
    "IdAdded",
    "HandshakeDone",
    "StreamRefused",
    "StreamReset",
    "client_configuration",
    "engine_for",
    "server_configuration",
]

APPLICATION = "mqcore"
FLOW_CONTROL_ERROR = 0x03
"""RFC 9000, section 20.1."""
ENGINE_WINDOW_FACTOR = 2
"""The engine's own window of a stream, in windows of ours: it never is what holds a sender up."""

Address: TypeAlias = tuple[Any, ...]


class StreamArrived(NamedTuple):
    """Bytes of a stream, in order, all that came of it together; ``is_end``: there will be no more."""

    stream_id: int
    data: bytes
    is_end: bool


class StreamReset(NamedTuple):
    """The peer broke a stream off."""

    stream_id: int


class StreamRefused(NamedTuple):
    """The peer reads no more of a stream."""

    stream_id: int


class HandshakeDone(NamedTuple):
    """The handshake is done."""


class LinkEnded(NamedTuple):
    """The connection is over. ``code`` is the peer's, or of what the engine found wrong."""

    code: int
    is_application: bool
    reason: str


class IdAdded(NamedTuple):
    """A connection id under which the peer may write to this connection."""

    connection_id: bytes


class IdRemoved(NamedTuple):
    """One under which it does not any more."""

    connection_id: bytes


EngineEvent: TypeAlias = StreamArrived | StreamReset | StreamRefused | HandshakeDone | LinkEnded | IdAdded | IdRemoved


def _library(name: str, module: str) -> Any:
    try:
        return importlib.import_module(f"{name}.{module}")
    except ImportError as error:
        extra = "quic" if name == "qh3" else name
        raise TransportError(
            f"quic:// with engine {name} needs a library that is not installed ({error}): "
            f"pip install 'mqcore[{extra}]'",
            retryable=False,
        ) from None


def _configuration(options: QuicOptions, is_client: bool) -> Any:
    config = _library(options.engine, "quic.configuration").QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[APPLICATION],
        connection_id_length=CONNECTION_ID_BYTES,
        idle_timeout=options.idle_timeout_ms / 1000,
        max_datagram_size=options.datagram_bytes,
        max_stream_data=ENGINE_WINDOW_FACTOR * options.window_bytes,
        max_data=full_window(options.window_bytes),
    )
    config.supported_versions = [version for version in config.supported_versions if version == 1]
    if options.engine == "qh3":
        config.probe_datagram_size = False  # the size is the operator's
    return config


def server_configuration(options: QuicOptions, files: TlsOptions, url: str) -> Any:
    """Return the engine's configuration of a listener. Raises ``CertificateError`` naming file and remedy."""
    if files.cert is None:
        raise CertificateError(
            f"cannot listen {url}: no certificate; give --tls-cert and --tls-key "
            "('mqcore cert dev --to DIR' makes some)",
        )
    if files.client_ca is not None:
        raise CertificateError(
            f"cannot listen {url}: client_ca: no engine of QUIC can demand certificates of clients: "
            "name it in the [[listen]] tables of tls:// only, not in [tls], and have those who come here log in",
        )
    config = _configuration(options, False)
    _load_own(config, files, url)
    return config


def client_configuration(options: QuicOptions, files: TlsOptions, url: str, server_name: str) -> Any:
    """Return the engine's configuration of a connection. Raises ``CertificateError`` as ``server_configuration``."""
    config = _configuration(options, True)
    config.server_name = server_name
    config.verify_mode = ssl.CERT_REQUIRED
    if files.ca is not None:
        # Python's own library finds a file without certificates, which an engine takes without a word.
        load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files.ca, url)
        config.load_verify_locations(cadata=read_certificates(files.ca, url))
    if files.cert is not None:
        _load_own(config, files, url)
    return config


def _load_own(config: Any, files: TlsOptions, url: str) -> None:
    assert files.cert is not None
    # Python's own library finds a key of another certificate, which an engine takes without a word.
    load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files.cert, files.key, url)
    content = {path: read_certificates(path, url) for path in (files.cert, files.key or files.cert)}
    try:
        _give(config, content[files.cert], content[files.key or files.cert])
    except Exception as error:
        where = files.cert if files.key is None else f"{files.cert} and {files.key}"
        text = f"{where}: no PEM files of a certificate and its key that {type(config).__module__} takes ({error})"
        raise CertificateError(f"{url}: {text}") from None


def _give(config: Any, certificates: bytes, key: bytes) -> None:
    """Both engines are given what they read for certain: a file with several blocks is taken apart here."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )
    from cryptography.x509 import load_pem_x509_certificates

    chain = load_pem_x509_certificates(certificates)
    # Checking the primes of an RSA key takes a tenth of a second, and OpenSSL has just used it with its certificate.
    block = key[key.index(b"-----BEGIN", _key_at(key)) :]
    private_key: Any = load_pem_private_key(block, None, unsafe_skip_rsa_key_validation=True)
    if type(config).__module__.startswith("qh3"):
        pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        config.load_cert_chain(b"".join(each.public_bytes(Encoding.PEM) for each in chain), pem)
    else:
        config.certificate, config.certificate_chain, config.private_key = chain[0], chain[1:], private_key


def _key_at(pem: bytes) -> int:
    """Where the block of a key begins among others."""
    return max(pem.rfind(b"-----BEGIN", 0, pem.index(b"PRIVATE KEY-----")), 0)


class QuicEngine:
    """One connection of one of the libraries. Times are Trio's, in seconds."""

    def __init__(self, name: str, connection: Any) -> None:
        self._connection = connection
        self._events = _library(name, "quic.events")

    @property
    def own_id(self) -> bytes:
        """The id under which the peer writes to this connection first."""
        found: bytes = self._connection.host_cid
        return found

    def connect(self, address: Address, now: float) -> None:
        """Begin a client's handshake."""
        self._connection.connect(address, now)

    def receive(self, parts: Sequence[tuple[bytes, int]], address: Address, now: float) -> None:
        """Take in datagrams from ``address``, with their size: of one each, or of a row, whose last may be shorter."""
        for data, size in parts:
            for at in range(0, len(data), size):
                self._take(data[at : at + size], address, now)

    def _take(self, datagram: bytes, address: Address, now: float) -> None:
        self._connection.receive_datagram(datagram, address, now)

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        """Return what is to be sent, each with where to."""
        found: list[tuple[bytes, Address]] = self._connection.datagrams_to_send(now)
        return found

    def deadline(self) -> float | None:
        """When ``on_deadline`` is to be called, if nothing comes before."""
        found: float | None = self._connection.get_timer()
        return found

    def on_deadline(self, now: float) -> None:
        """Do what is due."""
        self._connection.handle_timer(now)

    def events(self) -> list[EngineEvent]:
        """Return what has happened since the last call."""
        names, found = self._events, list[EngineEvent]()
        pieces: list[bytes] = []  # of one stream, which an engine hands out packet by packet
        while (event := self._next_event()) is not None:
            kind = type(event)
            if kind is names.StreamDataReceived:
                if pieces and found[-1].stream_id != event.stream_id:  # type: ignore[union-attr]
                    _join(found, pieces)
                if not pieces:
                    found.append(StreamArrived(event.stream_id, b"", False))
                pieces.append(event.data)
                if event.end_stream:
                    _join(found, pieces, is_end=True)
                continue
            if pieces:
                _join(found, pieces)
            translated = self._translated(event, kind)
            if translated is not None:
                found.append(translated)
        if pieces:
            _join(found, pieces)
        return found

    def _translated(self, event: Any, kind: object) -> EngineEvent | None:
        names = self._events
        if kind is names.StreamReset:
            return StreamReset(event.stream_id)
        if kind is names.StopSendingReceived:
            return StreamRefused(event.stream_id)
        if kind is names.HandshakeCompleted:
            return HandshakeDone()
        if kind is names.ConnectionTerminated:
            # Without a frame type it is the application's close (RFC 9000, section 19.19).
            return LinkEnded(event.error_code, event.frame_type is None, event.reason_phrase)
        if kind is names.ConnectionIdIssued:
            return IdAdded(event.connection_id)
        if kind is names.ConnectionIdRetired:
            return IdRemoved(event.connection_id)
        return None

    def _next_event(self) -> Any:
        return self._connection.next_event()

    def limit_held(self, bytes_max: int) -> None:
        """Have no more than ``bytes_max`` kept out of order, where it is not the window that bounds it."""

    def open_stream(self, *, is_one_way: bool = False) -> int | None:
        """Open a stream and return its id; None while the peer allows no more of them."""
        stream_id: int = self._connection.get_next_available_stream_id(is_unidirectional=is_one_way)
        try:
            self._connection.send_stream_data(stream_id, b"", False)
        except Exception:
            return None
        return stream_id

    def write(self, stream_id: int, data: Buffer, *, is_end: bool = False) -> None:
        """Have ``data`` sent; it is copied. Nothing happens on a stream that the peer does not read any more."""
        self._connection.send_stream_data(stream_id, data, is_end)

    def abort(self, stream_id: int, code: int) -> None:
        """Break off what is sent on a stream."""
        self._connection.reset_stream(stream_id, code)

    def refuse(self, stream_id: int, code: int) -> None:
        """Have the peer send no more on a stream."""
        self._connection.stop_stream(stream_id, code)

    def ping(self) -> None:
        """Ask the peer whether it lives."""
        self._connection.send_ping(0)

    def peer_certificate(self) -> bytes | None:
        """Return the peer's certificate (DER); None where it showed none, and of aioquic, which keeps it to itself."""
        return None

    def peer_expires_in(self) -> float:
        """Return for how many seconds ``peer_certificate`` is valid; infinity where there is none."""
        return math.inf

    def close(self, code: int, reason: str) -> None:
        """End the connection at once."""
        self._connection.close(error_code=code, reason_phrase=reason)


def _join(found: list[EngineEvent], pieces: list[bytes], *, is_end: bool = False) -> None:
    """Put ``pieces`` into the last of ``found``, which is theirs, and empty them."""
    data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    found[-1] = StreamArrived(found[-1].stream_id, data, is_end)  # type: ignore[union-attr]
    pieces.clear()


class _Qh3(QuicEngine):
    def __init__(self, name: str, connection: Any) -> None:
        super().__init__(name, connection)
        self._to_refuse: list[tuple[int, int]] = []

    def refuse(self, stream_id: int, code: int) -> None:
        # Not at once: it sends no end of a stream while the peer has not acknowledged a STOP_SENDING for it, and
        # where the connection is ended in that time, the end never comes.
        self._to_refuse.append((stream_id, code))

    def transmit(self, now: float) -> list[tuple[bytes, Address]]:
        found = super().transmit(now)
        if self._to_refuse:
            streams, self._to_refuse = self._to_refuse, []
            for stream_id, code in streams:
                with suppress(Exception):  # it knows the stream no more, which is what was asked for
                    self._connection.stop_stream(stream_id, code)
            found += super().transmit(now)
        return found

    def receive(self, parts: Sequence[tuple[bytes, int]], address: Address, now: float) -> None:
        single: list[bytes] = []
        for data, size in parts:
            if size == len(data):
                single.append(data)
                continue
            if single:
                self._connection.receive_many_datagrams(single, address, now)
                single = []
            self._connection.receive_gro_buffer(data, size, address, now)
        if single:
            self._connection.receive_many_datagrams(single, address, now)

    def peer_certificate(self) -> bytes | None:
        certificate = self._connection.get_peercert()
        return None if certificate is None else bytes(certificate.public_bytes())

    def peer_expires_in(self) -> float:
        certificate = self._connection.get_peercert()
        return math.inf if certificate is None else float(certificate.not_valid_after) - time.time()


class _Aioquic(QuicEngine):
    def __init__(self, name: str, connection: Any, held: HeldBytes) -> None:
        super().__init__(name, connection)
        self._held = held
        self._happened: deque[Any] = deque()

    def _take(self, datagram: bytes, address: Address, now: float) -> None:
        self._held.is_receiving, self._held.has_left_out = True, False
        try:
            self._connection.receive_datagram(datagram, address, now)
            if self._held.has_left_out:  # it was acknowledged: another release asks in another order
                self._connection.close(error_code=FLOW_CONTROL_ERROR, frame_type=0x08, reason_phrase="no room")
        except NoRoomError:  # it was not acknowledged, so that what is in it comes again
            if self._held.refused(now):
                text = f"more than {self._held.limit} bytes out of order, and nothing comes of what was before them"
                self._connection.close(error_code=FLOW_CONTROL_ERROR, frame_type=0x08, reason_phrase=text)
        finally:
            self._held.is_receiving = False
        self._count()  # after each: what was delivered is not held against the next

    def _count(self) -> None:
        names, held = self._events, self._held
        while (event := self._connection.next_event()) is not None:
            if type(event) is names.StreamDataReceived:
                held.delivered(event.stream_id, len(event.data), is_end=event.end_stream)
            elif type(event) is names.StreamReset:
                held.reset(event.stream_id)
            self._happened.append(event)

    def _next_event(self) -> Any:
        self._count()
        return self._happened.popleft() if self._happened else None

    def limit_held(self, bytes_max: int) -> None:
        self._held.limit = bytes_max

    def write(self, stream_id: int, data: Buffer, *, is_end: bool = False) -> None:
        self._connection.send_stream_data(stream_id, bytes(data), is_end)


def engine_for(
    options: QuicOptions,
    configuration: Any,
    *,
    window_bytes: int | None = None,
    original_id: bytes | None = None,
    retry_id: bytes | None = None,
) -> QuicEngine:
    """Return a new connection; a server's has the id that the client first wrote to, and that of a retry if any.

    ``window_bytes`` is how much of its streams, all together, may be out of order; unset: as the options have it.
    """
    window_bytes = window_bytes or full_window(options.window_bytes)
    configuration = copy.copy(configuration)
    configuration.max_data = window_bytes
    configuration.max_stream_data = min(configuration.max_stream_data, window_bytes)
    held = HeldBytes(window_bytes, options.window_bytes + 1)  # the byte that an opener begins with
    if options.engine == "aioquic":
        configuration = watched_configuration(configuration, held)
    named: dict[str, object] = {"configuration": configuration}
    if original_id is not None:
        named |= {"original_destination_connection_id": original_id, "retry_source_connection_id": retry_id}
    connection = _library(options.engine, "quic.connection").QuicConnection(**named)
    return _Qh3("qh3", connection) if options.engine == "qh3" else _Aioquic("aioquic", connection, held)
