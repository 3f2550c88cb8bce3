"""Saboteurs of authenticators: plausible mistakes, each seen by one contract check.

Knows private names of ``mqcore_access``; see ``_replacing`` for what happens when one is gone.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from mqcore.abc import LoginRefusedError, Proof
from mqcore_conformance.saboteurs._contracts import ContractSaboteur
from mqcore_conformance.saboteurs._replacing import in_place_of

_SCRAM = ("mqcore_access._scram", "ScramAuthenticator")
_SCRAM_SERVER = ("mqcore_access._scram", "_ScramServer")
_SCRAM_CLIENT = ("mqcore_access._scram", "_ScramClient")
_TOKEN = ("mqcore_access._token", "TokenAuthenticator")
_TOKEN_SERVER = ("mqcore_access._token", "_TokenServer")
_TOKEN_CLIENT = ("mqcore_access._token", "_TokenClient")


@in_place_of((*_SCRAM_SERVER, "answer"))
def secret_unchecked(answer: Any) -> Any:
    """Whoever names a user and goes through the motions is that user."""

    def take(it: Any, response: bytes) -> Any:
        has_begun = it._has_begun
        try:
            return answer(it, response)
        except LoginRefusedError:
            if has_begun and it._is_user:
                return Proof(f"user:{it._user}", b"")
            raise

    return take


@in_place_of((*_TOKEN_SERVER, "answer"))
def secret_in_any_case(answer: Any) -> Any:
    """A secret is compared without regard to case."""

    def take(it: Any, response: bytes) -> Any:
        try:
            return answer(it, response)
        except LoginRefusedError:
            it._is_over = False
            return answer(it, response.swapcase())

    return take


@in_place_of((*_SCRAM_SERVER, "answer"))
def names_in_any_case(answer: Any) -> Any:
    """Who logs in is taken for a user whose name differs by case."""

    def take(it: Any, response: bytes) -> Any:
        found = answer(it, response)
        return Proof(found.principal.lower(), found.data) if isinstance(found, Proof) else found

    return take


@in_place_of((*_SCRAM_SERVER, "answer"))
def unknown_refused_at_once(answer: Any) -> Any:
    """A user that is not there is refused before it is asked for a proof."""

    def take(it: Any, response: bytes) -> Any:
        found = answer(it, response)
        if not it._is_user:
            raise LoginRefusedError("no such user")
        return found

    return take


@in_place_of((*_SCRAM, "begin_login"))
def salt_made_anew(begin_login: Any) -> Any:
    """A user that is not there has another salt each time."""

    def begin(it: Any, peer: Any) -> Any:
        it._decoy = secrets.token_bytes(32)
        return begin_login(it, peer)

    return begin


@in_place_of((*_SCRAM_SERVER, "answer"))
def unknown_not_hashed(answer: Any) -> Any:
    """The proof of a user that is not there is not looked at."""

    def take(it: Any, response: bytes) -> Any:
        if it._has_begun and not it._is_user:
            raise LoginRefusedError("no such user")
        return answer(it, response)

    return take


@in_place_of((*_TOKEN_SERVER, "answer"))
def text_expected(answer: Any) -> Any:
    """What a peer says is taken for text, and an error of what is none goes up."""

    def take(it: Any, response: bytes) -> Any:
        return answer(it, response.decode().encode())

    return take


@in_place_of((*_TOKEN_SERVER, "answer"))
def goes_on_after_a_refusal(answer: Any) -> Any:
    """A login that was refused may be tried again at once."""

    def take(it: Any, response: bytes) -> Any:
        it._is_over = False
        return answer(it, response)

    return take


@in_place_of((*_SCRAM_SERVER, "__init__"))
def nonce_of_no_use(make: Any) -> Any:
    """The broker's nonce is always the same."""

    def __init__(it: Any, *args: Any) -> None:
        make(it, *args)
        it._server.s_nonce = type(it._server.s_nonce)("fixed")

    return __init__


@in_place_of((*_TOKEN_SERVER, "answer"))
def secret_in_the_error(answer: Any) -> Any:
    """The error of a login says what was shown."""

    def take(it: Any, response: bytes) -> Any:
        try:
            return answer(it, response)
        except LoginRefusedError as error:
            raise LoginRefusedError(f"{response!r}: {error}") from None

    return take


@in_place_of((*_TOKEN_CLIENT, "begin"))
def secret_logged(begin: Any) -> Any:
    """What a client says is logged for debugging."""

    def say(it: Any) -> bytes:
        said: bytes = begin(it)
        logging.getLogger(__name__).debug("login: %r", said)
        return said

    return say


@in_place_of((*_SCRAM, "begin_login"))
def one_login_for_all(begin_login: Any) -> Any:
    """Logins that begin before another one is over go on with its state."""

    def begin(it: Any, peer: Any) -> Any:
        last = vars(it).get("_last")
        if last is None or last._is_over:
            it._last = last = begin_login(it, peer)
        return last

    return begin


