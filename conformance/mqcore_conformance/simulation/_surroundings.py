"""What clients of the suite need of the world that they live in: a simulation, or processes on a real machine."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from mqcore.ports import Clock
from mqcore_conformance.histories import Event

if TYPE_CHECKING:
    from mqcore_conformance.simulation._session import Session

__all__ = ["Hosts", "Surroundings"]


class Hosts(Protocol):
    """Where sockets are made."""

    def host(self, name: str) -> AbstractContextManager[object]:
        """Let sockets made in the block belong to the host ``name``."""
        ...


class Surroundings(Protocol):
    """A world as its clients see it."""

    history: list[Event]
    life: int
    url: str
    stored: list[tuple[str, int, bytes]]

    @property
    def clock(self) -> Clock:
        """The clock of messages' timestamps."""
        ...

    @property
    def network(self) -> Hosts:
        """The network."""
        ...

    def record(self, event: Event) -> None:
        """Add an event to the history."""
        ...

    def now_us(self) -> int:
        """Microseconds since the start."""
        ...

    def acknowledged(self) -> None:
        """Count an acknowledgement."""
        ...

    def changed(self) -> None:
        """Say that something changed that others may wait for."""
        ...

    def name_topic(self, topic_id: str, name: str) -> str:
        """Return what a topic is called in the history."""
        ...

    def life_of(self, node: str, epoch: int) -> int:
        """Return the life that reigns under ``epoch`` on the storage ``node``."""
        ...

    def swallows(self, life: int) -> bool:
        """Whether nothing from ``life`` can arrive any more."""
        ...

    def new_producer_id(self) -> int:
        """Return a producer id that nobody had."""
        ...

    async def connect(self) -> Session:
        """Connect to the broker that serves. Raises ``SessionLost``."""
        ...
