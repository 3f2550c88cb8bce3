"""The parts that say who a peer is: each login by itself, without a broker."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest

from mqcore.abc import (
    AccessContext,
    Credentials,
    LoginRefusedError,
    LoginServer,
    Notice,
    Peer,
    Proof,
    Secret,
    read_credentials,
)
from mqcore.client._options import ClientOptions
from mqcore.errors import ConfigurationError
from mqcore.registry import create_authenticator, find, structure_options

PEER = Peer(address="127.0.0.1:4000")
PASSWORD = "correct horse battery staple"


def private(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def line() -> str:
    pytest.importorskip("scramp")
    from mqcore_access.users import make_verifier

    return make_verifier(PASSWORD).line("alice")


@pytest.fixture
def scram(tmp_path: Path, line: str):
    part = create_authenticator("scram-sha-256", AccessContext(), {"users": private(tmp_path / "users", line + "\n")})
    part.open()
    return part


def client(user: str = "alice", password: str = PASSWORD):
    return find("authenticators", "scram-sha-256").client(Credentials(user=user, password=Secret(password)))


def begun(scram) -> tuple[LoginServer, bytes, bytes]:
    """Return a server, and the two responses of a login that it would take."""
    server, prover = scram.begin_login(PEER), client()
    first = prover.begin()
    challenge = server.answer(first)
    assert isinstance(challenge, bytes)
    return server, first, prover.answer(challenge)


def test_a_password_proves_both_sides(scram) -> None:
    server, prover = scram.begin_login(PEER), client()
    proof = server.answer(prover.answer(server.answer(prover.begin())))
    assert proof == Proof("user:alice", proof.data)
    prover.finish(proof.data)


def test_a_login_that_was_recorded_is_worthless(scram) -> None:
    server, first, final = begun(scram)
    assert isinstance(server.answer(final), Proof)
    again = scram.begin_login(PEER)
    again.answer(first)
    with pytest.raises(LoginRefusedError):
        again.answer(final)
    with pytest.raises(LoginRefusedError):
        server.answer(final)  # and on the same login


@pytest.mark.parametrize(("user", "why"), [("alice", "wrong password"), ("nobody", "there is no such user")])
def test_the_operator_reads_what_was_wrong_with_a_login(scram, user: str, why: str) -> None:
    prover = client(user, "another password")
    server = scram.begin_login(PEER)
    with pytest.raises(LoginRefusedError, match=f"^{why}$"):
        server.answer(prover.answer(server.answer(prover.begin())))
    assert server.user == user


def test_an_unknown_user_has_a_salt_of_its_own_that_stays(scram) -> None:
    def salt_of(user: str) -> bytes:
        challenge = scram.begin_login(PEER).answer(client(user).begin())
        assert isinstance(challenge, bytes)
        return challenge.split(b",")[1]

    assert salt_of("nobody") == salt_of("nobody")
    assert len({salt_of("nobody"), salt_of("noone"), salt_of("alice")}) == 3
    assert len(salt_of("nobody")) == len(salt_of("alice"))


def test_an_unknown_user_is_answered_with_rounds_and_a_salt_as_some_user_has_them(tmp_path: Path, line: str) -> None:
    def challenge_to(part, user: str) -> list[bytes]:
        answer = part.begin_login(PEER).answer(client(user).begin())
        assert isinstance(answer, bytes)
        return answer.split(b",")[1:]

    keys = line.rpartition("$")[2]
    foreign = f"bob:SCRAM-SHA-256$4096:{'AAAA' * 8}${keys}\n"  # as other programs make them: 24 bytes of salt
    part = create_authenticator("scram-sha-256", AccessContext(), {"users": private(tmp_path / "users", foreign)})
    part.open()
    known, unknown = challenge_to(part, "bob"), challenge_to(part, "rob")
    assert known[1] == unknown[1] == b"i=4096"
    assert len(known[0]) == len(unknown[0])
    private(tmp_path / "users", f"{line}\n{foreign}")
    found = {challenge_to(part, f"user{number}")[1] for number in range(40)}
    assert found == {b"i=4096", b"i=16384"}


def test_a_broker_that_does_not_know_the_password_is_found_out(scram) -> None:
    server, prover = scram.begin_login(PEER), client()
    server.answer(prover.answer(server.answer(prover.begin())))
    with pytest.raises(LoginRefusedError, match="does not know the password"):
        prover.finish(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")


@pytest.mark.parametrize("count", ["1000000000", "1000001", "-1", "x", ""])
def test_a_broker_may_not_ask_for_endless_rounds(scram, count: str) -> None:
    prover = client()
    challenge = scram.begin_login(PEER).answer(prover.begin()).decode()
    nonce, salt, _ = challenge.split(",")
    with pytest.raises(LoginRefusedError):
        prover.answer(f"{nonce},{salt},i={count}".encode())


@pytest.mark.parametrize(
    "junk", [b"", b"\xff", b"n,,", b"n,,n=alice", b"n,,n=alice,r=", b"y,,n=,r=x", b"p=x,,n=a,r=b", b"=" * 4000]
)
def test_any_first_response_is_taken_or_refused(scram, junk: bytes) -> None:
    server = scram.begin_login(PEER)
    try:
        server.answer(junk)
        with pytest.raises(LoginRefusedError):
            server.answer(junk)
    except LoginRefusedError:
        pass


def test_token_names_its_holder_in_the_clear_or_hashed(tmp_path: Path) -> None:
    clear, hashed = "a" * 16, "b" * 20
    text = f"one {clear}\ntwo sha256:{hashlib.sha256(hashed.encode()).hexdigest()}\n"
    part = create_authenticator("token", AccessContext(), {"tokens": private(tmp_path / "tokens", text)})
    part.open()
    for token, name in ((clear, "one"), (hashed, "two")):
        assert part.begin_login(PEER).answer(token.encode()) == Proof(f"token:{name}")
    for wrong in (b"", b"c" * 16, clear.encode() + b"\n"):
        with pytest.raises(LoginRefusedError):
            part.begin_login(PEER).answer(wrong)
    assert part.is_known("token:one")
    assert not part.is_known("token:three")


@pytest.mark.parametrize(
    "text", ["short 123", "tiger", "a b c d " + "x" * 30 + "\nname " + "y" * 15, "n " + "s" * 16 + "\nn " + "s" * 16]
)
def test_a_line_that_is_none_is_refused_without_what_stands_in_it(tmp_path: Path, text: str) -> None:
    part = create_authenticator("token", AccessContext(), {"tokens": private(tmp_path / "tokens", text)})
    with pytest.raises(ConfigurationError, match=r"tokens: line \d") as caught:
        part.open()
    for secret in ("123", "tiger", "yyy", "sss"):
        assert secret not in str(caught.value)


def test_a_certificate_that_was_verified_names_its_subject() -> None:
    part = create_authenticator("tls")
    assert part.principal_of(Peer(address="x", tls_subject="CN=alice,O=Example")) == "tls:CN=alice,O=Example"
    assert part.principal_of(PEER) is None
    assert part.begin_login(PEER) is None


def test_a_user_without_a_name_is_its_number() -> None:
    part = create_authenticator("unix")
    assert part.principal_of(Peer(address="x", user_id=4_000_000_001)) == "unix:4000000001"
    assert part.principal_of(PEER) is None


def test_a_file_that_becomes_readable_by_others_is_not_read_again(tmp_path: Path) -> None:
    notices: list[Notice] = []
    path = private(tmp_path / "tokens", f"one {'a' * 16}\n")
    part = create_authenticator("token", AccessContext(report=notices.append), {"tokens": path})
    part.open()
    os.chmod(path, 0o644)
    assert part.is_known("token:one")
    assert part.is_known("token:one")
    assert [notice.kind for notice in notices] == ["access-file"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_of_tokens_or_of_a_token_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "tokens", f"one {'a' * 16}\n")
    os.chmod(path, mode)
    part = create_authenticator("token", AccessContext(), {"tokens": path})
    with pytest.raises(ConfigurationError, match=rf"tokens: its mode is {mode:04o}.*chmod 600"):
        part.open()
    with pytest.raises(ConfigurationError, match=rf"its mode is {mode:04o}") as caught:
        read_credentials(token_file=path)
    assert "aaaa" not in str(caught.value)


def test_secrets_are_in_no_repr_and_no_pickle() -> None:
    secret = Secret("tiger")
    for value in (
        secret,
        Credentials(user="a", password=secret, token=secret),
        ClientOptions(user="a", password=secret),
    ):
        assert "tiger" not in f"{value!r} {value}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(ConfigurationError) as caught:
        structure_options(ClientOptions, {"user": "a", "password": "tiger"}, "connect")
    assert "tiger" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n", "a\nb\n", "x" * 1025])
def test_a_file_of_a_password_has_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match="one line of at most 1024 bytes") as caught:
        read_credentials(user="a", password_file=private(tmp_path / "p", text))
    assert "xxx" not in str(caught.value)


def test_what_is_no_plain_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, text in (
        (tmp_path / "fifo", "no plain file"),
        (tmp_path, "no plain file"),
        (tmp_path / "nothing", "No such file"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            read_credentials(token_file=str(path))
