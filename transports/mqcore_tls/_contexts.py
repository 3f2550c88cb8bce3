"""Certificates and keys, read from files and read again when those change. Must not know of sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from mqcore.abc import Notice, TlsOptions
from mqcore.errors import TransportError
from mqcore.followed import FollowedFiles

__all__ = ["client_context", "followed", "server_context"]


def server_context(files: TlsOptions, url: str) -> ssl.SSLContext:
    """Return what a listener at ``url`` shakes hands with. Raises ``TransportError`` naming the file and the remedy."""
    if files.cert is None:
        raise TransportError(
            f"cannot listen {url}: no certificate; give --tls-cert and --tls-key "
            "('mqcore cert dev --to DIR' makes some)",
            retryable=False,
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A ticket would let a client come back without its certificate being looked at again.
    context.num_tickets = 0
    _load_own(context, files, url)
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, files.client_ca, url)
    return context


def client_context(files: TlsOptions, url: str) -> ssl.SSLContext:
    """Return what a connection to ``url`` shakes hands with. Raises ``TransportError`` as ``server_context``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if files.ca is not None:
        _load_authorities(context, files.ca, url)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if files.cert is not None:
        _load_own(context, files, url)
    return context


def _load_own(context: ssl.SSLContext, files: TlsOptions, url: str) -> None:
    assert files.cert is not None
    for path in (files.cert, files.key):
        if path is not None:
            _check_readable(path, url)
    try:
        # Without a password to give, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(files.cert, files.key, password=_refuse_password)
    except _EncryptedKey:
        text = f"{files.key or files.cert}: the key is encrypted; store it decrypted, readable by the broker only"
        raise TransportError(f"{url}: {text}", retryable=False) from None
    except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
        raise TransportError(f"{url}: {_why_not_loaded(error, files)}", retryable=False) from None


def _why_not_loaded(error: Exception, files: TlsOptions) -> str:
    reason = getattr(error, "reason", "") or ""
    if "KEY_VALUES_MISMATCH" in reason:
        return f"the key {files.key or files.cert} is not that of the certificate {files.cert}"
    where, hint = f"{files.cert} and {files.key}", ""
    if files.key is None:
        where, hint = f"{files.cert}", "; a key in a file of its own has to be named too, as key"
    return f"{where}: no PEM files of a certificate and its key ({reason or error}){hint}"


def _load_authorities(context: ssl.SSLContext, path: str, url: str) -> None:
    _check_readable(path, url)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", "") or error
        raise TransportError(f"{url}: {path}: no PEM file of certificates ({reason})", retryable=False) from None


def _check_readable(path: str, url: str) -> None:
    """OpenSSL's own errors leave out the path."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise TransportError(f"{url}: {path}: {error.strerror}", retryable=False) from None


class _EncryptedKey(Exception):
    pass


def _refuse_password() -> str:
    raise _EncryptedKey


def followed(
    make: Callable[[TlsOptions, str], ssl.SSLContext], files: TlsOptions, url: str, report: Callable[[Notice], None]
) -> FollowedFiles[ssl.SSLContext]:
    """Return what ``make`` makes of ``files``, and makes again when they change."""
    paths = [path for path in (files.cert, files.key, files.ca, files.client_ca) if path is not None]
    return FollowedFiles(lambda: make(files, url), paths, url, report, key=files.key or files.cert)
