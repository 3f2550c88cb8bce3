"""Users, passwords and certificates: who may use a coordinator, and that no secret is shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from coordinator_parts import Place, each_of, put
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from mqcore.abc import CellPair
from mqcore.errors import ConfigurationError, CoordinatorUnreachableError
from mqcore_conformance.servers import EtcdServer, PostgresServer, ZookeeperServer

pytestmark = pytest.mark.slow

SECRET, WRONG = "hunter2-right", "hunter3-wrong"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passwords, and certificates for 127.0.0.1 and for another name, with those of their authority and of none."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "right").write_text(f"{SECRET}\n")
    (folder / "wrong").write_text(f"{WRONG}\n")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
    for name, host in (("here", "127.0.0.1"), ("elsewhere", "elsewhere.example")):
        certificate = authority.issue_cert(host)
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        certificate.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        (folder / f"{name}.key").chmod(0o600)
        key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
        pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / f"{name}.both.pem").write_bytes(pkcs8 + certificate.cert_chain_pems[0].bytes())
    return folder


def works(place: Place) -> None:
    async def main() -> None:
        client = place.client()
        pair = await client.write(place.name, CellPair(), record=put(b"r"))
        assert await client.read(place.name) == pair

    place.run(main)


def refused(place: Place, *words: str) -> None:
    """Neither reads nor writes; says why in one line, without any secret."""

    async def main() -> None:
        client = place.client(2_000)
        for call in (client.read(place.name), client.write(place.name, CellPair(), record=put(b"r"))):
            with pytest.raises(CoordinatorUnreachableError) as caught:
                await call
            text = str(caught.value)
            assert all(word in text for word in words), text
            assert "\n" not in text
            error: BaseException | None = caught.value
            while error is not None:
                assert SECRET not in repr(error)
                assert WRONG not in repr(error)
                error = error.__cause__
        assert SECRET not in repr(client)

    place.run(main)


@pytest.fixture(scope="module")
def etcd(files: Path) -> Iterator[EtcdServer]:
    """Speaks TLS; root and mqcore have the right password, and mqcore may use one prefix."""
    server = EtcdServer(certificate=(files / "here.pem", files / "here.key"))
    with server:
        server.call("/v3/auth/user/add", {"name": "root", "password": SECRET})
        server.call("/v3/auth/user/grant", {"user": "root", "role": "root"})
        server.call("/v3/auth/user/add", {"name": "mqcore", "password": SECRET})
        server.call("/v3/auth/role/add", {"name": "mqcore"})
        range_ = {"permType": "READWRITE", "key": "bXFjb3JlLw==", "range_end": "bXFjb3JlMA=="}  # mqcore/ to mqcore0
        server.call("/v3/auth/role/grant", {"name": "mqcore", "perm": range_})
        server.call("/v3/auth/user/grant", {"user": "mqcore", "role": "mqcore"})
        server.call("/v3/auth/enable", {})
        yield server


@pytest.mark.needs("etcd")
def test_etcd_by_user_and_password_over_tls(etcd: EtcdServer, files: Path) -> None:
    tls = f"?tls=true&ca_file={files}/ca.pem"
    user = f"&user=mqcore&password_file={files}/right"
    works(Place("etcd", [etcd], tls + user))
    refused(Place("etcd", [etcd], f"{tls}&user=mqcore&password_file={files}/wrong"), "invalid user ID or password")
    refused(Place("etcd", [etcd], tls), "user and password_file")
    refused(Place("etcd", [etcd], f"?tls=true&ca_file={files}/stranger.pem{user}"), "certificate")
    refused(Place("etcd", [etcd], tls + user, path="other"), "permission denied")


@pytest.mark.needs("etcd")
def test_etcd_with_a_certificate_of_another_name_is_not_believed(files: Path) -> None:
    with EtcdServer(certificate=(files / "elsewhere.pem", files / "elsewhere.key")) as server:
        refused(Place("etcd", [server], f"?tls=true&ca_file={files}/ca.pem"), "certificate", "127.0.0.1")


@pytest.mark.needs("zookeeper")
def test_zookeepers_nodes_belong_to_the_user_who_made_them(files: Path) -> None:
    with ZookeeperServer() as server:
        works(Place("zookeeper", [server], f"?user=mqcore&password_file={files}/right"))
        refused(
            Place("zookeeper", [server], f"?user=mqcore&password_file={files}/wrong", name="sets/x"), "not permitted"
        )
        refused(Place("zookeeper", [server], name="sets/x"), "not permitted")


@pytest.mark.needs("zookeeper")
def test_zookeeper_over_tls_whose_name_is_verified(files: Path) -> None:
    for name in ("here", "elsewhere"):
        with ZookeeperServer(certificate=(files / f"{name}.both.pem", files / "ca.pem")) as server:
            place = Place("zookeeper", [], f"?tls=true&ca_file={files}/ca.pem", port=server.secure_port)
            if name == "here":
                works(place)
                refused(Place("zookeeper", [server], f"?tls=true&ca_file={files}/ca.pem"), "connection")
            else:
                refused(place, "certificate", "127.0.0.1")


@pytest.fixture(scope="module")
def postgres(files: Path) -> Iterator[PostgresServer]:
    """Speaks TLS and asks for a password."""
    server = PostgresServer(
        settings={"fsync": "off", "ssl": "on", "ssl_cert_file": "../here.pem", "ssl_key_file": "../here.key"},
        password=SECRET,
    )
    for name in ("here.pem", "here.key"):
        shutil.copy(files / name, server.folder)
        if server.user is not None:
            shutil.chown(server.folder / name, server.user, server.user)
    with server:
        yield server


@pytest.mark.needs("postgres")
def test_postgres_by_password_over_tls_whose_name_is_verified(postgres: PostgresServer, files: Path) -> None:
    def query(tls: str, password: str) -> str:
        return f"?user=postgres&password_file={files}/{password}{tls}"

    verified = f"&ca_file={files}/ca.pem"
    works(Place("postgres", [postgres], query(verified, "right")))
    refused(Place("postgres", [postgres], query(verified, "wrong")), "password authentication failed")
    refused(Place("postgres", [postgres], query(f"&ca_file={files}/stranger.pem", "right")), "certificate")
    refused(Place("postgres", [postgres], query("", "right")), "certificate")  # the system's authorities
    works(Place("postgres", [postgres], query("&tls=disable", "right")))


@pytest.mark.needs("postgres")
def test_postgres_with_a_certificate_of_another_name_is_not_believed(files: Path, tmp_path: Path) -> None:
    server = PostgresServer(
        settings={"fsync": "off", "ssl": "on", "ssl_cert_file": "../elsewhere.pem", "ssl_key_file": "../elsewhere.key"}
    )
    for name in ("elsewhere.pem", "elsewhere.key"):
        shutil.copy(files / name, server.folder)
        if server.user is not None:
            shutil.chown(server.folder / name, server.user, server.user)
    with server:
        refused(Place("postgres", [server], f"?user=postgres&ca_file={files}/ca.pem"), "elsewhere.example")


@pytest.mark.parametrize("scheme", each_of("etcd", "zookeeper"))
@pytest.mark.parametrize("option", ["user=me", "password_file=/dev/null"])
def test_a_user_without_a_password_is_refused_when_the_part_is_composed(scheme: str, option: str) -> None:
    with pytest.raises(ConfigurationError):
        Place(scheme, [], f"?{option}").client()