@in_place_of((*_SCRAM, "begin_login"))
def logins_kept(begin_login: Any) -> Any:
    """A login that was begun is kept until it is over."""

    def begin(it: Any, peer: Any) -> Any:
        kept = vars(it).setdefault("_kept", [])
        kept[:] = [one for one in kept if not one._is_over or one._has_begun is False]
        kept.append(begin_login(it, peer))
        return kept[-1]

    return begin


@in_place_of((*_TOKEN, "is_known"))
def known_for_ever(_: Any) -> Any:
    """A principal that was let in once is valid for ever."""
    return lambda it, principal: True


@in_place_of(("mqcore_access._links", "UnixAuthenticator", "principal_of"))
def name_from_the_address(principal_of: Any) -> Any:
    """A peer of whom the link says nothing is called as its address."""
    return lambda it, peer: principal_of(it, peer) or f"unix:{peer.address}"


@in_place_of((*_SCRAM_CLIENT, "answer"))
def challenge_not_checked(answer: Any) -> Any:
    """A client takes what a broker says for a challenge, whatever it is."""

    def reply(it: Any, challenge: bytes) -> Any:
        dict(part.split("=", 1) for part in challenge.decode().split(","))
        return answer(it, challenge)

    return reply


@in_place_of((*_TOKEN, "client"))
def password_as_token(client: Any) -> Any:
    """A password is sent as a token where there is no other."""

    def make(cls: Any, credentials: Any) -> Any:
        found = client.__func__(cls, credentials)
        module = __import__(cls.__module__, fromlist=["_TokenClient"])
        return found if found or not credentials.password else module._TokenClient(credentials.password)

    return classmethod(make)


@in_place_of((*_TOKEN, "__init__"))
def read_when_composed(make: Any) -> Any:
    """The file is read by the constructor."""

    def __init__(it: Any, *args: Any) -> None:
        make(it, *args)
        it.open()

    return __init__


def _scram(name: str, make: Any, check: str, clause: str = "G18") -> ContractSaboteur:
    green = "an_unknown_authenticator_option_is_refused_by_name"
    return ContractSaboteur(name=name, make=make, clause=clause, check=check, green=green, url="scram-sha-256")


def _token(name: str, make: Any, check: str, url: str = "token") -> ContractSaboteur:
    green = "an_unknown_authenticator_option_is_refused_by_name"
    return ContractSaboteur(name=name, make=make, clause="G18", check=check, green=green, url=url)


AUTHENTICATOR_SABOTEURS: tuple[ContractSaboteur, ...] = (
    _scram("login-secret-unchecked", secret_unchecked, "a_wrong_secret_is_refused"),
    _token("login-secret-in-any-case", secret_in_any_case, "a_wrong_secret_is_refused"),
    _scram("login-name-in-any-case", names_in_any_case, "the_right_secret_gives_its_principal"),
    _scram("login-unknown-at-once", unknown_refused_at_once, "an_unknown_name_is_refused_as_a_wrong_secret_is"),
    _scram("login-salt-made-anew", salt_made_anew, "an_unknown_name_is_refused_as_a_wrong_secret_is"),
    _scram("login-unknown-not-hashed", unknown_not_hashed, "an_unknown_name_costs_what_a_wrong_secret_costs"),
    _token("login-text-expected", text_expected, "what_is_no_login_is_refused"),
    _token("login-goes-on", goes_on_after_a_refusal, "a_response_out_of_order_is_refused"),
    _scram("login-nonce-fixed", nonce_of_no_use, "a_login_that_was_recorded_is_worthless"),
    _token("login-secret-in-error", secret_in_the_error, "no_secret_is_in_an_error_a_log_or_a_repr"),
    _token("login-secret-logged", secret_logged, "no_secret_is_in_an_error_a_log_or_a_repr"),
    _scram("login-one-for-all", one_login_for_all, "logins_side_by_side_do_not_mix"),
    _scram("login-kept", logins_kept, "logins_that_are_abandoned_leave_nothing", "G20"),
    _token("login-known-for-ever", known_for_ever, "a_principal_that_is_taken_away_is_refused"),
    _token("login-name-from-address", name_from_the_address, "what_a_link_says_is_believed_and_nothing_else", "unix"),
    _scram("login-challenge-unchecked", challenge_not_checked, "a_client_is_not_broken_by_what_a_broker_says"),
    _token("login-password-as-token", password_as_token, "credentials_of_another_mechanism_give_no_client", "token"),
    _token("login-read-when-composed", read_when_composed, "an_authenticator_reads_when_it_is_opened"),
)
"""Saboteurs of authenticators, on those that come with mqcore."""
