"""The server of a coordinator, in the suite's hands: what its author gives, so that faults can strike it.

An author derives one class from ``ServerControl`` and names it as ``MODULE:CLASS``: on the command line (``--server``),
in ``[tool.mqcore.conformance]`` (``servers``), or by ``use_server`` in a test module. Each check that wants a server
makes one object of it, in a process of its own, and gets a server that has nothing stored; checks run side by side.

- The constructor gets an empty folder for files; it does no I/O. ``start`` starts the server, on free ports of the
  loopback interface, and returns the URL that clients compose their coordinator from; ``close`` ends it, whatever
  state it is in, and everything that it started.
- What a server cannot do is left out: the checks that ask for it then say NOT CLAIMED. ``freeze`` is SIGSTOP of all of
  it, ``thaw`` SIGCONT, ``kill`` SIGKILL, ``restart`` starts it again with the same files and ports. ``backup`` keeps a
  copy of what is stored now, ``restore`` stops the server, puts the copy back and starts it again.
- An ensemble gives a URL for each member by ``member_urls``, with that member as its only address, and can ``freeze``,
  ``thaw`` and ``kill`` one of them by its number; None is all of it. Which one leads is ``leader``.

Methods are ordinary functions that may block for as long as the server takes; the suite calls them in threads of
Trio's, one at a time. ``close`` is called after a check that failed, too; one that hangs for good is killed, and its
server with it if it was started with ``PR_SET_PDEATHSIG``. That is about the end of the starting thread: start it by
``trio.from_thread.run_sync`` in the main one.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from mqcore.errors import ConfigurationError
from mqcore_conformance.contract._checks import NotApplicable
from mqcore_conformance.contract._login_control import LoginControl, use_logins

__all__ = ["FolderServer", "ServerControl", "name_of_server", "server_of", "use_server"]

_SERVERS: dict[str, type[ServerControl]] = {}


class ServerControl(ABC):
    """One server, or one ensemble, of the coordinators of ``scheme``. See the module."""

    scheme: str
    """Scheme of the coordinators that it serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def start(self) -> str:
        """Start it with nothing stored and return the URL of a coordinator on it; it answers when this returns."""

    @abstractmethod
    def close(self) -> None:
        """End it and everything that it started. Idempotent; works for one that is frozen, killed or half started."""

    def freeze(self, member: int | None = None) -> None:
        """Stop every process of it, or of one member, until ``thaw``; connections stay."""
        raise NotApplicable(f"the control of {self.scheme} cannot freeze its server")

    def thaw(self, member: int | None = None) -> None:
        """Let it go on."""
        raise NotApplicable(f"the control of {self.scheme} cannot thaw its server")

    def kill(self, member: int | None = None) -> None:
        """End every process of it, or of one member, without warning."""
        raise NotApplicable(f"the control of {self.scheme} cannot kill its server")

    def restart(self, member: int | None = None) -> None:
        """Start what was killed, on the same files and ports; it answers when this returns."""
        raise NotApplicable(f"the control of {self.scheme} cannot start its server again")

    def backup(self) -> None:
        """Keep a copy of everything that is stored now."""
        raise NotApplicable(f"the control of {self.scheme} cannot copy what its server has stored")

    def restore(self) -> None:
        """Put the copy back in the place of what is stored; the server was stopped meanwhile, and answers again."""
        raise NotApplicable(f"the control of {self.scheme} cannot put an old copy back")

    def member_urls(self) -> Sequence[str]:
        """Return a URL for each member of an ensemble, with no other address in it."""
        raise NotApplicable(f"the server of {self.scheme} is no ensemble")

    def leader(self) -> int:
        """Return the number of the member that leads now, as ``member_urls`` counts them."""
        raise NotApplicable(f"the server of {self.scheme} is no ensemble")


class FolderServer(ServerControl):
    """The "server" of a coordinator whose URL has ``{dir}``: its files, which can be copied and put back."""

    def __init__(self, folder: Path, url: str = "") -> None:
        super().__init__(folder)
        self.scheme = url.partition(":")[0]
        self._url = url
        self._data = folder / "data"
        self._copy = folder / "copy"

    def start(self) -> str:
        self._data.mkdir()
        return self._url.replace("{dir}", str(self._data))

    def close(self) -> None:
        pass

    def backup(self) -> None:
        shutil.copytree(self._data, self._copy)

    def restore(self) -> None:
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data)


def use_server(server: type[ServerControl | LoginControl] | str) -> None:
    """Use ``server``, a class or ``MODULE:CLASS``, for the coordinators of its scheme in this process.

    Takes the users of an authenticator (``LoginControl``) likewise.

    Raises ``ConfigurationError`` in one line for a name that is none.
    """
    found = _loaded(server) if isinstance(server, str) else server
    if issubclass(found, LoginControl):
        use_logins(found)
    else:
        _SERVERS[found.scheme] = found


def _loaded(text: str) -> type[ServerControl | LoginControl]:
    module, colon, name = text.partition(":")
    sys.path.insert(0, os.getcwd())  # a command does not find the modules of the folder in which it is typed
    try:
        found = getattr(importlib.import_module(module), name) if colon else None
    except Exception as error:
        raise ConfigurationError(f"server {text!r} cannot be loaded: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    if not (isinstance(found, type) and issubclass(found, ServerControl | LoginControl)):
        raise ConfigurationError(
            f"server {text!r} is no class derived from ServerControl or LoginControl; write MODULE:CLASS"
        )
    return found


def name_of_server(url: str) -> str:
    """Return ``MODULE:CLASS`` of the class in use for the coordinator at ``url``; empty when there is none."""
    found = server_of(url.partition(":")[0])
    return "" if found is None else f"{found.__module__}:{found.__qualname__}"


def server_of(scheme: str) -> type[ServerControl] | None:
    """Return the class in use for the coordinators of ``scheme``, None when there is none."""
    return _SERVERS.get(scheme)
