"""Files of certificates: until when they are valid, as another reader of certificates says, and what is wrong."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from mqcore.certificates import (
    load_authorities,
    load_pair,
    validities,
    validity_of_authorities,
    validity_of_own,
)
from mqcore.errors import TransportError

x509 = pytest.importorskip("cryptography.x509")

NOW = datetime.now(UTC).replace(microsecond=0)


def write(path: Path, *certificates: bytes, mode: int = 0o600) -> str:
    path.write_bytes(b"".join(certificates))
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    "ends",
    [NOW + timedelta(days=3), datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC),
     datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2001, 2, 3, tzinfo=UTC)],
)  # fmt: skip
def test_the_dates_are_those_that_another_reader_finds(tmp_path: Path, ends: datetime) -> None:
    """Two spellings of a date there are (RFC 5280, 4.1.2.5): up to 2049, and from 2050 on."""
    begins = min(NOW, ends - timedelta(days=1))
    made = trustme.CA().issue_cert("localhost", not_before=begins, not_after=ends)
    (pem,) = made.cert_chain_pems
    (found,) = validities(write(tmp_path / "one.pem", pem.bytes()))
    read = x509.load_pem_x509_certificate(pem.bytes())
    assert (found.begins_s, found.ends_s) == (
        read.not_valid_before_utc.timestamp(), read.not_valid_after_utc.timestamp(),
    )  # fmt: skip
    assert found.ends_s == ends.timestamp()


def test_a_chain_ends_with_the_first_of_it_and_a_bundle_with_the_last(tmp_path: Path) -> None:
    pems = [
        trustme.CA().issue_cert("localhost", not_after=NOW + timedelta(days=days)).cert_chain_pems[0].bytes()
        for days in (40, 10, 30)
    ]
    path = write(tmp_path / "all.pem", *pems)
    own, bundle = validity_of_own(path), validity_of_authorities(path)
    assert own is not None
    assert bundle is not None
    assert own.ends_s == (NOW + timedelta(days=10)).timestamp()
    assert bundle.ends_s == (NOW + timedelta(days=40)).timestamp()


@pytest.mark.parametrize("size", [0, 1, 5, 20, 60, 200])
def test_what_is_no_certificate_is_passed_over(tmp_path: Path, size: int) -> None:
    der = ssl.PEM_cert_to_DER_cert(trustme.CA().issue_cert("localhost").cert_chain_pems[0].bytes().decode())
    whole = ssl.DER_cert_to_PEM_cert(der).encode()
    half = ssl.DER_cert_to_PEM_cert(der[:size]).encode()
    assert (
        len(list(validities(write(tmp_path / "p.pem", half, b"rubbish\n", whole, b"-----BEGIN CERTIFICATE-----")))) == 1
    )
    assert validity_of_own(str(tmp_path / "is-not-there.pem")) is None


def test_a_key_that_is_encrypted_is_told_and_none_is_asked_for_on_a_terminal(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    made = trustme.CA().issue_cert("localhost")
    key = load_pem_private_key(made.private_key_pem.bytes(), None)
    hidden = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    files = write(tmp_path / "c.pem", made.cert_chain_pems[0].bytes()), write(tmp_path / "k.pem", hidden)
    with pytest.raises(TransportError, match=r"^here: .*k\.pem: the key is encrypted; store it decrypted"):
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *files, "here")


def test_authorities_that_are_no_pem_are_told_with_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "ca.pem", b"no PEM")
    with pytest.raises(TransportError, match=r"^here: .*ca\.pem: no PEM file of certificates"):
        load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), path, "here")
