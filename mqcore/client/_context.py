"""What everything in one client shares: options, limits, chance and clocks. Must not know of servers or messages."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from mqcore.client._backoff import Backoff
from mqcore.client._options import ClientOptions
from mqcore.limits import Limits

__all__ = ["ClientContext"]


@attrs.frozen
class ClientContext:
    """``limits`` are the client's own; a server's are met where its welcome is known. ``wall_ns``: since 1970 UTC."""

    options: ClientOptions
    limits: Limits
    random: random.Random
    wall_ns: Callable[[], int]
    backoff: Backoff
