"""What everything in one client shares: options, limits, chance and clocks. Must not know of servers or messages."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from mqcore.abc import Credentials, Transport, TransportContext
from mqcore.client._backoff import Backoff
from mqcore.client._options import ClientOptions
from mqcore.limits import Limits
from mqcore.logins import transport_as
from mqcore.registry import create_transport

__all__ = ["ClientContext"]


@attrs.frozen
class ClientContext:
    """``limits`` are the client's own; a server's are met where its welcome is known. ``wall_ns``: since 1970 UTC.

    ``links`` is what every transport of the client is given, ``credentials`` what it logs in with.
    """

    options: ClientOptions
    limits: Limits
    random: random.Random
    wall_ns: Callable[[], int]
    backoff: Backoff
    links: TransportContext
    credentials: Credentials | None = None

    def transport(self, url: str) -> Transport:
        """Return the transport to a server. Raises ``ConfigurationError``, ``PluginError``."""
        return transport_as(self.credentials, create_transport(url, self.links))
