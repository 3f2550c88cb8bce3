"""``mqcore user``, ``--user`` and ``--insecure`` as they are typed."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("scramp")


def private(path, text):
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return str(path)


def test_users_are_added_listed_changed_and_deleted(mqcore_command, tmp_path):
    users, secret = str(tmp_path / "users"), private(tmp_path / "secret", "tiger tiger")
    for verb in ("add", "passwd"):
        done = mqcore_command("user", verb, "alice", "--users", users, "--password-file", secret)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"tiger" not in done.stdout
    assert os.stat(users).st_mode & 0o777 == 0o600
    assert "tiger" not in (tmp_path / "users").read_text()
    listed = mqcore_command("user", "list", "--output", "json", MQCORE_USERS_FILE=users)
    assert json.loads(listed.stdout)["users"] == [{"name": "alice", "iterations": 16384}]
    assert sorted(os.listdir(tmp_path)) == ["secret", "users"]
    again = mqcore_command("user", "add", "alice", "--users", users, "--password-file", secret)
    assert (again.returncode, b"has a user 'alice' already" in again.stderr) == (1, True)
    assert mqcore_command("user", "delete", "alice", "--users", users).returncode == 0
    for verb in ("delete", "passwd"):
        gone = mqcore_command("user", verb, "alice", "--users", users)
        assert (gone.returncode, b"has no user 'alice'" in gone.stderr) == (1, True)


@pytest.mark.parametrize("name", ["a b", "a:b", "", "x" * 65, "a\n"])
def test_a_name_that_cannot_be_is_refused(mqcore_command, tmp_path, name):
    secret = private(tmp_path / "secret", "x")
    done = mqcore_command("user", "add", name, "--users", str(tmp_path / "users"), "--password-file", secret)
    assert (done.returncode, b"is no name" in done.stderr) == (2, True)
    assert not (tmp_path / "users").exists()


def test_a_password_is_never_an_argument_and_no_terminal_is_said(mqcore_command, tmp_path):
    done = mqcore_command("user", "add", "alice", "--users", str(tmp_path / "users"))
    assert (done.returncode, b"--password-file or MQCORE_PASSWORD_FILE" in done.stderr) == (2, True)
    done = mqcore_command("user", "add", "alice", "--password", "tiger", "--users", str(tmp_path / "users"))
    assert done.returncode == 2
    os.chmod(private(tmp_path / "secret", "tiger"), 0o644)
    done = mqcore_command(
        "user", "add", "alice", "--users", str(tmp_path / "users"), "--password-file", str(tmp_path / "secret")
    )
    assert (done.returncode, b"chmod 600" in done.stderr, b"tiger" in done.stderr) == (2, True, False)


def test_a_served_broker_knows_its_users(mqcore_command, serve, tmp_path):
    users, secret = str(tmp_path / "users"), private(tmp_path / "secret", "tiger tiger")
    wrong = private(tmp_path / "wrong", "not the one")
    mqcore_command("user", "add", "alice", "--users", users, "--password-file", secret)
    config = tmp_path / "broker.toml"
    config.write_text(
        'storage = "memory://"\nflush = "none"\nlisten = "tcp://127.0.0.1:0"\n[[access.authenticators]]\n'
        f'name = "scram-sha-256"\nusers = "{users}"\n[[access.rules]]\nprincipal = "user:alice"\n'
        'resource = "topic:mine"\noperations = "*"\n'
    )
    served = serve("--config", str(config))
    login = {"MQCORE_SERVER": served.urls[0], "MQCORE_USER": "alice", "MQCORE_PASSWORD_FILE": secret}
    assert mqcore_command("topic", "create", "mine", **login).returncode == 0
    denied = mqcore_command("topic", "create", "other", **login)
    assert (denied.returncode, b"user:alice may not create topic:other" in denied.stderr) == (1, True)
    refused = mqcore_command("topic", "list", "--user", "alice", "--password-file", wrong, "--server", served.urls[0])
    assert (refused.returncode, b"the login failed" in refused.stderr, b"not the one" in refused.stderr) == (
        1,
        True,
        False,
    )
    nobody = mqcore_command("topic", "list", "--server", served.urls[0])
    assert b"has to know who connects" in nobody.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("ping", "--count", "2"),
        ("bench", "publish", "--seconds", "0.1", "--batch", "1", "--in-flight", "1"),
        ("topic", "list"),
        ("group", "list"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_whatever_connects_logs_in(mqcore_command, serve, tmp_path, command):
    users, secret = str(tmp_path / "users"), private(tmp_path / "secret", "tiger tiger")
    mqcore_command("user", "add", "alice", "--users", users, "--password-file", secret)
    config = tmp_path / "broker.toml"
    config.write_text(
        'storage = "memory://"\nflush = "none"\nlisten = "tcp://127.0.0.1:0"\n[[access.authenticators]]\n'
        f'name = "scram-sha-256"\nusers = "{users}"\n[[access.rules]]\nprincipal = "user:alice"\n'
        'resource = "*"\noperations = "*"\n'
    )
    served = serve("--config", str(config))
    login = {"MQCORE_SERVER": served.urls[0], "MQCORE_USER": "alice", "MQCORE_PASSWORD_FILE": secret}
    done = mqcore_command(*command, **login)
    assert done.returncode == 0, done.stderr


def test_listening_elsewhere_without_authentication_is_refused_unless_meant(mqcore_command, serve):
    arguments = ("--storage", "memory://", "--flush", "none", "--listen", "tcp://0.0.0.0:0")
    refused = mqcore_command("serve", *arguments)
    assert (refused.returncode, b"--insecure" in refused.stderr) == (2, True)
    assert serve(*arguments, "--insecure").urls
