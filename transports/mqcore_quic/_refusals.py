"""What ends a connection, in words: from the alerts of TLS and what the engines say of a certificate."""

from __future__ import annotations

from mqcore.errors import TransportError
from mqcore_quic._engine import LinkEnded

__all__ = ["CODE_BROKEN_RULE", "CODE_DONE", "CODE_TOO_MUCH", "EXPIRED", "ending_in_words"]

CODE_DONE = 0
"""Of a connection that was closed in order."""
CODE_BROKEN_RULE = 2
CODE_TOO_MUCH = 3
EXPIRED = "the server's certificate has expired since it was connected to: renew it, and it is connected to again"
CRYPTO_ERRORS = range(0x100, 0x200)
"""Codes that stand for alerts of TLS (RFC 9001, section 4.8)."""
_OTHER_NAME = "it is not for this name: connect to a name that it has, or give server_name (MQCORE_TLS_SERVER_NAME)"
_REMEDIES = {
    "expired": "it is expired: the server needs a new one",
    "no longer valid": "it is expired: the server needs a new one",
    "not valid yet": "it is not valid yet: is the clock of one of the machines wrong?",
    "not yet valid": "it is not valid yet: is the clock of one of the machines wrong?",
    "self": "it is signed by itself: name it, or its authority, as ca (--ca FILE)",
    "issuer": "its authority is not known here: name that as ca (--ca FILE)",
    "unacceptable": "it is expired, not valid yet, not for this name, or signed by another authority of the same name "
    "(engine=aioquic says which)",
    "hostname": _OTHER_NAME,
    "doesn't match": _OTHER_NAME,
}


def _refusal_in_words(event: LinkEnded) -> str:
    reason = event.reason.lower()
    known = next((text for name, text in _REMEDIES.items() if name in reason), None)
    if known is not None:
        return f"the server's certificate is refused: {known}"
    return f"no handshake: {event.reason or f'alert {event.code - CRYPTO_ERRORS.start} of TLS'}"


def ending_in_words(event: LinkEnded, where: str) -> TransportError:
    """Return why the connection to ``where`` is over."""
    if event.is_application and event.code == CODE_DONE:
        return TransportError(f"{where}: the peer has ended the connection")
    if event.code in CRYPTO_ERRORS and not event.is_application:
        return TransportError(f"{where}: {_refusal_in_words(event)}", retryable=False)
    return TransportError(f"{where}: the connection ended: {event.reason or f'code {event.code:#x}'}")
