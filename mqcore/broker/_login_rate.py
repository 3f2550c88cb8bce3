"""How many logins may fail, counted for each address they come from: a bucket for each, so many a minute, bounded.

An attempt is charged before its outcome is known, so that many at once are counted as many. Must not know what a login
is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address

from mqcore.abc import Peer

__all__ = ["ADDRESSES_MAX", "LoginRate", "origin_of"]

ADDRESSES_MAX = 4096
_MINUTE_S = 60.0
_NETWORK_BITS = 64
"""What an IPv6 host has at the least, each of whose addresses is its own (RFC 4291, section 2.5.1)."""


def origin_of(peer: Peer) -> str:
    """Return what the attempts of ``peer`` are counted by: its host, of IPv6 its network; or its user on this machine.

    The text is for people too.
    """
    if peer.user_id is not None:
        return f"user {peer.user_id}"
    host = peer.address.rpartition(":")[0] or peer.address
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return host  # no address of a network: a name of the transport's own
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((address, _NETWORK_BITS), strict=False))


class LoginRate:
    """Of each origin ``most`` attempts a minute may fail. ``now``: seconds of a clock that does not go back."""

    def __init__(self, most: int, now: Callable[[], float]) -> None:
        self._most = float(most)
        self._now = now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many origins are counted; beyond ``ADDRESSES_MAX`` the one that was quiet longest is forgotten."""
        return len(self._left)

    def charge(self, origin: str) -> float:
        """Take one attempt from ``origin``; return how many seconds it has to wait, 0 where it need not."""
        now = self._now()
        left, since = self._left.pop(origin, (self._most, now))
        left = min(self._most, left + (now - since) * self._most / _MINUTE_S)
        self._left[origin] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > ADDRESSES_MAX:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) * _MINUTE_S / self._most

    def refund(self, origin: str) -> None:
        """Give back an attempt that has not failed; an origin that owes nothing any more is forgotten."""
        left, since = self._left.pop(origin, (self._most - 1, self._now()))
        if left + 1 < self._most:
            self._left[origin] = (left + 1, since)
