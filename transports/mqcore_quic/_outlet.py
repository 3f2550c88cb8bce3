"""What a connection asks of the endpoint that it is on. Types only."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

__all__ = ["LinkEndpoint"]

L = TypeVar("L", contravariant=True)
"""The class of connections."""


class LinkEndpoint(Protocol[L]):
    """What a connection asks of its endpoint."""

    def send(self, datagrams: list[tuple[bytes, Any]]) -> None:
        """Send them, or keep them until there is room."""
        ...

    def flush_soon(self, link: L) -> None:
        """Have ``flush_now`` called when the tasks that can run now have had their turn."""
        ...

    def arm(self, link: L) -> None:
        """Have ``on_time`` called when it is ``link.armed``, which has changed."""
        ...

    def add_id(self, connection_id: bytes, link: L) -> None:
        """Have datagrams for an id come to this connection."""
        ...

    def remove_id(self, connection_id: bytes) -> None:
        """Have them not come any more."""
        ...

    def forget(self, link: L) -> None:
        """The connection is over."""
        ...

    def ready(self, link: L) -> None:
        """Its handshake is done."""
        ...

    async def ended(self) -> None:
        """Wait until nothing of it runs any more, if it was closed."""
        ...
