"""Nodes that are tied to principals: nobody follows as a node who is not that node, by scram and over mutual TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import SetOfNodes, set_of_nodes
from test_replica_set import SYNC, send_all
from test_replica_set_tls import Certificates, TlsSet
from virtual_time import in_virtual_time

from mqcore.abc import Credentials, Notice, Secret
from mqcore.config import ClusterTable, NodeTable, SetTable, make_config
from mqcore.errors import ConfigurationError
from mqcore.guarantees import Level
from mqcore.logins import transport_as
from mqcore.protocol import VERSION_MAX, VERSION_MIN, Code, Fatal, Follow, FollowRole, FollowStream
from mqcore.registry import create_transport

PASSWORD = "a password of nodes"


def table(**principals: str | None) -> ClusterTable:
    nodes = tuple(
        NodeTable(name=name, urls=(f"inproc://{name}",), principal=principal) for name, principal in principals.items()
    )
    return ClusterTable(sets=(SetTable(name="one", nodes=nodes),))


@pytest.mark.parametrize(
    ("name", "principal", "why"),
    [
        ("b", "user:b", None),
        ("b", "user:c", "node b is user:b, and user:c wants to follow as it: have that node come as user:b"),
        ("c", "user:c", None),
        ("c", "user:b", "user:b is node b, and wants to follow as node c: name it as principal of that one"),
        ("unknown", "user:c", None),
        ("unknown", "user:b", "user:b is node b, and wants to follow as node unknown"),
    ],
)
def test_a_tied_node_is_one_principal_and_that_principal_no_other_node(
    name: str, principal: str, why: str | None
) -> None:
    found = table(a="user:a", b="user:b", c=None).why_not(name, principal)
    assert (found is None) == (why is None)
    assert why is None or why in str(found)


def test_nodes_may_share_a_principal_and_without_any_all_is_open() -> None:
    shared = table(a="user:nodes", b="user:nodes")
    assert shared.why_not("a", "user:nodes") is shared.why_not("b", "user:nodes") is None
    assert table(a=None, b=None).why_not("b", "user:anybody") is None


@pytest.mark.parametrize("principal", ["", "b", ":b", "user:"])
def test_a_principal_that_nobody_can_have_is_refused_by_name(principal: str) -> None:
    with pytest.raises(ConfigurationError, match=r"node 'b': principal = .*: write KIND:NAME"):
        table(b=principal)


def test_g18_a_principal_that_nothing_is_held_against_is_refused() -> None:
    nodes = [{"name": "a", "urls": ["inproc://a"], "principal": "user:a"}]
    keys: dict[str, Any] = {"name": "a", "storage": "memory://", "listen": "inproc://a"}
    cluster = {"sets": [{"name": "one", "nodes": nodes}]}
    for access in ({}, {"access": {"rules": []}}):
        with pytest.raises(ConfigurationError, match="node 'a' has a principal, which nothing is held against"):
            make_config(**keys, **access, cluster=cluster)


# by scram


@pytest.fixture(scope="module")
def lines() -> list[str]:
    pytest.importorskip("scramp")
    from mqcore_access.users import make_verifier

    verifier = make_verifier(PASSWORD)
    return [verifier.line(name) for name in ("node-a", "node-b", "node-c", "admin")]


def access_of(root: Path, lines: list[str], user: str) -> dict[str, Any]:
    for name, text in (("users", "\n".join(lines)), ("password", PASSWORD)):
        (root / name).touch(mode=0o600)
        (root / name).write_text(text + "\n")
    return {
        "authenticators": [{"name": "scram-sha-256", "users": str(root / "users")}],
        "nodes": ["user:node-*"],
        "rules": [{"principal": "user:admin", "resource": "*", "operations": ["*"]}],
        "login": {"user": user, "password_file": str(root / "password")},
    }


async def start_as(nodes: SetOfNodes, root: Path, lines: list[str], name: str, user: str) -> None:
    nodes.keys["access"] = access_of(root, lines, user)
    await nodes.start(name)


def denied(nodes: SetOfNodes) -> list[Notice]:
    return [notice for _, notice in nodes.notices if notice.kind == "access-denied"]


PATIENT = {"replica_timeout_ms": 5_000}
"""A login costs the processor as long as some machines are asked for."""


@in_virtual_time
async def test_who_is_another_node_does_not_follow_and_both_ends_say_why(tmp_path: Path, lines: list[str]) -> None:
    async with set_of_nodes(tmp_path, prefix="tied", cluster=PATIENT, **SYNC) as nodes:
        nodes.login = {"user": "admin", "password": Secret(PASSWORD)}
        nodes.principals = {"a": "user:node-a", "b": "user:node-b"}
        await start_as(nodes, tmp_path, lines, "a", "node-a")
        await start_as(nodes, tmp_path, lines, "b", "node-b")
        await nodes.init("a")
        await nodes.until_in_sync("a")
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            await send_all(client, "orders", [b"1"])
        assert not denied(nodes)
        await nodes.stop("b")
        await start_as(nodes, tmp_path, lines, "b", "node-c")
        told = "node b is user:node-b, and user:node-c wants to follow as it: have that node come as user:node-b"
        await nodes.until(lambda: any(kind == "following-interrupted" for kind in nodes.kinds("b")), 120)
        (first, *_) = denied(nodes)
        assert first.text.startswith(told)
        assert first.facts == {
            "principal": "user:node-c", "operation": "replicate", "resource": "cluster", "node": "b",
            "address": first.facts["address"],
        }  # fmt: skip
        assert any(told in notice.text for name, notice in nodes.notices if name == "b")
        reign = nodes.node("a").reign
        assert reign is not None
        assert reign.set is not None
        assert reign.set.lag_of(nodes.node("b").store.node_id) is None, "it does not follow"


@in_virtual_time
@pytest.mark.parametrize("shown", ["the name", "the id", "neither"])
async def test_who_replicates_stands_in_for_no_tied_node_by_name_or_by_id(
    tmp_path: Path, lines: list[str], shown: str
) -> None:
    """What counts in the set is the id of a node: it is held against whose it is in the record."""
    async with set_of_nodes(tmp_path, prefix=f"stolen-{len(shown)}", cluster=PATIENT, **SYNC) as nodes:
        nodes.login = {"user": "admin", "password": Secret(PASSWORD)}
        nodes.principals = {"b": "user:node-b"}
        await start_as(nodes, tmp_path, lines, "a", "node-a")
        await start_as(nodes, tmp_path, lines, "b", "node-b")
        await nodes.init("a")
        await nodes.until_in_sync("a")
        store, victim = nodes.node("a").store, nodes.node("b").store.node_id
        machine = FollowStream(
            FollowRole.FOLLOWER, set_id=store.set_id, epoch=store.epoch, logs_max=4, frame_bytes_max=1 << 20
        )
        node_id = victim if shown == "the id" else bytes(15) + b"\x07"
        name = "b" if shown == "the name" else "c"
        fields = (store.set_id, node_id, 1, bytes(16), store.epoch, Level.DISK, 1 << 20, 1 << 20, name)
        thief = Credentials(user="node-c", password=Secret(PASSWORD))
        async with await transport_as(thief, create_transport(nodes.url("a"))).connect() as link:
            stream = await link.open_stream()
            await stream.send_buffers(machine.send(Follow(VERSION_MIN, VERSION_MAX, *fields)))
            with trio.fail_after(120):
                while (message := machine.next_message()) is None:
                    machine.received(await stream.receive_into(machine.receive_buffer()))
        assert isinstance(message, Fatal)
        if shown == "neither":
            assert "is not in the set" in message.text, (
                "an open node's name, and an id of nobody: it counts for nothing"
            )
            assert not denied(nodes)
            return
        assert message.code == Code.ACCESS_DENIED
        assert message.text.startswith("node b is user:node-b, and user:node-c wants to follow as it")
        assert [notice.facts["node"] for notice in denied(nodes)] == ["b"]


# over mutual TLS


@pytest.mark.trio
async def test_over_mutual_tls_a_node_is_its_certificate(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        certificates = Certificates(tmp_path / "certificates")
        rules = [{"principal": "tls:*CN=client*", "resource": "*", "operations": ["*"]}]
        access = {"authenticators": ["tls"], "nodes": ["tls:*CN=node-*"], "rules": rules}
        nodes = TlsSet(nursery, tmp_path, certificates, flush="sync", replication="async", access=access)
        nodes.names = ["a", "b"]
        own = {name: certificates.issue(f"node-{name}") for name in "abc"}
        nodes.principals = {name: f"tls:{subject_in(own[name])}" for name in "ab"}

        async def start(name: str, certificate: str) -> None:
            nodes.keys["tls"] = {**nodes.keys["tls"], "cert": own[certificate]}
            await nodes.start(name)

        await start("a", "a")
        await start("b", "b")
        await nodes.init("a")
        await nodes.until_in_sync("a")
        assert not denied(nodes)
        await nodes.stop("b")
        await start("b", "c")
        await nodes.until(lambda: denied(nodes), 120)
        assert denied(nodes)[0].text.startswith(
            f"node b is {nodes.principals['b']}, and tls:{subject_in(own['c'])} wants to follow as it"
        )
        for name in list(nodes.runs):
            await nodes.stop(name)


def subject_in(path: str) -> str:
    from cryptography import x509

    return x509.load_pem_x509_certificates(Path(path).read_bytes())[0].subject.rfc4514_string()
