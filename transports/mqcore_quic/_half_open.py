"""Handshakes under way at a listener: when a client has to prove its address, and which one gives way. No I/O.

Who may be anybody is bounded by having to prove an address (``unproved_max``). Proved ones are bounded apart, all of
them and those of one network, and beyond that the oldest gives way: an honest one is done within a few round trips.
"""

from __future__ import annotations

import socket
from typing import Any, Generic, TypeVar

__all__ = ["HalfOpen", "network_of"]

L = TypeVar("L")
"""The class of connections."""
NETWORK_SHARE = 4
"""One network has at most a quarter of the proved ones."""
_IPV6_NETWORK_BYTES = 8
"""A /64 is what one subscriber has; each address in it is free to take."""


class HalfOpen(Generic[L]):
    """Connections whose handshake is not done, in the order in which they began."""

    def __init__(self, unproved_max: int, proved_max: int) -> None:
        self._unproved_max = unproved_max
        self._proved_max = proved_max
        self._network_max = max(1, proved_max // NETWORK_SHARE)
        self._unproved: dict[L, None] = {}
        self._proved: dict[L, bytes | str] = {}
        self._networks: dict[bytes | str, dict[L, None]] = {}

    def __len__(self) -> int:
        return len(self._unproved) + len(self._proved)

    @property
    def must_prove(self) -> bool:
        """Whether the next client has to prove its address."""
        return len(self._unproved) >= self._unproved_max

    def giving_way(self, address: Any) -> L | None:
        """Return the one that has to go before a proved one of ``address`` comes; None where there is room.

        The oldest of the network that has its share; of all, the oldest of the network that has most: many addresses
        take room from each other before they take it from somebody who has begun one handshake.
        """
        of_network = self._networks.get(network_of(address), {})
        if len(of_network) >= self._network_max:
            return next(iter(of_network))
        if len(self._proved) >= self._proved_max:
            largest: dict[L, None] = max(self._networks.values(), key=len)
            return next(iter(largest))
        return None

    def oldest(self) -> L | None:
        """Return the one that goes where there may be no more connections at all; proved ones last."""
        return next(iter(self._unproved), None) or next(iter(self._proved), None)

    def add(self, link: L, address: Any, *, is_proved: bool) -> None:
        """Take in a new one."""
        if is_proved:
            network = self._proved[link] = network_of(address)
            self._networks.setdefault(network, {})[link] = None
        else:
            self._unproved[link] = None

    def discard(self, link: L) -> None:
        """Its handshake is done, or over. Idempotent."""
        self._unproved.pop(link, None)
        network = self._proved.pop(link, None)
        if network is not None:
            of_network = self._networks[network]
            del of_network[link]
            if not of_network:
                del self._networks[network]


def network_of(address: Any) -> bytes | str:
    """Return by what handshakes of ``address`` (a socket's) are counted: an address of IPv4, a /64 of IPv6."""
    host: str = address[0]
    if ":" not in host:
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:_IPV6_NETWORK_BYTES]
