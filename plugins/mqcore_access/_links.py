"""Identity that the link brings: the subject of a verified certificate, the credentials of a Unix socket's peer."""

from __future__ import annotations

import pwd
from typing import ClassVar

from mqcore.abc import Authenticator, Peer, Transport
from mqcore_access._config import NoOptions

__all__ = ["TlsAuthenticator", "UnixAuthenticator"]


class TlsAuthenticator(Authenticator):
    """``tls:SUBJECT``, where the listener asks clients for certificates (``client_ca``) and this one was verified."""

    options_class: ClassVar[type[NoOptions]] = NoOptions

    def principal_of(self, peer: Peer) -> str | None:
        """Return ``tls:`` and the subject as RFC 4514 writes it, such as ``tls:CN=alice,O=Example``."""
        return f"tls:{peer.tls_subject}" if peer.tls_subject else None

    def lacks(self, listener: Transport) -> str:
        """See ``Authenticator``."""
        abilities = listener.capabilities
        if abilities.encrypted and abilities.authenticated:
            return ""
        return "name client_ca (--client-ca) and listen on tls://, where clients show certificates"


class UnixAuthenticator(Authenticator):
    """``unix:NAME`` of the user whose process is at the other end of a Unix socket; of a number without a name,
    ``unix:NUMBER``.
    """

    options_class: ClassVar[type[NoOptions]] = NoOptions

    def principal_of(self, peer: Peer) -> str | None:
        """Return ``unix:`` and the name of the peer's user."""
        if peer.user_id is None:
            return None
        try:
            return f"unix:{pwd.getpwuid(peer.user_id).pw_name}"
        except KeyError:
            return f"unix:{peer.user_id}"

    def lacks(self, listener: Transport) -> str:
        """See ``Authenticator``."""
        abilities = listener.capabilities
        if abilities.local_only and abilities.authenticated:
            return ""
        return "listen on unix:// too, where the system tells whose process is there"
