"""``key:PREFIX``: messages whose key begins with these characters, as UTF-8. A message without a key has no prefix."""

from __future__ import annotations

from mqcore.abc import Filter, FilterInput
from mqcore.errors import ConfigurationError

__all__ = ["KeyFilter"]


class KeyFilter(Filter):
    """Looks at the key of a message."""

    def __init__(self, expression: str) -> None:
        super().__init__(expression)
        if not expression:
            raise ConfigurationError("filter key: is empty: write key:PREFIX, as in key:order-")
        self._prefix = expression.encode()

    def matches(self, message: FilterInput) -> bool:
        """Whether the key begins as asked for."""
        return message.key is not None and message.key.startswith(self._prefix)
