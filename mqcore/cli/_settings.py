"""Values of the common options of the command line, from flags and environment. Must not know any verb."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal

import attrs
import click

from mqcore.errors import ConfigurationError

if TYPE_CHECKING:
    from mqcore.abc import Secret

__all__ = ["DEFAULT_SERVER", "LOGIN_OPTIONS", "SERVER_VARIABLE", "TLS_OPTIONS", "Settings", "current"]

SERVER_VARIABLE = "MQCORE_SERVER"
DEFAULT_SERVER = "tcp://127.0.0.1:7400"

TLS_OPTIONS = {
    "ca": "Authorities that servers are believed by, PEM. [MQCORE_TLS_CA, else the system's]",
    "cert": "Certificate to show to servers that ask for one, PEM. [MQCORE_TLS_CERT]",
    "key": "Key of that certificate, PEM. [MQCORE_TLS_KEY]",
}

LOGIN_OPTIONS = {
    "user": ("NAME", "User to log in as; the password is asked for, or read from a file. [MQCORE_USER]"),
    "password_file": ("FILE", "File with that user's password, mode 0600. [MQCORE_PASSWORD_FILE]"),
    "token_file": ("FILE", "File with a token to log in with, mode 0600. [MQCORE_TOKEN_FILE]"),
}


@attrs.define
class Settings:
    """Values of the common options, filled as the command line is read from left to right."""

    servers: tuple[str, ...] = ()
    timeout_ms: int = 10_000
    timeout_is_given: bool = False
    output: Literal["text", "json"] = "text"
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    user: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    _password: Secret | None = attrs.field(default=None, init=False)

    @property
    def login(self) -> dict[str, Any]:
        """The options of a client about who it is; a password that is in no file is asked for, once."""
        user, password_file, token_file = (
            getattr(self, name) or os.environ.get(f"MQCORE_{name.upper()}") or None for name in LOGIN_OPTIONS
        )
        if self.token_file and not self.user:  # what is typed goes before the environment's user
            user = password_file = None
        given = {"user": user, "password_file": password_file, "token_file": None if user else token_file}
        if user and not password_file:
            given["password"] = self._asked_for(user)
        return {name: value for name, value in given.items() if value}

    def _asked_for(self, user: str) -> Secret:
        from mqcore.abc import Secret

        if self._password is None:
            if not sys.stdin.isatty():
                raise ConfigurationError(
                    f"no password for user {user!r}: name a file with --password-file or MQCORE_PASSWORD_FILE"
                )
            self._password = Secret(click.prompt(f"Password of {user}", hide_input=True, err=True))
        return self._password

    @property
    def tls(self) -> dict[str, Any]:
        """The options of a client about TLS: those that are given, else those of the environment."""
        given = {name: getattr(self, name) or os.environ.get(f"MQCORE_TLS_{name.upper()}") for name in TLS_OPTIONS}
        if self.key and not self.cert:
            raise ConfigurationError(f"--key {self.key} without a certificate: name its own (--cert FILE)")
        if self.cert or self.key:  # a pair: half of one would be another's
            given |= {"cert": self.cert, "key": self.key}
        given["server_name"] = os.environ.get("MQCORE_TLS_SERVER_NAME")
        return {name: value for name, value in given.items() if value}

    @property
    def server_urls(self) -> tuple[str, ...]:
        """The servers to try, in order: ``--server``, else ``MQCORE_SERVER`` (comma-separated), else the default."""
        if self.servers:
            return self.servers
        named = tuple(part.strip() for part in os.environ.get(SERVER_VARIABLE, "").split(",") if part.strip())
        return named or (DEFAULT_SERVER,)

    @property
    def json(self) -> bool:
        """Whether output is JSON."""
        return self.output == "json"


def current() -> Settings:
    """Return the settings of the command that runs."""
    settings = click.get_current_context().find_object(Settings)
    return settings if settings is not None else Settings()
