"""Who a peer is (``tls``, ``unix``, ``scram-sha-256``, ``token``), what it may do (``rules``), and ``mqcore user``."""

from mqcore_access._command import UserCommand
from mqcore_access._links import TlsAuthenticator, UnixAuthenticator
from mqcore_access._rules import RulesAuthorizer
from mqcore_access._scram import ScramAuthenticator
from mqcore_access._token import TokenAuthenticator

__all__ = [
    "RulesAuthorizer",
    "ScramAuthenticator",
    "TlsAuthenticator",
    "TokenAuthenticator",
    "UnixAuthenticator",
    "UserCommand",
]
