"""The users of an authenticator, in the suite's hands: what its author gives, so that somebody can log in.

An author derives one class from ``LoginControl`` and names it as ``MODULE:CLASS``: on the command line (``--server``),
in ``[tool.mqcore.conformance]`` (``servers``), or by ``use_server`` in a test module. Each check makes one object of
it, in a process of its own.

- The constructor gets an empty folder for files; it does no I/O. ``options`` writes there what the authenticator
  reads, such as a file of verifiers, and returns the options that it is composed with.
- ``credentials`` has the credentials of two principals at least, each with a secret of its own of 16 characters or
  more. Wrong secrets and unknown names are the suite's own: it makes them of these. An authenticator without logins,
  which reads who a peer is from its link, leaves it out and has ``peers``.
- What cannot be done is left out: the checks that ask for it then say NOT CLAIMED.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import pwd
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from mqcore.abc import Credentials, Peer, Secret
from mqcore.errors import ConfigurationError
from mqcore_conformance.contract._checks import NotApplicable

__all__ = ["LoginControl", "login_control_of", "use_logins"]


class LoginControl(ABC):
    """The principals that one authenticator knows, and what they log in with. See the module."""

    scheme: str
    """Name of the authenticator."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def options(self) -> Mapping[str, object]:
        """Write what the authenticator reads when it is opened and return its options."""

    def credentials(self) -> Mapping[str, Credentials]:
        """Return what each principal logs in with, by the principal that a login has to give."""
        return {}

    def peers(self) -> Mapping[str, Peer]:
        """Return peers that a link alone makes known, by principal."""
        return {}

    def forget(self, principal: str) -> None:
        """Take a principal away from what ``options`` wrote; the others stay. The authenticator may be open."""
        raise NotApplicable(f"the control of {self.scheme} cannot take a principal away")


_CONTROLS: dict[str, type[LoginControl]] = {}


def use_logins(control: type[LoginControl]) -> None:
    """Use ``control`` for the authenticators of its name in this process."""
    _CONTROLS[control.scheme] = control


def login_control_of(name: str) -> type[LoginControl]:
    """Return the class for the authenticator ``name``. Raises ``ConfigurationError`` where there is none."""
    try:
        return {**OWN, **_CONTROLS}[name]
    except KeyError:
        text = f"authenticator {name!r}: the suite knows nobody who could log in: name a class with --server, or in"
        raise ConfigurationError(f"{text} servers of pyproject.toml, as MODULE:CLASS (LoginControl)") from None


# ---- of those that come with mqcore ----------------------------------------------------------------------------------


class _FileControl(LoginControl):
    """Names in a file, a line each, with secrets that no other run has. Two of them differ by case alone."""

    names: Sequence[str] = ("ada", "Ada", "Bob.2@example")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._secrets = {name: f"Key-{secrets.token_urlsafe(18)}" for name in self.names}
        self._path = folder / "names"

    def write(self) -> str:
        """Write the file and return its path."""
        replacement = self.folder / "replacement"
        replacement.touch(mode=0o600)
        lines = [self.line(name, secret) for name, secret in self._secrets.items()]
        replacement.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.replace(replacement, self._path)
        return str(self._path)

    @abstractmethod
    def line(self, name: str, secret: str) -> str:
        """Return the line of a name."""

    def forget(self, principal: str) -> None:
        del self._secrets[principal.partition(":")[2]]
        self.write()


class _TokenControl(_FileControl):
    scheme = "token"

    def options(self) -> Mapping[str, object]:
        return {"tokens": self.write()}

    def line(self, name: str, secret: str) -> str:
        return f"{name} {secret}"

    def credentials(self) -> Mapping[str, Credentials]:
        return {f"token:{name}": Credentials(token=Secret(secret)) for name, secret in self._secrets.items()}


class _ScramControl(_FileControl):
    scheme = "scram-sha-256"
    rounds = 4_096
    """What RFC 7677 asks for at least: verifiers from elsewhere have it, and checks log in often."""

    def options(self) -> Mapping[str, object]:
        return {"users": self.write()}

    def line(self, name: str, secret: str) -> str:
        """Return the verifier of RFC 5802, section 3, made here: what is checked has no part in it."""
        salt = hashlib.sha256(name.encode()).digest()[:16]
        salted = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, self.rounds)
        stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        keys = [
            base64.b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
        ]
        return f"{name}:SCRAM-SHA-256${self.rounds}:{keys[0]}${keys[1]}:{keys[2]}"

    def credentials(self) -> Mapping[str, Credentials]:
        return {
            f"user:{name}": Credentials(user=name, password=Secret(secret)) for name, secret in self._secrets.items()
        }


class _TlsControl(LoginControl):
    scheme = "tls"

    def options(self) -> Mapping[str, object]:
        return {}

    def peers(self) -> Mapping[str, Peer]:
        return {f"tls:{text}": Peer(address="127.0.0.1:1", tls_subject=text) for text in ("CN=ada", "CN=Ada,O=x y")}


class _UnixControl(LoginControl):
    scheme = "unix"

    def options(self) -> Mapping[str, object]:
        return {}

    def peers(self) -> Mapping[str, Peer]:
        me = f"unix:{pwd.getpwuid(os.geteuid()).pw_name}"
        return {
            me: Peer(address="a", user_id=os.geteuid()),
            "unix:4000000001": Peer(address="a", user_id=4_000_000_001),
        }


OWN: Mapping[str, type[LoginControl]] = {
    one.scheme: one for one in (_ScramControl, _TokenControl, _TlsControl, _UnixControl)
}
"""Of those that come with mqcore."""
