"""Verbs that ask several nodes say of one that refuses what it said, and not that it gave no answer: real brokers."""

from __future__ import annotations

import json

import pytest

from mqcore.testing import reserve_ports

pytest.importorskip("scramp")

SECRETS = {"node": "a secret of nodes", "alice": "a secret of alice"}


@pytest.fixture(scope="module")
def lines():
    from mqcore_access.users import make_verifier

    return {name: make_verifier(secret).line(name) for name, secret in SECRETS.items()}


class Pair:
    """The nodes ``a`` and ``b`` of one set. ``start`` them, each with its own users and rules."""

    def __init__(self, folder, serve, cli, lines):
        self.folder, self.serve, self.cli, self.lines = folder, serve, cli, lines
        self.coordinator = "manual"
        self.ports = dict(zip("ab", reserve_ports(2), strict=True))
        for name, secret in SECRETS.items():
            self.put(f"{name}.secret", secret)

    def put(self, name, text):
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text + "\n")
        return path

    def start(self, name, *, users=("node", "alice"), operations='"*"', called=None):
        self.put(f"{name}.users", "\n".join(self.lines[user] for user in users))
        nodes = "".join(
            f'[[cluster.sets.nodes]]\nname = "{called or each if each == name else each}"\n'
            f'urls = ["tcp://127.0.0.1:{port}"]\n'
            for each, port in self.ports.items()
        )
        path = self.put(
            f"{name}.toml",
            f"""
            name = "{called or name}"
            storage = "memory://"
            flush = "none"
            [access]
            authenticators = [{{ name = "scram-sha-256", users = "{self.folder}/{name}.users" }}]
            [[access.rules]]
            principal = "user:*"
            resource = "*"
            operations = {operations}
            [access.login]
            user = "node"
            password_file = "{self.folder}/node.secret"
            [cluster]
            replica_timeout = "10 s"
            coordinator = "{self.coordinator}"
            [[cluster.sets]]
            name = "one"
            {nodes}
            """,
        )
        return self.serve("--config", str(path))

    def run(self, *arguments):
        login = ("--user", "alice", "--password-file", self.folder / "alice.secret")
        return self.cli("--server", f"tcp://127.0.0.1:{self.ports['a']}", *login, *arguments)


@pytest.fixture
def pair(tmp_path, serve, cli, lines):
    return Pair(tmp_path, serve, cli, lines)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"users": ("alice",)}, "b refused: the server refused the connection: the login failed"),
        ({"operations": '["manage"]'}, "b refused: user:node may not describe cluster: no rule allows it"),
    ],
    ids=["bad login", "denied"],
)
def test_r14_init_says_what_a_node_said_that_refuses(pair, keys, said):
    pair.coordinator = f"file://{pair.folder}/coordinator"
    pair.start("a")
    pair.start("b", **keys)
    result = pair.run("cluster", "init", "--primary", "a")
    assert result.status != 0
    assert said in result.err
    assert "no answer from b" not in result.err
    recovered = pair.run("cluster", "recover", "a")
    assert said in recovered.err


def test_r14_init_says_that_a_node_is_called_otherwise_and_that_one_is_away(pair):
    pair.start("a")
    away = pair.run("cluster", "init")
    assert "no answer from b (" in away.err
    assert "nothing listens there" in away.err
    pair.start("b", called="x")
    result = pair.run("cluster", "init", "--primary", "a")
    assert f"at tcp://127.0.0.1:{pair.ports['b']}, where b is to be, a node answers that is called 'x'" in result.err


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"users": ("node",)}, "b: it refused: the server refused the connection: the login failed (user 'alice')"),
        ({"operations": '["manage"]'}, "b: it refused: user:alice may not describe cluster: no rule allows it"),
    ],
    ids=["bad login", "denied"],
)
def test_describe_and_status_say_what_a_node_said_that_refuses(pair, keys, said):
    pair.start("a")
    pair.start("b", **keys)
    described = pair.run("cluster", "describe")
    assert described.status == 0
    assert f"{said}\n" in described.out
    assert "no answer" not in described.out
    plain = json.loads(pair.run("cluster", "describe", "--output", "json").out)
    assert plain["sets"][0]["why_silent"] == {"b": said.removeprefix("b: ")}
    asked = pair.run("cluster", "promote", "b")
    assert asked.status != 0
    assert "login failed" not in said or "node 'b': the server refused the connection: the login failed" in asked.err
    status = pair.run("status")
    assert status.status == 4
    assert f"{said}\n" in status.out
    told = [json.loads(line) for line in pair.run("status", "--output", "json").out.splitlines()]
    assert told[1]["why_silent"] == said.removeprefix("b: ")
