"""What has to be known of a packet before there is a connection: header, version negotiation, retry. No I/O.

The invariants are RFC 8999; version 1 is RFC 9000, section 17, its retry's proof RFC 9001, section 5.8.
"""

from __future__ import annotations

import functools
import hmac
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["CONNECTION_ID_BYTES", "INITIAL_BYTES_MIN", "VERSION", "AddressTokens", "PacketHeader",
           "are_of_one_connection", "parse_header",
           "UNKNOWN", "UNKNOWN_FOR_BYTES_MIN", "retry_packet", "version_negotiation_packet"]  # fmt: skip

VERSION = 1
CONNECTION_ID_BYTES = 8
"""Of every id that this side gives out: a short header does not say how long it is."""
INITIAL_BYTES_MIN = 1_200
"""A client's first datagram is padded to it, so that no answer is larger than what asked for it."""
UNKNOWN = b"\x00unknown\x00"
"""Tells a client that its connection is not known here, as after a restart. No packet of QUIC: a bit that all of them
have is missing. It proves nothing, so a client that gets it asks before it believes."""
UNKNOWN_FOR_BYTES_MIN = 21
"""What is shorter gets no such answer, so that no two servers answer each other (RFC 9000, section 10.3)."""
TOKEN_SECONDS = 10
MAC_BYTES = 16
_ID_BYTES_MAX = 20
_RETRY_KEY = bytes.fromhex("be0c690b9f66575a1d766b54e368c84e")
_RETRY_NONCE = bytes.fromhex("461599d35d632bf2239825bb")


class PacketHeader(NamedTuple):
    """``version`` is None in a short header, which has no ``source`` either; ``token`` is that of an initial packet."""

    version: int | None
    is_initial: bool
    destination: bytes
    source: bytes
    token: bytes


def parse_header(data: bytes) -> PacketHeader | None:
    """Return the header that ``data`` begins with; None for what is none."""
    if not data:
        return None
    if not data[0] & 0x80:
        if len(data) < 1 + CONNECTION_ID_BYTES:
            return None
        return PacketHeader(None, False, data[1 : 1 + CONNECTION_ID_BYTES], b"", b"")
    try:
        version = int.from_bytes(data[1:5], "big")
        destination, position = _counted(data, 5)
        source, position = _counted(data, position)
        is_initial = version == VERSION and data[0] & 0x30 == 0
        token = b""
        if is_initial:
            size, position = _variable(data, position)
            if position + size > len(data):
                return None
            token = data[position : position + size]
    except IndexError:
        return None
    if version == VERSION and max(len(destination), len(source)) > _ID_BYTES_MAX:
        return None
    return PacketHeader(version, is_initial, destination, source, token)


def are_of_one_connection(data: bytes, size: int) -> bool:
    """Whether ``data``, datagrams of ``size`` bytes, have short headers and one id: without a step of Python for each.

    False too where the last one is too short to say.
    """
    count = -(-len(data) // size)
    if max(data[::size]) & 0x80:
        return False
    return all(data[at::size].count(data[at]) == count for at in range(1, 1 + CONNECTION_ID_BYTES))


def _counted(data: bytes, position: int) -> tuple[bytes, int]:
    end = position + 1 + data[position]
    if end > len(data):
        raise IndexError
    return data[position + 1 : end], end


def _variable(data: bytes, position: int) -> tuple[int, int]:
    """An integer of variable length (RFC 9000, section 16)."""
    size = 1 << (data[position] >> 6)
    if position + size > len(data):
        raise IndexError
    value = int.from_bytes(data[position : position + size], "big")
    return value & ((1 << (8 * size - 2)) - 1), position + size


def version_negotiation_packet(header: PacketHeader) -> bytes:
    """The answer to a version that is not spoken here."""
    ids = bytes([len(header.source)]) + header.source + bytes([len(header.destination)]) + header.destination
    return b"\x80\x00\x00\x00\x00" + ids + VERSION.to_bytes(4, "big")


def retry_packet(header: PacketHeader, source: bytes, token: bytes) -> bytes:
    """The answer to a client that has to come again, with ``token`` and to ``source``, and so proves its address."""
    ids = bytes([len(header.source)]) + header.source + bytes([len(source)]) + source
    packet = b"\xf0" + VERSION.to_bytes(4, "big") + ids + token
    original = bytes([len(header.destination)]) + header.destination
    return packet + _retry_cipher().encrypt(_RETRY_NONCE, b"", original + packet)


@functools.cache
def _retry_cipher() -> AESGCM:
    # Imported when it is needed: whoever only looks at a URL has no engine, and nothing that comes with one.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(_RETRY_KEY)


class AddressTokens:
    """Tokens that prove that a client gets what is sent to its address. Nothing is kept for those that are out.

    A token is the time (4 bytes, seconds), the id that the client first wrote to, and a keyed digest of both, of the
    address, and of the id that it was told to write to.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def issue(self, address: object, original: bytes, source: bytes, now: float) -> bytes:
        """Return a token for a client at ``address`` that wrote to ``original`` and shall write to ``source``."""
        head = struct.pack(">I", int(now) & 0xFFFFFFFF) + original
        return head + self._digest(address, head, source)

    def check(self, address: object, token: bytes, destination: bytes, now: float) -> bytes | None:
        """Return the id that the client first wrote to; None where ``token`` does not prove it, or no more."""
        head, digest = token[:-MAC_BYTES], token[-MAC_BYTES:]
        if not hmac.compare_digest(digest, self._digest(address, head, destination)):
            return None
        age = (int(now) - struct.unpack_from(">I", head)[0]) & 0xFFFFFFFF
        return head[4:] if age <= TOKEN_SECONDS else None

    def _digest(self, address: object, head: bytes, source: bytes) -> bytes:
        text = f"{address!r}|{len(head)}|".encode() + head + source
        return hmac.digest(self._key, text, "sha256")[:MAC_BYTES]
