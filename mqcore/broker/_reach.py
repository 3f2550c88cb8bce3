"""Whether what serves the processes of one host only is reached by every node of a set. Must not open anything."""

from __future__ import annotations

from mqcore.config import NodeTable, SetTable
from mqcore.errors import ConfigurationError, RefusedError
from mqcore.url import Url

__all__ = ["check_reach"]

_THIS_HOST = frozenset({"localhost", "127.0.0.1", "::1"})


def check_reach(what: str, own_set: SetTable) -> None:
    """Refuse ``what``, which serves one host, for a set on several: each node would have one of its own.

    Raises ``RefusedError``.
    """
    first, *others = own_set.nodes
    for node in others:
        if not _hosts(first) & _hosts(node):
            raise RefusedError(
                f"{what} serves the processes of one host, and the nodes {first.name} and {node.name} of the set "
                f"{own_set.name!r} have none in common: use one that is reached over the network"
            )


def _hosts(node: NodeTable) -> set[str]:
    found = set()
    for url in map(Url.parse, node.urls):
        try:
            host = url.address[0]
        except ConfigurationError:  # no host in it: within this machine
            host = ""
        found.add("" if host in _THIS_HOST else host)
    return found
