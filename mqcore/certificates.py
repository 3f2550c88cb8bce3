"""Files of certificates and keys: what is wrong with one, in a line, and until when a certificate is valid.

For every transport that encrypts, and for whoever looks at such files before they are used. Must not know of sockets,
nor of any TLS library but Python's own.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

import attrs

from mqcore.errors import CertificateError

__all__ = [
    "Validity",
    "certificates_in",
    "load_authorities",
    "load_client_files",
    "load_pair",
    "open_key_text",
    "read_certificates",
    "validities",
    "validity_of_authorities",
    "validity_of_own",
]

FILE_BYTES_MAX = 4 * 1024 * 1024
"""More than the bundle of all public authorities has; what is larger is no file of certificates."""
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
_BLOCK = re.compile(r"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----([^-]*)-----END \1-----")
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def load_pair(context: ssl.SSLContext, cert: str, key: str | None, where: str) -> None:
    """Have ``context`` show the certificate in ``cert`` with the key in ``key``, or in the same file.

    Raises ``CertificateError`` that begins with ``where`` and names the file and the remedy.
    """
    for path in (cert, key):
        if path is not None:
            read_certificates(path, where)
    try:
        # Without a password to give, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert, key, password=_refuse_password)
    except _EncryptedKey:
        text = f"{key or cert}: the key is encrypted; store it decrypted, readable by the broker only"
        raise CertificateError(f"{where}: {text}") from None
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        raise CertificateError(f"{where}: {_why_not_loaded(error, cert, key)}") from None


def load_authorities(context: ssl.SSLContext, path: str, where: str) -> None:
    """Have ``context`` believe the authorities in the file ``path``. Raises ``CertificateError`` as ``load_pair``."""
    read_certificates(path, where)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", "") or error
        raise CertificateError(f"{where}: {path}: no PEM file of certificates ({reason})") from None


def load_client_files(ca: str | None, cert: str | None, key: str | None, where: str) -> None:
    """Load what an end that connects believes and shows, and keep nothing; what is None is left out.

    Raises ``CertificateError`` as ``load_pair``.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        load_authorities(context, ca, where)
    if cert is not None:
        load_pair(context, cert, key, where)


def open_key_text(key: str, where: str) -> str:
    """Return what to say of a key that others than its owner may read or change; empty for one that is well kept."""
    try:
        is_open = bool(os.stat(key).st_mode & 0o077)
    except OSError:
        is_open = False  # gone meanwhile, which who loads it says
    return f"{where}: others than its owner may read or change the key {key}: chmod 600 it" if is_open else ""


def _why_not_loaded(error: Exception, cert: str, key: str | None) -> str:
    reason = getattr(error, "reason", "") or ""
    if "KEY_VALUES_MISMATCH" in reason:
        return f"the key {key or cert} is not that of the certificate {cert}"
    where, hint = f"{cert} and {key}", ""
    if key is None:
        where, hint = f"{cert}", "; a key in a file of its own has to be named too, as key"
    return f"{where}: no PEM files of a certificate and its key ({reason or error}){hint}"


def read_certificates(path: str, where: str) -> bytes:
    """Return what the file ``path`` has, whatever that is. Raises ``CertificateError`` as ``load_pair``.

    To be called before OpenSSL reads it: whose own errors leave out the path, and which waits for a FIFO for ever.
    """
    try:
        return _read(path)
    except OSError as error:
        raise CertificateError(f"{where}: {_shown(path)}: {error.strerror}") from None


def _shown(path: str) -> str:
    """Return ``path`` as a line can have it."""
    return path if path.isprintable() else ascii(path)


def _read(path: str) -> bytes:
    """Return what a small plain file has. Raises ``OSError``; waits for nobody."""
    if "\0" in path:
        raise OSError(errno.EINVAL, "a NUL byte, which no path can have: leave it out")
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no plain file")
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise OSError(errno.EFBIG, f"larger than {FILE_BYTES_MAX} bytes: no file of certificates")
    return data


