"""Certificates and keys, read from files and read again when those change. Must not know of sockets."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TypeVar

from mqcore.abc import Notice, TlsOptions
from mqcore.certificates import certificates_in, load_authorities, load_pair
from mqcore.errors import CertificateError
from mqcore.followed import FollowedFiles

__all__ = ["ServerContext", "client_context", "followed", "server_context"]

C = TypeVar("C", bound=ssl.SSLContext)


class ServerContext(ssl.SSLContext):
    """A listener's; ``believed`` are the certificates by which clients are, none where no client is asked for one."""

    believed: frozenset[str] = frozenset()


def server_context(files: TlsOptions, url: str) -> ServerContext:
    """Return what a listener at ``url`` shakes hands with. Raises ``CertificateError`` naming file and remedy."""
    if files.cert is None:
        raise CertificateError(
            f"cannot listen {url}: no certificate; give --tls-cert and --tls-key "
            "('mqcore cert dev --to DIR' makes some)",
        )
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # A ticket would let a client come back without its certificate being looked at again.
    context.num_tickets = 0
    load_pair(context, files.cert, files.key, url)
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        # Before they are loaded: of a file that changes in between, what is gone is seen to go at the next look.
        context.believed = certificates_in(files.client_ca)
        load_authorities(context, files.client_ca, url)
    return context


def client_context(files: TlsOptions, url: str) -> ssl.SSLContext:
    """Return what a connection to ``url`` shakes hands with. Raises ``CertificateError`` as ``server_context``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if files.ca is not None:
        load_authorities(context, files.ca, url)
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if files.cert is not None:
        load_pair(context, files.cert, files.key, url)
    return context


def followed(
    make: Callable[[TlsOptions, str], C], files: TlsOptions, url: str, report: Callable[[Notice], None]
) -> FollowedFiles[C]:
    """Return what ``make`` makes of ``files``, and makes again when they change."""
    paths = [path for path in (files.cert, files.key, files.ca, files.client_ca) if path is not None]
    return FollowedFiles(lambda: make(files, url), paths, url, report, key=files.key or files.cert)
