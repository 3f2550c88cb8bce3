"""A connection to a broker, as the common options say. Imported by the verbs that talk to one."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from mqcore.cli.shell import Settings
from mqcore.client import Client, connect

__all__ = ["connected"]


def connected(settings: Settings) -> AbstractAsyncContextManager[Client]:
    """Connect to the first of the servers that answers within ``--timeout``; ``NotReachedError`` when none does."""
    return connect(
        *settings.server_urls,
        name="mqcore command line",
        **settings.tls,
        **settings.login,
        connect_timeout_ms=settings.timeout_ms,
        request_timeout_ms=max(settings.timeout_ms, 1),
    )
