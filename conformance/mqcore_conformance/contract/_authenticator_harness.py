"""An authenticator under test: opened parts, logins step by step, and impostors made of what is right."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import attrs

from mqcore.abc import (
    AccessContext,
    Authenticator,
    Credentials,
    LoginClient,
    LoginRefusedError,
    LoginServer,
    Notice,
    Peer,
    Proof,
    Secret,
)
from mqcore.registry import create_authenticator
from mqcore_conformance.contract._checks import CheckFailed, Harness, NotApplicable, expect
from mqcore_conformance.contract._login_control import login_control_of

__all__ = ["NOBODY", "RESPONSE_BYTES_MAX", "TURNS_MAX", "AuthenticatorHarness", "Dialogue", "KeptLog", "impostors_of"]

T = TypeVar("T")
NOBODY = Peer(address="127.0.0.1:1")
"""A peer of whom a link says nothing."""
TURNS_MAX = 8
"""As many responses of one login as a broker takes."""
RESPONSE_BYTES_MAX = 4_096
"""As large as a frame of a login may be."""


class KeptLog(logging.Handler):
    """Keeps the text of everything that is logged, with the traceback where there is one."""

    def __init__(self) -> None:
        super().__init__(level=0)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.lines.append(self.format(record))


@attrs.define
class Dialogue:
    """A login, turn by turn: what was said, and how it ended. Neither ``proof`` nor ``refusal``: not over."""

    server: LoginServer
    client: LoginClient
    responses: list[bytes] = attrs.field(factory=list)
    challenges: list[bytes] = attrs.field(factory=list)
    proof: Proof | None = None
    refusal: LoginRefusedError | None = None

    @property
    def is_over(self) -> bool:
        """Whether it succeeded or failed."""
        return self.proof is not None or self.refusal is not None

    def turn(self) -> None:
        """Let the client say something and the broker answer. ``CheckFailed`` for what is no turn of a login."""
        expect(len(self.responses) < TURNS_MAX, f"a login has no end after {TURNS_MAX} turns")
        try:
            response = self.client.answer(self.challenges[-1]) if self.responses else self.client.begin()
            expect(len(response) <= RESPONSE_BYTES_MAX, f"a response has {len(response)} bytes")
            self.responses.append(response)
            answer = self.server.answer(response)
        except LoginRefusedError as error:
            self.refusal = error
            return
        if isinstance(answer, Proof):
            self.proof = answer
            return
        expect(isinstance(answer, bytes), f"it answers with a {type(answer).__name__}")
        expect(len(answer) <= RESPONSE_BYTES_MAX, f"a challenge has {len(answer)} bytes")
        self.challenges.append(answer)

    def to_end(self) -> Dialogue:
        """Take every turn that is left."""
        while not self.is_over:
            self.turn()
        return self


class _Unmade(LoginClient):
    """The client's end of credentials that its mechanism refuses by itself."""

    def __init__(self, refusal: LoginRefusedError) -> None:
        self._refusal = refusal

    def begin(self) -> bytes:
        raise self._refusal

    def answer(self, challenge: bytes) -> bytes:
        raise self._refusal

    def finish(self, data: bytes) -> None:
        raise self._refusal


