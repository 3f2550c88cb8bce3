"""``token``: a shared secret per name, in a file of lines ``NAME TOKEN``. The token itself travels, so the link has to
encrypt.

The file holds the SHA-256 of tokens or tokens in the clear; either way others must not read it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import ClassVar

from mqcore.abc import (
    AccessContext,
    Authenticator,
    Credentials,
    LoginClient,
    LoginRefusedError,
    LoginServer,
    Peer,
    Proof,
    Secret,
    Transport,
)
from mqcore.errors import ConfigurationError
from mqcore_access._config import TokenOptions
from mqcore_access._files import WatchedFile
from mqcore_access._names import check_user_name

__all__ = ["TokenAuthenticator"]

_TOKEN_CHARACTERS_MIN = 16
_HASHED = "sha256:"


def _parse(text: str, path: str) -> Mapping[str, bytes]:
    """Return the digest of each name's token."""
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, token = line.strip().partition(" ")
        token = token.strip()
        digest = b""
        try:
            check_user_name(name)
            if token.startswith(_HASHED):
                digest = bytes.fromhex(token.removeprefix(_HASHED))
                is_usable = len(digest) == hashlib.sha256().digest_size
            else:
                digest = _digest(token)
                is_usable = len(token) >= _TOKEN_CHARACTERS_MIN
        except ValueError:
            is_usable = False
        if not is_usable:  # without the line's text: there may be a token in it
            text = f"NAME and a token of at least {_TOKEN_CHARACTERS_MIN} characters, or {_HASHED} and 64 hex digits"
            raise ConfigurationError(f"{path}: line {number}: write {text}")
        if name in found:
            raise ConfigurationError(f"{path}: line {number}: {name} has a token already")
        found[name] = digest
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


class TokenAuthenticator(Authenticator):
    """``token:NAME`` for whoever shows the token of that name."""

    options_class: ClassVar[type[TokenOptions]] = TokenOptions

    def __init__(self, name: str, options: TokenOptions, context: AccessContext) -> None:
        super().__init__(name, options, context)
        self._file = WatchedFile(options.tokens, _parse, context.report)

    def open(self) -> None:
        """Read the file of tokens. Raises ``ConfigurationError``."""
        self._file.open()

    def begin_login(self, peer: Peer) -> LoginServer:
        """Return a login of one response."""
        return _TokenServer(self._file.value)

    def lacks(self, listener: Transport) -> str:
        """See ``Authenticator``."""
        abilities = listener.capabilities
        if abilities.encrypted or abilities.local_only or listener.is_loopback:
            return ""
        return "listen on tls:// or quic://, as clients send no token where others could read it"

    def is_known(self, principal: str) -> bool:
        """Whether the name still has a token."""
        return principal.removeprefix("token:") in self._file.value

    @classmethod
    def client(cls, credentials: Credentials) -> LoginClient | None:
        """Return the client's end, where there is a token."""
        return None if credentials.token is None else _TokenClient(credentials.token)


class _TokenServer(LoginServer):
    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = digests
        self._is_over = False

    def answer(self, response: bytes) -> Proof:
        """Compare the token with every one there is, in a time that tells nothing of which was like it."""
        if self._is_over:
            raise LoginRefusedError("a login by token has one response")
        self._is_over = True
        shown, found = hashlib.sha256(response).digest(), ""
        for name, digest in self._digests.items():
            if hmac.compare_digest(shown, digest):
                found = name
        if not found:
            raise LoginRefusedError("nobody has the token that was shown")
        return Proof(f"token:{found}")


class _TokenClient(LoginClient):
    def __init__(self, token: Secret) -> None:
        self._token = token

    def begin(self) -> bytes:
        return self._token.reveal().encode()

    def answer(self, challenge: bytes) -> bytes:
        raise LoginRefusedError("a login by token has no challenge")

    def finish(self, data: bytes) -> None:
        """A token proves nothing of the broker."""
