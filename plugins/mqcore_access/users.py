"""The file of users: one line each, ``NAME:SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY``, base64 in it.

A verifier, never a password: RFC 5802 section 3 says what may be made of it (to check a password, to impersonate this
broker), and what not (to log in).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from mqcore.abc import read_private_file
from mqcore.errors import ConfigurationError, PluginNotFoundError
from mqcore_access._files import replace_private
from mqcore_access._names import check_user_name

__all__ = [
    "ITERATIONS",
    "ITERATIONS_MAX",
    "MECHANISM",
    "SALT_BYTES",
    "Verifier",
    "changing_users",
    "check_user_name",
    "make_verifier",
    "parse_users",
    "read_users",
    "scramp_package",
]

ITERATIONS = 16_384
"""Rounds of PBKDF2 in a new verifier: RFC 7677 asks for 4 096 at least; about 10 ms of one who logs in."""
ITERATIONS_MIN = 4_096
ITERATIONS_MAX = 1_000_000
MECHANISM = "SCRAM-SHA-256"
"""Name of the mechanism, as RFC 7677 has it."""
SALT_BYTES = 16
"""Of a new verifier."""
_KEY_BYTES = 32


@attrs.frozen
class Verifier:
    """What a password is checked by."""

    iterations: int
    salt: bytes = attrs.field(repr=False)
    stored_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)

    def line(self, name: str) -> str:
        """Return the line of the user ``name``."""
        salt, stored, server = (
            base64.b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key)
        )
        return f"{name}:{MECHANISM}${self.iterations}:{salt}${stored}:{server}"


def _verifier(text: str) -> Verifier:
    prefix, parameters, keys = text.split("$")
    iterations, salt = parameters.split(":")
    stored, server = keys.split(":")
    found = Verifier(int(iterations), *(base64.b64decode(part, validate=True) for part in (salt, stored, server)))
    if prefix != MECHANISM or not ITERATIONS_MIN <= found.iterations <= ITERATIONS_MAX or len(found.salt) < 12:
        raise ValueError
    if len(found.stored_key) != _KEY_BYTES or len(found.server_key) != _KEY_BYTES:
        raise ValueError
    return found


def parse_users(text: str, path: str) -> dict[str, Verifier]:
    """Return the verifiers by name. Raises ``ConfigurationError`` naming the line, without what stands in it."""
    users: dict[str, Verifier] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            check_user_name(name)
            verifier = _verifier(rest)
        except (ValueError, binascii.Error):
            raise ConfigurationError(f"{path}: line {number} is no line of `mqcore user add`") from None
        if name in users:
            raise ConfigurationError(f"{path}: line {number}: {name} is there twice")
        users[name] = verifier
    return users


def read_users(path: str) -> dict[str, Verifier]:
    """Return the verifiers of a file. Raises ``ConfigurationError``."""
    return parse_users(read_private_file(path)[0], path)


@contextlib.contextmanager
def changing_users(path: str, *, may_be_new: bool = False) -> Iterator[dict[str, Verifier]]:
    """Give the verifiers of a file to be changed in the block, and write them when it ends; two changes take turns.

    Raises ``ConfigurationError``.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        lock = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}; make it first") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        users = {} if may_be_new and not os.path.lexists(path) else read_users(path)
        before = dict(users)
        yield users
        if users != before:
            _write(path, users)
    finally:
        os.close(lock)


def _write(path: str, users: Mapping[str, Verifier]) -> None:
    replace_private(path, [verifier.line(name) for name, verifier in sorted(users.items())])


def scramp_package() -> Any:
    """Return the module ``scramp``. Raises ``PluginNotFoundError`` naming the extra."""
    try:
        import scramp
    except ImportError as error:
        raise PluginNotFoundError(
            f"scram-sha-256 needs the package scramp ({error}): pip install 'mqcore[scram]'"
        ) from error
    return scramp


def make_verifier(password: str) -> Verifier:
    """Return the verifier of a password. Raises ``ConfigurationError`` for one that no client could type (RFC 4013)."""
    scramp = scramp_package()
    try:
        salt, stored_key, server_key, count = scramp.ScramMechanism(MECHANISM).make_auth_info(
            password, iteration_count=ITERATIONS, salt=secrets.token_bytes(SALT_BYTES)
        )
    except scramp.ScramException:
        raise ConfigurationError("the password has characters that are not allowed in one (RFC 4013)") from None
    return Verifier(count, salt, stored_key, server_key)
