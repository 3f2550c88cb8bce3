"""Who a verified certificate says that its holder is, as peers have it. Must not know of connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from mqcore.abc import Peer

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = ["peer_with_certificate"]


def peer_with_certificate(peer: Peer, certificate: bytes | None) -> Peer:
    """Return ``peer`` with subject and names of a certificate (DER); as it is where there is none.

    What the engine has verified and this library cannot read names nobody, which is no reason to be without a link.
    """
    if certificate is None:
        return peer
    from cryptography import x509

    try:
        return _named(peer, x509.load_der_x509_certificate(certificate))
    except ValueError:
        return peer


def _named(peer: Peer, found: Certificate) -> Peer:
    from cryptography import x509

    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return attrs.evolve(peer, tls_subject=found.subject.rfc4514_string() or None)
    texts = [f"DNS:{name}" for name in names.get_values_for_type(x509.DNSName)]
    texts += [f"IP Address:{address}" for address in names.get_values_for_type(x509.IPAddress)]
    return attrs.evolve(peer, tls_subject=found.subject.rfc4514_string() or None, tls_names=tuple(texts))
