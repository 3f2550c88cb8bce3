"""The contract checks of ``mqcore.testing`` on the parts of this repository, and on some that break them."""

from __future__ import annotations

import pytest
from guarded import PASSWORD, private

from mqcore.abc import AccessContext, AccessRule, Authorizer, Credentials, Decision, LoginServer, Proof, Secret
from mqcore.registry import create_authenticator, create_authorizer
from mqcore.testing import check_authenticator, check_authorizer

TOKEN = Credentials(token=Secret("t" * 20))
ANOTHER = Credentials(token=Secret("u" * 20))


@pytest.fixture
def token(tmp_path):
    part = create_authenticator("token", AccessContext(), {"tokens": private(tmp_path / "t", f"me {'t' * 20}\n")})
    part.open()
    return part


def test_scram_keeps_its_contract(users):
    part = create_authenticator("scram-sha-256", AccessContext(), {"users": users})
    part.open()

    def client(name, password):
        return lambda: part.client(Credentials(user=name, password=Secret(password)))

    for impostor in (client("alice", "wrong"), client("nobody", PASSWORD)):
        check_authenticator(part, client("alice", PASSWORD), impostor, principal="user:alice")


def test_token_keeps_its_contract(token):
    check_authenticator(token, lambda: token.client(TOKEN), lambda: token.client(ANOTHER), principal="token:me")


def test_one_that_lets_everybody_in_is_found_out(token, monkeypatch):
    class Open(LoginServer):
        def answer(self, response):
            return Proof("token:me")

    monkeypatch.setattr(token, "begin_login", lambda peer: Open())
    with pytest.raises(AssertionError, match="an impostor is let in"):
        check_authenticator(token, lambda: token.client(TOKEN), lambda: token.client(ANOTHER), principal="token:me")


def test_one_that_never_decides_is_found_out(token, monkeypatch):
    class Endless(LoginServer):
        def answer(self, response):
            return b"go on"

    monkeypatch.setattr(token, "begin_login", lambda peer: Endless())
    client = type("Client", (), {"begin": lambda self: b"", "answer": lambda self, challenge: b""})
    with pytest.raises(AssertionError, match="no end after 8 turns"):
        check_authenticator(token, client, client, principal="token:me")


def test_rules_keep_their_contract():
    part = create_authorizer("rules", (AccessRule(principal="user:a", resource="topic:t", operations=("produce",)),))
    check_authorizer(part, ("user:a", "produce", "topic:t"), ("user:a", "delete", "topic:t"))


class Fickle(Authorizer):
    def decide(self, principal, operation, resource):
        self.version += 1
        return Decision(self.version % 2 == 1, "a coin")


class Silent(Authorizer):
    def decide(self, principal, operation, resource):
        return Decision(operation == "produce", "")


@pytest.mark.parametrize(("part", "text"), [(Fickle, "otherwise the second time"), (Silent, "names no rule")])
def test_an_authorizer_that_breaks_its_contract_is_found_out(part, text):
    with pytest.raises(AssertionError, match=text):
        check_authorizer(part("x", None, (), AccessContext()), ("a", "produce", "topic:t"), ("a", "delete", "topic:t"))