class _EncryptedKey(Exception):
    pass


def _refuse_password() -> str:
    raise _EncryptedKey


# until when


@attrs.frozen
class Validity:
    """From when until when, in seconds since 1970 UTC."""

    begins_s: float
    ends_s: float

    @property
    def begins(self) -> str:
        """The beginning as people write it."""
        return _in_words(self.begins_s)

    @property
    def ends(self) -> str:
        """The end as people write it."""
        return _in_words(self.ends_s)


def _in_words(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%d %H:%M UTC")


def validity_of_own(path: str) -> Validity | None:
    """Return for how long a peer takes what the file ``path`` has: while all certificates of the chain are valid.

    None where there is nothing to be read; what is wrong with such a file is for ``load_pair`` to say.
    """
    found = list(validities(path))
    return Validity(max(each.begins_s for each in found), min(each.ends_s for each in found)) if found else None


def validity_of_authorities(path: str) -> Validity | None:
    """Return for how long any of the authorities in the file ``path`` is valid. None as of ``validity_of_own``."""
    found = list(validities(path))
    return Validity(min(each.begins_s for each in found), max(each.ends_s for each in found)) if found else None


def certificates_in(path: str) -> frozenset[str]:
    """Return the certificates in a PEM file, to be compared; how they are laid out makes no difference.

    ``ssl`` tells only of those of them that may sign others, and believes each. Raises nothing: a file that cannot be
    read has none.
    """
    return frozenset("".join(body.split()) for _, body in _BLOCK.findall(_text_of(path)))


def _text_of(path: str) -> str:
    try:
        return _read(path).decode("ascii", "replace")
    except OSError:
        return ""


def validities(path: str) -> Iterator[Validity]:
    """Iterate over the validity of each certificate in a PEM file; what is none is passed over. Raises nothing."""
    for block in _text_of(path).split(_BEGIN)[1:]:
        body, end, _ = block.partition(_END)
        try:
            if end:
                yield _validity(ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{body}{_END}\n"))
        except (ValueError, IndexError):
            continue


def _validity(der: bytes) -> Validity:
    """Read the dates of a certificate (RFC 5280, section 4.1). Raises ``ValueError``, ``IndexError``.

    Python's ``ssl`` shows them of a peer's certificate only, once there is a connection.
    """
    certificate, _ = _take(der, 0, _SEQUENCE)
    fields, _ = _take(certificate, 0, _SEQUENCE)
    at = _end_of(fields, 0) if fields[0] == _VERSION else 0
    for _ in range(3):  # serial number, signature, issuer
        at = _end_of(fields, at)
    dates, _ = _take(fields, at, _SEQUENCE)
    begins_s, at = _time(dates, 0)
    return Validity(begins_s, _time(dates, at)[0])


def _take(data: bytes, at: int, tag: int) -> tuple[bytes, int]:
    """Return the content of the element at ``at``, and where the next one begins."""
    if data[at] != tag:
        raise ValueError(f"tag {data[at]:#x} where {tag:#x} is to be")
    begin, size = _content(data, at)
    return data[begin : begin + size], begin + size


def _end_of(data: bytes, at: int) -> int:
    begin, size = _content(data, at)
    return begin + size


def _content(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at ``at`` begins, and its size, which the data is long enough for."""
    size, begin = data[at + 1], at + 2
    if size >= 0x80:
        count = size & 0x7F
        size, begin = int.from_bytes(data[begin : begin + count]), begin + count
    if begin + size > len(data):
        raise ValueError("an element beyond the end")
    return begin, size


def _time(data: bytes, at: int) -> tuple[float, int]:
    """Return a time in seconds since 1970, and where the next element begins (RFC 5280, section 4.1.2.5)."""
    is_long = data[at] == _GENERALIZED_TIME
    content, end = _take(data, at, _GENERALIZED_TIME if is_long else _UTC_TIME)
    text = content.decode("ascii")
    if not is_long:
        text = f"{'19' if int(text[:2]) >= 50 else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), end
