"""Contract checks of an authenticator and an authorizer, a stranger's too: what every one of them has to hold.

    def test_it_keeps_its_contract():
        check_authenticator(part, lambda: part.client(mine), lambda: part.client(wrong), principal="kind:me")

Each failure is an ``AssertionError`` that says what was promised. Does no I/O. Must not know any mechanism.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mqcore.abc import (
    OPERATIONS,
    Authenticator,
    Authorizer,
    Decision,
    LoginClient,
    LoginRefusedError,
    Operation,
    Peer,
    Proof,
)

__all__ = ["check_authenticator", "check_authorizer"]

TURNS_MAX = 8
RESPONSE_BYTES_MAX = 4096
_PEER = Peer(address="127.0.0.1:1")
_JUNK = (b"", b"\0", b"\xff" * 16, b"n,,n=a,r=b", b"=" * RESPONSE_BYTES_MAX)


def check_authenticator(
    part: Authenticator, known: Callable[[], LoginClient], impostor: Callable[[], LoginClient], *, principal: str
) -> None:
    """Check an opened ``part`` that has logins.

    ``known`` and ``impostor`` make the client's end of a login that has to succeed as ``principal``, and of one that
    has to fail. Raises ``AssertionError``.
    """
    assert ":" in principal, f"a principal is kind:name, not {principal!r}"
    recorded = _log_in(part, known(), principal)
    assert part.is_known(principal), f"{principal}, whom it has just let in, is not known"
    for client in (impostor(), impostor()):
        _refuse(part, client)
    _log_in(part, known(), principal)  # failures of others change nothing
    for junk in _JUNK:
        _refuse_bytes(part, [junk] * TURNS_MAX)
    if len(recorded) > 1:  # a mechanism with challenges: what was recorded must be of no use
        _refuse_bytes(part, recorded)
    assert part.principal_of(_PEER) is None, "a link of which nothing is known has a principal"


def _log_in(part: Authenticator, client: LoginClient, principal: str) -> list[bytes]:
    server = part.begin_login(_PEER)
    assert server is not None, "it has no logins"
    responses = [client.begin()]
    for _ in range(TURNS_MAX):
        assert len(responses[-1]) <= RESPONSE_BYTES_MAX, f"a response of {len(responses[-1])} bytes"
        answer = server.answer(responses[-1])
        if isinstance(answer, Proof):
            assert answer.principal == principal, f"{principal} logged in, and is {answer.principal}"
            client.finish(answer.data)
            return responses
        assert len(answer) <= RESPONSE_BYTES_MAX, f"a challenge of {len(answer)} bytes"
        responses.append(client.answer(answer))
    raise AssertionError(f"no end after {TURNS_MAX} turns")


def _refuse(part: Authenticator, client: LoginClient) -> None:
    server = part.begin_login(_PEER)
    assert server is not None
    response = client.begin()
    try:
        for _ in range(TURNS_MAX):
            answer = server.answer(response)
            assert not isinstance(answer, Proof), f"an impostor is let in, as {answer}"
            response = client.answer(answer)
    except LoginRefusedError:
        return
    raise AssertionError("an impostor is neither let in nor refused")


def _refuse_bytes(part: Authenticator, responses: Iterable[bytes]) -> None:
    server = part.begin_login(_PEER)
    assert server is not None
    try:
        for response in responses:
            answer = server.answer(response)
            assert not isinstance(answer, Proof), f"{response[:40]!r} lets somebody in, as {answer}"
    except LoginRefusedError:
        return
    raise AssertionError("bytes that are no login are not refused")


def check_authorizer(part: Authorizer, allowed: tuple[str, Operation, str], denied: tuple[str, Operation, str]) -> None:
    """Check ``part``: ``allowed`` and ``denied`` are a principal, an operation and a resource each. ``AssertionError``.

    An authorizer decides the same each time, says by which rule, and raises for nothing that a peer may be called.
    """
    for wanted, (principal, operation, resource) in ((True, allowed), (False, denied)):
        assert operation in OPERATIONS, f"unknown operation {operation!r}"
        first, again = (part.decide(principal, operation, resource) for _ in range(2))
        assert isinstance(first, Decision)
        assert first == again, "the same is decided otherwise the second time"
        assert first.is_allowed is wanted, f"{principal} {operation} {resource}: {first}"
        assert first.rule, "a decision names no rule"
    for name in ("", "*", "a\nb", "x" * 10_000, "user:\ud800", "(?i)"):
        for operation in OPERATIONS:
            assert part.decide(name, operation, "topic:" + name).rule
