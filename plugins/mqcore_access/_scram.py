"""``scram-sha-256`` (RFC 5802, RFC 7677): a password that never travels, and a broker that proves that it knows it too.

An unknown user is given a salt of its own, and rounds as one of the known users has them, and goes the whole way, so
that neither answers nor time tell who there is.
A nonce of the broker's in every login makes one that was recorded worthless.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from typing import ClassVar

import attrs

from mqcore.abc import (
    AccessContext,
    Authenticator,
    Credentials,
    LoginClient,
    LoginRefusedError,
    LoginServer,
    Peer,
    Proof,
)
from mqcore_access._config import ScramOptions
from mqcore_access._files import WatchedFile
from mqcore_access.users import ITERATIONS, ITERATIONS_MAX, MECHANISM, SALT_BYTES, Verifier, parse_users, scramp_package

__all__ = ["ScramAuthenticator"]


@attrs.frozen
class _Users:
    """The verifiers by name, and what they look like to a peer: rounds and bytes of salt, once for each user."""

    verifiers: Mapping[str, Verifier]
    looks: Sequence[tuple[int, int]]


def _parse(text: str, path: str) -> _Users:
    found = parse_users(text, path)
    looks = [(one.iterations, len(one.salt)) for _, one in sorted(found.items())]
    return _Users(found, looks or [(ITERATIONS, SALT_BYTES)])


class ScramAuthenticator(Authenticator):
    """``user:NAME`` for whoever knows the password of that user."""

    options_class: ClassVar[type[ScramOptions]] = ScramOptions

    def __init__(self, name: str, options: ScramOptions, context: AccessContext) -> None:
        super().__init__(name, options, context)
        self._file = WatchedFile(options.users, _parse, context.report)
        self._decoy = secrets.token_bytes(32)

    def open(self) -> None:
        """Read the file of users. Raises ``ConfigurationError``; ``PluginNotFoundError`` without the package scramp."""
        scramp_package()
        self._file.open()

    def begin_login(self, peer: Peer) -> LoginServer:
        """Return the broker's end of a login."""
        return _ScramServer(self._file.value, self._decoy)

    def is_known(self, principal: str) -> bool:
        """Whether the user is still there."""
        return principal.removeprefix("user:") in self._file.value.verifiers

    @classmethod
    def client(cls, credentials: Credentials) -> LoginClient | None:
        """Return the client's end, where there are a user and a password."""
        if credentials.user is None or credentials.password is None:
            return None
        return _ScramClient(credentials.user, credentials.password.reveal())


class _ScramServer(LoginServer):
    def __init__(self, users: _Users, decoy: bytes) -> None:
        self._users = users
        self._decoy = decoy
        self._is_user = False
        self._has_begun = False
        self._is_over = False
        self._errors = scramp_package().ScramException
        self._server = scramp_package().ScramMechanism(MECHANISM).make_server(self._verifier_of)

    def _verifier_of(self, name: str) -> tuple[bytes, bytes, bytes, int]:
        """Return what there is on a user; of one that is not there, what is the same each time and fits no password."""
        self.user = name
        looks = self._users.looks
        # Made for a user that is there, too, so that it takes as long. Verifiers of other programs may have other
        # rounds and salts of another length: these are like those of some user.
        seed, key, own = (hmac.digest(self._decoy, word + name.encode(), "sha256") for word in (b"salt", b"key", b"me"))
        iterations, salt_bytes = looks[int.from_bytes(key, "big") % len(looks)]
        salt = hashlib.shake_256(seed).digest(salt_bytes)
        found = self._users.verifiers.get(name)
        self._is_user = found is not None
        if found is None:
            found = Verifier(iterations, salt, key, own)
        return found.salt, found.stored_key, found.server_key, found.iterations

    def answer(self, response: bytes) -> bytes | Proof:
        """Take client-first, then client-final."""
        if self._is_over:
            raise LoginRefusedError("the login is over")
        self._is_over = True  # unless it ends with a challenge: whatever is raised
        try:
            text = response.decode()
            if not self._has_begun:
                self._has_begun = True
                self._server.set_client_first(text)
                challenge = str(self._server.get_server_first()).encode()
                self._is_over = False
                return challenge
            self._server.set_client_final(text)
            final = str(self._server.get_server_final()).encode()
        except (self._errors, ValueError, KeyError, IndexError) as error:
            raise LoginRefusedError(self._why_refused(error)) from None
        if not self._is_user:
            raise LoginRefusedError("there is no such user")
        return Proof(f"user:{self.user}", final)

    def _why_refused(self, error: Exception) -> str:
        if self.user and not self._is_user:
            return "there is no such user"
        is_proof = str(error).endswith(": invalid-proof")  # RFC 5802, section 7: `server-error-value`
        return "wrong password" if is_proof else str(error)


class _ScramClient(LoginClient):
    def __init__(self, user: str, password: str) -> None:
        scramp = scramp_package()
        self._errors = scramp.ScramException
        try:
            self._client = scramp.ScramClient([MECHANISM], user, password)
        except scramp.ScramException:
            raise LoginRefusedError(
                "the user's name or the password has characters that are not allowed (RFC 4013)"
            ) from None

    def begin(self) -> bytes:
        return str(self._client.get_client_first()).encode()

    def answer(self, challenge: bytes) -> bytes:
        try:
            text = challenge.decode()
            counts = [part[2:] for part in text.split(",") if part.startswith("i=")]
            # Before it is believed: so many rounds as the broker names are gone through here.
            if len(counts) != 1 or not counts[0].isdecimal() or len(counts[0]) > 9 or int(counts[0]) > ITERATIONS_MAX:
                raise LoginRefusedError(f"the broker asks for more than {ITERATIONS_MAX} iterations, or for none")
            self._client.set_server_first(text)
            return str(self._client.get_client_final()).encode()
        except (self._errors, ValueError) as error:
            raise LoginRefusedError(f"the broker's challenge is not one of {MECHANISM}: {error}") from None

    def finish(self, data: bytes) -> None:
        try:
            self._client.set_server_final(data.decode())
        except (self._errors, ValueError):
            raise LoginRefusedError("the broker does not know the password either: it is not the one it says") from None
