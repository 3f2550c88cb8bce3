"""A replica set over mutual TLS, whose nodes show each other certificates as clients do, and one over QUIC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from sets import SetOfNodes

from mqcore.client import Client, connect
from mqcore.errors import NotReachedError, RejectedError
from mqcore.guarantees import Level
from mqcore.ports import system_ports
from mqcore.testing import reserve_ports

pytestmark = pytest.mark.trio
TIMES = {"heartbeat_ms": 200, "replica_timeout_ms": 3_000, "lease_ms": 6_000}
"""A handshake has to fit in, on a machine that does much else."""
THREE = {"flush": "sync", "replication": "sync(copies=3, level=disk)"}


class Certificates:
    """One authority, and who has a certificate of it, in files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.authority = trustme.CA()
        self.ca = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str) -> str:
        path = str(self.folder / f"{name}.pem")
        made = self.authority.issue_cert("127.0.0.1", common_name=name)
        made.private_key_and_cert_chain_pem.write_to_path(path)
        Path(path).chmod(0o600)
        return path


class TlsSet(SetOfNodes):
    """Nodes that listen on ``tls://`` and believe clients and nodes of one authority only; or on ``quic://``.

    No engine of QUIC can ask for a client's certificate.
    """

    def __init__(
        self, nursery: trio.Nursery, root: Path, certificates: Certificates, *, scheme: str = "tls", **keys: Any
    ) -> None:
        tls = {"cert": certificates.issue("node"), "ca": certificates.ca}
        if scheme == "tls":
            tls["client_ca"] = certificates.ca
        self.scheme = scheme
        super().__init__(nursery, root, "abc", "", system_ports, TIMES, "mmap://{dir}", tls=tls, **keys)
        self.certificates = certificates
        self.own = {"ca": certificates.ca}
        if scheme == "tls":
            self.own["cert"] = certificates.issue("client")
        self.places = dict(zip("abc", reserve_ports(3), strict=True))

    def url(self, name: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.places[name]}"

    async def call(self, name: str, operation: str, /, **arguments: Any) -> Any:
        async with connect(self.url(name), **self.own) as client:
            return await client._router.call(operation, arguments, is_repeatable=False)

    @asynccontextmanager
    async def client(self, *names: str) -> AsyncIterator[Client]:
        async with connect(*map(self.url, names or self.names), **self.own) as client:
            yield client


@asynccontextmanager
async def tls_set(root: Path, **keys: Any) -> AsyncIterator[TlsSet]:
    async with trio.open_nursery() as nursery:
        nodes = TlsSet(nursery, root, Certificates(root / "certificates"), **keys)
        yield nodes
        for name in list(nodes.runs):
            await nodes.stop(name)


@pytest.mark.parametrize("scheme", ["tls", "quic"])
async def test_g14_copies_travel_encrypted_and_clients_follow_the_primary(tmp_path: Path, scheme: str) -> None:
    async with tls_set(tmp_path, scheme=scheme, **THREE) as nodes:
        await nodes.start()
        await nodes.init("a")
        async with nodes.client("c") as client:  # which names the primary, at a URL of this scheme
            await client.admin.create_topic("orders", partitions=3)
            async with client.producer("orders") as producer:
                receipts = [await producer.send(b"value %d" % number) for number in range(30)]
        for receipt in receipts:
            assert {copy.node_id for copy in receipt.copies} == {nodes.node(name).store.node_id for name in "abc"}
            assert {copy.level for copy in receipt.copies} == {Level.DISK}
        await nodes.until_same("b", "a", "c")
        assert not [notice.kind for _, notice in nodes.notices if notice.kind.startswith(("tls", "quic", "key"))]


async def test_g10_a_replica_over_quic_that_was_away_is_fed(tmp_path: Path) -> None:
    async with tls_set(tmp_path, scheme="quic", flush="sync", replication="async") as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        await nodes.stop("c")
        async with nodes.client("a") as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                for number in range(30):
                    await producer.send(b"value %d" % number)
        await nodes.start("c")
        await nodes.until_same("c", "a")


async def test_a_client_and_a_node_of_another_authority_are_let_in_by_none(tmp_path: Path) -> None:
    foreign = Certificates(tmp_path / "foreign")
    async with tls_set(tmp_path, flush="sync", replication="async") as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client("a", "b") as client:
            await client.admin.create_topic("orders")
        await nodes.stop("c")
        # It believes the others, and they do not believe it.
        nodes.keys["tls"] = {**nodes.keys["tls"], "cert": foreign.issue("mallory"), "client_ca": foreign.ca}
        await nodes.start("c")
        await nodes.until(
            lambda: any(
                name in "ab" and notice.kind == "tls-handshake-failed" and "its certificate is refused" in notice.text
                for name, notice in nodes.notices
            )
        )
        async with nodes.client("a", "b") as client, client.producer("orders") as producer:
            await producer.send(b"not for mallory")
        assert (await nodes.logs("c")).items() != (await nodes.logs("a")).items()
        with pytest.raises(NotReachedError, match="does not trust who signed"):
            async with connect(nodes.url("a"), ca=nodes.own["ca"], cert=foreign.issue("client")):
                pass


async def test_nodes_and_clients_are_who_their_certificates_say(tmp_path: Path) -> None:
    client_may = [{"principal": "tls:CN=client,*", "resource": "*", "operations": ["*"]}]
    access = {"authenticators": ["tls"], "nodes": ["tls:CN=node,*"], "rules": client_may}
    async with tls_set(tmp_path, access=access, **THREE) as nodes:
        await nodes.start()
        await nodes.init("a")
        async with nodes.client("c") as client:
            await client.admin.create_topic("orders")
            async with client.producer("orders") as producer:
                assert len((await producer.send(b"x")).copies) == 3
        nodes.own["cert"] = nodes.certificates.issue("stranger")
        async with nodes.client("a") as client:
            with pytest.raises(RejectedError, match=r"tls:CN=stranger,.* may not describe topic:orders"):
                await client.admin.describe_topic("orders")


async def test_a_node_that_joins_with_a_renewed_certificate_is_fed(tmp_path: Path) -> None:
    async with tls_set(tmp_path, flush="sync", replication="sync(copies=2, level=disk)") as nodes:
        await nodes.start()
        await nodes.init("a")
        await nodes.until_in_sync("a")
        await nodes.stop("c")
        nodes.certificates.issue("node")  # over the file that all of them name
        await nodes.start("c")
        await nodes.until_in_sync("a")
        async with nodes.client("a") as client:
            assert client.node == "a"
        assert "certificate-loaded" in nodes.kinds("a")
