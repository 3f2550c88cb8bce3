"""Certificates for development, made with the package ``cryptography``. Must not know of files or the command line.

EC keys on P-256: small, fast, and known to every peer that speaks TLS 1.3.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mqcore.errors import ConfigurationError

__all__ = ["Pair", "check_host", "load_authority", "make_authority", "make_certificate"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ORGANIZATION = "mqcore development"
_EARLIER = datetime.timedelta(hours=1)
"""Certificates are valid from then on: the clocks of two machines differ."""


@attrs.frozen
class Pair:
    """A certificate and its key, both in PEM form too."""

    cert: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def cert_pem(self) -> bytes:
        """The certificate."""
        return self.cert.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The key, not encrypted."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


def make_authority(days: int) -> Pair:
    """Return a new authority, valid for ``days``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("mqcore development authority")
    builder = _builder(name, name, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(is_authority=True), critical=True)
    return Pair(builder.sign(key, hashes.SHA256()), key)


def load_authority(cert_pem: bytes, key_pem: bytes, where: str) -> Pair:
    """Return the authority of these files; ``ConfigurationError`` naming ``where`` if they are of no use."""
    try:
        cert = x509.load_pem_x509_certificate(cert_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{where}: this authority and its key cannot be read: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise ConfigurationError(f"{where}: the key beside it is not this authority's: name another folder")
    return Pair(cert, key)


def make_certificate(authority: Pair, name: str, hosts: Sequence[str], *, days: int, is_server: bool) -> Pair:
    """Return a certificate with the common name ``name``, a server's for loopback and ``hosts`` too.

    Raises ``ConfigurationError`` for a host that is none. It does not outlive the authority.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name), authority.cert.subject, key, days, authority.cert.not_valid_after_utc)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(is_authority=False), critical=True)
    usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if is_server:
        usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        names = [check_host(each) for each in dict.fromkeys((*LOOPBACK, *hosts))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    end: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(until if end is None else min(until, end))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def check_host(text: str, option: str = "--host") -> x509.GeneralName:
    """Return ``text`` as a name in a certificate; ``ConfigurationError`` naming ``option`` when it cannot be one."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        return x509.DNSName(text)
    except ValueError:
        raise ConfigurationError(f"{option} {text!r}: neither an address nor a name in ASCII") from None
