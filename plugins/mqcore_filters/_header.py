"""``header:NAME=VALUE|VALUE``: messages that have a header of that name with one of the values, as UTF-8.

``header:NAME`` alone asks for the name only.
"""

from __future__ import annotations

from mqcore.abc import Filter, FilterInput
from mqcore.errors import ConfigurationError

__all__ = ["HeaderFilter"]


class HeaderFilter(Filter):
    """Looks at the headers of a message."""

    def __init__(self, expression: str) -> None:
        super().__init__(expression)
        self._name, equals, values = expression.partition("=")
        self._values = frozenset(value.encode() for value in values.split("|")) if equals else None
        if not self._name:
            raise ConfigurationError(f"filter header:{expression}: write header:NAME=VALUE|VALUE, or header:NAME")

    def matches(self, message: FilterInput) -> bool:
        """Whether one of the headers is as asked for."""
        return any(
            name == self._name and (self._values is None or value in self._values) for name, value in message.headers
        )
