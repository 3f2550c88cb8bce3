"""A set of real nodes that log in to one another, and to which nobody else may say what only nodes say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from sets import set_of_nodes
from test_replica_set import SYNC, read_all, send_all
from virtual_time import in_virtual_time

from mqcore.abc import Secret
from mqcore.errors import CommandNotPossibleError, RejectedError, RemoteProtocolError
from mqcore.logins import transport_as
from mqcore.protocol import VERSION_MAX, VERSION_MIN, Fatal, Follow, FollowRole, FollowStream
from mqcore.registry import create_transport

pytest.importorskip("scramp")

NODE_PASSWORD = "a password of nodes"
USER_PASSWORD = "a password of users"


@pytest.fixture(scope="module")
def lines() -> list[str]:
    from mqcore_access.users import make_verifier

    return [make_verifier(NODE_PASSWORD).line("node"), make_verifier(USER_PASSWORD).line("alice")]


def access_in(root: Path, lines: list[str], *, login: bool = True) -> dict[str, Any]:
    for name, text in (("users", "\n".join(lines)), ("password", NODE_PASSWORD)):
        (root / name).touch(mode=0o600)
        (root / name).write_text(text + "\n")
    table: dict[str, Any] = {
        "authenticators": [{"name": "scram-sha-256", "users": str(root / "users")}],
        "nodes": ["user:node"],
        "rules": [
            {"principal": "user:alice", "resource": "topic:*", "operations": ["*"]},
            {"principal": "user:alice", "resource": "cluster", "operations": ["manage", "describe"]},
        ],
    }
    if login:
        table["login"] = {"user": "node", "password_file": str(root / "password")}
    return table


ALICE = {"user": "alice", "password": Secret(USER_PASSWORD)}


@in_virtual_time
async def test_nodes_log_in_to_one_another_and_what_is_acknowledged_is_on_both(
    tmp_path: Path, lines: list[str]
) -> None:
    patient = {"replica_timeout_ms": 5_000}  # a login costs the processor as long as some machines are asked for
    async with set_of_nodes(
        tmp_path, prefix="auth", access=access_in(tmp_path, lines), cluster=patient, **SYNC
    ) as nodes:
        nodes.login = ALICE
        await nodes.start()
        await nodes.init("a")
        async with nodes.client() as client:
            await client.admin.create_topic("orders")
            await send_all(client, "orders", [b"1", b"2"])
            assert await read_all(client, "orders", 2) == [b"1", b"2"]
        await nodes.until_same("a", "b")
        await nodes.call("a", "set.switchover", to="b")
        async with nodes.client() as client:
            await send_all(client, "orders", [b"3"])


@in_virtual_time
async def test_a_node_without_a_login_is_not_followed_and_says_why(tmp_path: Path, lines: list[str]) -> None:
    async with set_of_nodes(tmp_path, prefix="auth2", access=access_in(tmp_path, lines, login=False)) as nodes:
        nodes.login = ALICE
        await nodes.start("a")
        await nodes.start("b")
        with pytest.raises(CommandNotPossibleError, match=r"b refused: .* has to know who connects") as caught:
            await nodes.init("a", once=True)
        assert "no answer" not in str(caught.value)
        reasons = [notice.text for _, notice in nodes.notices if notice.kind == "peer-refuses"]
        assert any("has to know who connects" in reason for reason in reasons)


@in_virtual_time
async def test_a_replica_whose_user_is_gone_is_sent_nothing_more(tmp_path: Path, lines: list[str]) -> None:
    limits = {"handshake_timeout": "400 ms"}
    async with set_of_nodes(
        tmp_path, prefix="auth4", access=access_in(tmp_path, lines), limits=limits, **SYNC
    ) as nodes:
        nodes.login = ALICE
        await nodes.start()
        await nodes.init("a")
        reign = nodes.node("a").reign
        assert reign is not None
        assert reign.set is not None
        feeders = reign.set._feeders
        await nodes.until(lambda: feeders)
        (tmp_path / "users").write_text(lines[1] + "\n")
        await nodes.until(lambda: not feeders and "login-ended" in nodes.kinds("a"))


@in_virtual_time
async def test_a_user_who_is_no_node_may_not_follow(tmp_path: Path, lines: list[str]) -> None:
    from mqcore.abc import Credentials
    from mqcore.guarantees import Level

    async with set_of_nodes(tmp_path, prefix="auth3", access=access_in(tmp_path, lines), **SYNC) as nodes:
        nodes.login = ALICE
        await nodes.start()
        await nodes.init("a")
        store = nodes.node("a").store
        credentials = Credentials(user="alice", password=Secret(USER_PASSWORD))
        machine = FollowStream(
            FollowRole.FOLLOWER, set_id=store.set_id, epoch=store.epoch, logs_max=4, frame_bytes_max=1 << 20
        )
        fields = (store.set_id, bytes(16), 1, bytes(16), store.epoch, Level.DISK, 1 << 20, 1 << 20, "thief")
        async with await transport_as(credentials, create_transport(nodes.url("a"))).connect() as link:
            stream = await link.open_stream()
            await stream.send_buffers(machine.send(Follow(VERSION_MIN, VERSION_MAX, *fields)))
            with trio.fail_after(120):
                while (message := machine.next_message()) is None:
                    machine.received(await stream.receive_into(machine.receive_buffer()))
        assert isinstance(message, Fatal)
        assert message.text == "user:alice may not replicate cluster: no rule allows it"
        assert [notice.facts["operation"] for _, notice in nodes.notices if notice.kind == "access-denied"] == [
            "replicate"
        ]
        with pytest.raises(RejectedError, match="user:alice may not replicate cluster"):
            await nodes.call("a", "topic.place", topics=[])
        nodes.login = {}
        with pytest.raises(RemoteProtocolError, match="has to know who connects"):
            await nodes.call("a", "set.describe")
