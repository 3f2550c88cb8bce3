"""Files of certificates: until when they are valid, as another reader of certificates says, and what is wrong."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
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


LOOK = """
import ssl, sys
from mqcore.abc import TlsOptions
from mqcore.certificates import certificates_in, load_authorities, load_pair, validities
from mqcore.errors import TransportError
from mqcore_quic._config import QuicOptions
from mqcore_quic._engine import client_configuration
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
for path in sys.argv[1:]:
    print(len(list(validities(path))), len(certificates_in(path)))
    for load in (
        lambda: load_pair(context, path, None, "here"),
        lambda: load_authorities(context, path, "here"),
        lambda: client_configuration(QuicOptions(), TlsOptions(ca=path), "here", "localhost"),
    ):
        try:
            load()
        except TransportError as error:
            print(error)
"""


def test_what_is_no_plain_file_or_too_large_for_one_is_told_and_waited_for_by_nobody(tmp_path: Path) -> None:
    fifo, held, large = (str(tmp_path / name) for name in ("fifo", "held", "large"))
    os.mkfifo(fifo)
    os.mkfifo(held)
    write(tmp_path / "large")
    os.truncate(large, 1 << 30)
    writer = os.open(held, os.O_RDWR)  # it could say something, and does not
    paths = [fifo, held, "/dev/zero", str(tmp_path), large]
    command = [sys.executable, "-c", LOOK, *paths]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    finally:
        os.close(writer)
    whys = ["no plain file"] * 3 + ["Is a directory", "larger than 4194304 bytes: no file of certificates"]
    told = [["0 0", *[f"here: {path}: {why}"] * 3] for path, why in zip(paths, whys, strict=True)]
    assert done.stdout.splitlines() == [line for lines in told for line in lines]
