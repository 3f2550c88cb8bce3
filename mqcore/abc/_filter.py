"""Contract of a filter: which messages of a topic a consumer's program gets. It runs at the consumer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Filter", "FilterInput"]


class FilterInput(Protocol):
    """What a filter sees of a message."""

    @property
    def topic(self) -> str:
        """The topic it was read from."""
        ...

    @property
    def partition(self) -> int:
        """Its partition."""
        ...

    @property
    def offset(self) -> int:
        """Its offset there."""
        ...

    @property
    def key(self) -> bytes | None:
        """Its key; None without one."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Names and values in their order, a name possibly more than once."""
        ...

    @property
    def tag(self) -> str | None:
        """Its tag; None without one."""
        ...

    @property
    def value(self) -> bytes:
        """Its payload."""
        ...

    @property
    def timestamp_ms(self) -> int:
        """When its producer made it, ms since 1970 UTC."""
        ...


class Filter(ABC):
    """A filter part, picked by the name before the first ``:`` of ``NAME:EXPRESSION``.

    The constructor takes the expression and raises ``ConfigurationError`` for one that cannot be; it names it and says
    what is allowed. A filter keeps nothing between messages: a message may be looked at again.
    """

    tags: Sequence[str] = ()
    """Tags of which each message that matches has one: the broker then passes over what has none of them. Empty: it may
    match any message. All else runs at the consumer, on what comes."""

    def __init__(self, expression: str) -> None:
        self.expression = expression

    @abstractmethod
    def matches(self, message: FilterInput) -> bool:
        """Return whether the program gets ``message``. Does not block.

        What it raises is told as an error of the consumer, or of the handler: no message is passed over by it.
        """