def impostors_of(credentials: Credentials) -> Iterator[tuple[str, Credentials]]:
    """Give credentials that are almost ``credentials``, each with what is wrong about it in words."""
    for field, mine in (("password", credentials.password), ("token", credentials.token)):
        if mine is None:
            continue
        text = mine.reveal()
        wrong = {
            "no secret": "",
            "the first half of the secret": text[: len(text) // 2],
            "the secret without its last character": text[:-1],
            "the secret and one character more": f"{text}x",
            "the secret twice": text * 2,
            "the secret in another case": text.swapcase(),
            "the secret backwards": text[::-1],
            "a secret of 3 000 characters": "x" * 3_000,
        }
        for what, changed in wrong.items():
            if changed != text:
                secret = Secret(changed)
                is_token = field == "token"
                yield (
                    what,
                    attrs.evolve(credentials, token=secret) if is_token else attrs.evolve(credentials, password=secret),
                )


class AuthenticatorHarness(Harness):
    """An authenticator by name, and those who can log in at it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.notices: list[Notice] = []
        self.control = login_control_of(name)(folder)
        self.options = self.control.options()
        self.credentials = self.control.credentials()

    def composed(self, options: Mapping[str, object] | None = None) -> Authenticator:
        """Return the part, not opened."""
        context = AccessContext(report=self.notices.append)
        return create_authenticator(self.name, context, self.options if options is None else options)

    def opened(self) -> Authenticator:
        """Return another part, opened."""
        part = self.composed()
        part.open()
        return part

    @property
    def principals(self) -> Sequence[str]:
        """Those who can log in, two at least. ``NotApplicable`` for a part without logins."""
        if not self.credentials:
            raise NotApplicable("it has no logins: who a peer is comes from its link")
        expect(len(self.credentials) > 1, "its LoginControl has credentials of one principal; two are the fewest")
        return tuple(self.credentials)

    @property
    def with_names(self) -> Sequence[str]:
        """The same of a mechanism that has names of users. ``NotApplicable`` for one that has secrets alone."""
        named = [one for one in self.principals if self.credentials[one].user is not None]
        if not named:
            raise NotApplicable("its logins have no name of a user: whoever is unknown has a wrong secret")
        return named

    def unknown(self, principal: str, number: int = 0) -> Credentials:
        """Return the credentials of ``principal`` under a name, as long as its own, that nobody has."""
        known = {one.user for one in self.credentials.values()}
        user = self.credentials[principal].user or ""
        names = (user[:-1] + letter for letter in "qwxyz0123456789")
        free = [name for name in names if name not in known]
        return attrs.evolve(self.credentials[principal], user=free[number])

    def client(self, part: Authenticator, credentials: Credentials) -> LoginClient:
        """Return the client's end of a login."""
        try:
            made = type(part).client(credentials)
        except LoginRefusedError as refusal:
            return _Unmade(refusal)
        if made is None:
            raise CheckFailed("it makes no client of the credentials of its LoginControl")
        return made

    def server(self, part: Authenticator) -> LoginServer:
        """Return the broker's end of a new login."""
        made = part.begin_login(NOBODY)
        if made is None:
            raise CheckFailed("it makes no login, although its LoginControl has credentials")
        return made

    def dialogue(self, part: Authenticator, credentials: Credentials) -> Dialogue:
        """Return a login of which nothing was said yet."""
        return Dialogue(self.server(part), self.client(part, credentials))

    def log_in(self, part: Authenticator, principal: str) -> Dialogue:
        """Log in as ``principal``, to the end. ``CheckFailed`` where that fails, or gives another principal."""
        done = self.dialogue(part, self.credentials[principal]).to_end()
        if done.proof is None:
            raise CheckFailed(f"{principal} is refused with the right secret: {done.refusal}")
        expect(done.proof.principal == principal, f"{principal} logs in and is {done.proof.principal}")
        try:
            done.client.finish(done.proof.data)
        except LoginRefusedError as refusal:
            raise CheckFailed(f"the client of {principal} refuses the broker: {refusal}") from None
        return done

    def refused_login(self, part: Authenticator, credentials: Credentials, what: str) -> Dialogue:
        """Log in with ``credentials`` that are ``what``, and return it. ``CheckFailed`` where that is let in."""
        done = self.dialogue(part, credentials).to_end()
        expect(done.proof is None, f"{what} is let in")
        expect(type(done.refusal) is LoginRefusedError, f"{what} is refused by a {type(done.refusal).__name__}")
        return done

    def refused_responses(self, part: Authenticator, responses: Sequence[bytes], what: str) -> None:
        """Say ``responses`` on one login; ``CheckFailed`` where they let somebody in, or something else is raised."""
        server = self.server(part)
        answered = [answer_of(lambda one=one: server.answer(one), what) for one in responses]  # type: ignore[misc]
        proof = next((one for one in answered if isinstance(one, Proof)), None)
        expect(proof is None, f"{what} lets somebody in")
        expect(answered[-1] is None, f"{what} is not refused in {len(responses)} turns")


def answer_of(call: Callable[[], T], what: str) -> T | None:
    """Return what ``call`` returns, None where it is refused; ``CheckFailed`` for whatever else it raises."""
    try:
        return call()
    except LoginRefusedError:
        return None
    except Exception as error:
        text = f"{what} raises {type(error).__name__}, not LoginRefusedError: {error}"
        raise CheckFailed(text) from error
